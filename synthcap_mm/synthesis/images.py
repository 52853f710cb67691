"""The images stage: pictures are drawn or read, encoded, tagged and, if asked for, kept."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from PIL.Image import Image

from synthcap_mm.background import Background
from synthcap_mm.files import file_sha256, names_in, write_once
from synthcap_mm.progress import Progress
from synthcap_mm.store import Table
from synthcap_mm.store.checking import other_encoder
from synthcap_mm.store.pictures import PictureTar, decode_picture, encode_picture, places_in
from synthcap_mm.store.schema import image_feature_rows, image_rows, picture_rows, tag_rows, tags_from_arrow
from synthcap_mm.store.store import read_picture
from synthcap_mm.store.tables import Expected, ShardedTable, read_shard
from synthcap_mm.synthesis.image_reader import ImageReader
from synthcap_mm.synthesis.memory_limits import smaller_batch
from synthcap_mm.synthesis.run import Stage


class ImageRow(NamedTuple):
    """A row of the images table before it is made.

    Attributes:
        key: the image's key.
        source: what the picture is made of: anything that the loading function takes.
        caption: stands beside a kept picture.
        domain: the part of a test set that it belongs to.
    """

    key: str
    source: Any
    caption: str = ""
    domain: str | None = None


def draw(generator: Any, rows: Sequence[ImageRow]) -> list[Image]:
    """A generator's pictures of some rows, whose sources are a caption and a seed.

    Raises:
        RuntimeError: if it draws another number of them.
    """
    captions, seeds = zip(*(row.source for row in rows))
    images = generator.generate(list(captions), list(seeds))
    if len(images) != len(rows):
        raise RuntimeError(f"{type(generator).__name__} drew {len(images)} images for {len(rows)} captions")
    return images


def load_photos(photos: Any, rows: Sequence[ImageRow]) -> list[Image | None]:
    """A photo source's pictures of some rows; ``None``, and a line in the log, for one that does not decode."""
    images: list[Image | None] = []
    for row in rows:
        try:
            images.append(photos.load(row.source))
        except ValueError as error:
            print_log(f"{row.key}: {error}", logger="current", level=30)
            images.append(None)
    return images


class EarlierRows:
    """Rows that were drawn for a caption when it stood in another shard.

    A sentence that is inserted, or appended to a shard that was not full, makes other shards of the same rows; those
    that were drawn are copied.

    Args:
        texts: the table of the captions, whose shards are named as those of the images.
        tables: the images' tables by name; all must have a row.
        captions_of: the captions of a shard.
        per_caption: images a caption.
    """

    def __init__(
        self, texts: Table, tables: Mapping[str, Table], captions_of: Callable[[int], Sequence[Any]], per_caption: int
    ) -> None:
        self._tables, self._captions_of, self._per_caption = tables, captions_of, per_caption
        there = set.intersection(*(names_in(table.folder) for table in (texts, *tables.values())))
        self._place: dict[tuple[str, str], tuple[str, int]] = {}
        for name in sorted(there - {*texts.names}):
            self._place |= {caption: (name, row) for row, caption in enumerate(captions_in(texts, name))}

    def of(self, shard: int) -> dict[int, tuple[str, int]]:
        """Row of a shard → shard and row where it was drawn before, for those that were."""
        found = {}
        for i, caption in enumerate(self._captions_of(shard)):
            if place := self._place.get((caption.id, caption.text)):
                for j in range(self._per_caption):
                    found[i * self._per_caption + j] = (place[0], place[1] * self._per_caption + j)
        return found

    def read(self, table: str, place: tuple[str, int]) -> Any:
        """What a table has in a row: a feature and its flags, tags, or the bytes of a kept picture."""
        path = self._tables[table].folder / place[0]
        shard, row = ShardedTable([path], [Expected(read_shard(path).num_rows)]), place[1]
        if _is_features(table):
            return shard.feature(row).astype(np.float32), shard.value("flags", row)
        if table == "tags":
            return tags_from_arrow(shard.value("tags", row))
        with open(path.with_suffix(".tar"), "rb") as file:
            file.seek(shard.value("offset", row))
            return file.read(shard.value("size", row))


def _is_features(table: str) -> bool:
    return table.partition("/")[0] == "image_features"


def captions_in(texts: Table, name: str) -> list[tuple[str, str]]:
    """Id and text of each caption of a shard, by the shard's name; none of what is no shard."""
    if not name.endswith(".arrow"):
        return []
    shard = read_shard(texts.folder / name)
    return list(zip(shard.column("id").to_pylist(), shard.column("text").to_pylist()))


class ImageStage(Stage):
    """Makes the tables of images; loading the next batch does not wait for encoding, tagging or the disk.

    Args:
        name: of the stage.
        tables: of ``images``, ``image_features``, ``image_features/NAME``, ``tags`` and ``pictures`` those that are
            wanted, by name.
        sizes: images of each shard.
        rows_of: the rows of a shard.
        load: pictures of some rows; ``None`` for one that does not decode.
        reader: gives what encodes and tags, built when it is first needed.
        batch_size: pictures at a time. Where memory runs out it is halved for good, and unfinished shards begin anew,
            so that every shard is made with one batch size.
        picture_format: of kept pictures. With ``'jpg'`` encoder and tagger see the picture as it is kept.
        kept: the pictures table, where pictures may be there already; they are read instead of loaded.
        earlier: finds rows that were drawn before, opened when it is first needed. Default ``None``: none.
        device: where the reader computes.
    """

    def __init__(
        self,
        name: str,
        tables: Mapping[str, Table],
        sizes: Sequence[int],
        rows_of: Callable[[int], Sequence[ImageRow]],
        load: Callable[[Sequence[ImageRow]], Sequence[Image | None]],
        reader: Callable[[], ImageReader],
        batch_size: int,
        picture_format: str | None = None,
        kept: Table | None = None,
        earlier: Callable[[], EarlierRows] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.name, self.unit, self.tables, self.sizes = name, "images", list(tables.values()), list(sizes)
        self.tables_by_name = tables
        self.rows_of, self.load, self.reader = rows_of, load, reader
        self.batch_size, self.picture_format, self.kept, self.device = batch_size, picture_format, kept, device
        self._earlier = earlier

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        shards, begun = iter(shards), []
        reader = self.reader()
        earlier = None if self._earlier is None else self._earlier()

        def in_order() -> Iterator[int]:
            yield from list(begun)
            for shard in shards:
                begun.append(shard)
                yield shard

        while True:
            writer = _ShardWriter(self, reader, progress, begun)
            try:
                with Background(writer, device=self.device) as background:
                    for shard in in_order():
                        for item in self._batches(shard, earlier):
                            background.put(item)
                return
            except BaseException as error:
                writer.discard(error)
                self.batch_size = smaller_batch(self.batch_size, "pictures", error)
            progress.update(-writer.counted)

    def _batches(self, shard: int, earlier: EarlierRows | None) -> Iterator[_Batch]:
        """A shard's work in order: pictures of some rows, at last the rows to be copied and the sign to finish."""
        wanted = {name: table for name, table in self.tables_by_name.items() if not table.path(shard).exists()}
        rows = self.rows_of(shard)
        copies = {} if earlier is None else {i: (earlier, place) for i, place in earlier.of(shard).items()}
        fresh = [i for i in range(len(rows)) if i not in copies]
        needs_pixels = {*wanted} - {"images"}
        for start in range(0, len(fresh) if needs_pixels else 0, self.batch_size):
            part = fresh[start : start + self.batch_size]
            yield _Batch(shard, wanted, rows, copies, part, self._pictures(shard, [rows[i] for i in part], part))
        yield _Batch(shard, wanted, rows, copies, [], [], last=True)

    def _pictures(self, shard: int, rows: Sequence[ImageRow], numbers: Sequence[int]) -> Sequence[Image | None]:
        if self.kept is not None and self.kept.path(shard).exists():
            kept = self.kept.read([shard])
            return [read_picture(kept, i) for i in numbers]
        return self.load(rows)


class _Batch(NamedTuple):
    shard: int
    wanted: dict[str, Table]
    rows: Sequence[ImageRow]
    copies: dict[int, tuple[EarlierRows, tuple[str, int]]]
    numbers: Sequence[int]
    pictures: Sequence[Image | None]
    last: bool = False


class _ShardWriter:
    """Encodes and tags batches in their order and writes a shard at its end; runs in the background."""

    def __init__(self, stage: ImageStage, reader: ImageReader, progress: Progress, begun: list[int]) -> None:
        self._stage, self._reader, self._progress, self._begun = stage, reader, progress, begun
        self._start()

    def _start(self) -> None:
        #: Feature and flags by the name of the table and the row.
        self._features: dict[tuple[str, int], tuple[np.ndarray, list[str]]] = {}
        self._tags: dict[int, list[Any]] = {}
        self._kept: dict[int, bytes] = {}
        self._tar: PictureTar | None = None
        self._tar_file = contextlib.ExitStack()
        self.counted = 0

    def __call__(self, batch: _Batch) -> None:
        try:
            if batch.numbers:
                self._read(batch)
            if batch.last:
                self._finish(batch)
        except BaseException as error:
            self.discard(error)
            raise

    def _read(self, batch: _Batch) -> None:
        stage, pictures = self._stage, list(batch.pictures)
        if stage.picture_format is not None and "pictures" in batch.wanted:
            files = [None if p is None else encode_picture(p, stage.picture_format) for p in pictures]
            for number, data in zip(batch.numbers, files):
                self._kept[number] = data or b""
            self._keep_pictures(batch)
            if stage.picture_format == "jpg":
                pictures = [None if data is None else decode_picture(data) for data in files]
        feats: dict[str | None, torch.Tensor] = {}
        for name in filter(_is_features, batch.wanted):
            features, flags, feats[other_encoder(name)] = self._reader.features(pictures, other_encoder(name))
            self._features |= {(name, row): found for row, *found in zip(batch.numbers, features, flags)}
        if "tags" in batch.wanted:
            self._tags |= zip(batch.numbers, self._reader.tags(pictures, feats))
        self.counted += len(batch.numbers)
        self._progress.update(len(batch.numbers))

    def _copy(self, batch: _Batch) -> None:
        for number, (earlier, place) in batch.copies.items():
            for name in filter(_is_features, batch.wanted):
                self._features[name, number] = earlier.read(name, place)
            if "tags" in batch.wanted:
                self._tags[number] = earlier.read("tags", place)
        self.counted += len(batch.copies)
        self._progress.update(len(batch.copies))

    def _finish(self, batch: _Batch) -> None:
        """Write the shard; its features come last: without them it counts as not begun."""
        self._copy(batch)
        order, wanted, shard = range(len(batch.rows)), batch.wanted, batch.shard
        if "pictures" in wanted:
            self._keep_pictures(batch)
            self._tar.close()
            self._tar_file.close()
            tar = wanted["pictures"].path(shard).with_suffix(".tar")
            # Of the tar that is there: where another worker was faster, it is the other's.
            wanted["pictures"].write(shard, picture_rows(places_in(tar)), tar_sha256=file_sha256(tar))
        if "tags" in wanted:
            wanted["tags"].write(shard, tag_rows([self._tags[i] for i in order]))
        if "images" in wanted:
            keys, domains = [row.key for row in batch.rows], [row.domain for row in batch.rows]
            wanted["images"].write(shard, image_rows(keys, domains))
        for name in sorted(filter(_is_features, wanted), reverse=True):  # the store's own are the last
            features, flags = zip(*(self._features[name, i] for i in order))
            counts = Counter(flag for found in flags for flag in found)
            wanted[name].write(
                shard,
                image_feature_rows(np.stack(features), flags),
                flagged=sum(map(bool, flags)),
                flags=dict(sorted(counts.items())),
                batch_size=self._stage.batch_size,
            )
        self._begun.remove(shard)
        self._start()

    def _keep_pictures(self, batch: _Batch) -> None:
        """Write the pictures that are there into the tar, in the order of the rows."""
        if self._tar is None:
            batch.wanted["pictures"].write_recipe()
            path = batch.wanted["pictures"].path(batch.shard).with_suffix(".tar")
            self._tar = PictureTar(self._tar_file.enter_context(write_once(path)), self._stage.picture_format)
        while (number := self._tar.count) < len(batch.rows):
            if number in batch.copies:
                earlier, place = batch.copies[number]
                data = earlier.read("pictures", place)
            elif number in self._kept:
                data = self._kept.pop(number)
            else:
                return
            self._tar.add(batch.rows[number].key, data, batch.rows[number].caption)

    def discard(self, error: BaseException) -> None:
        """Leave nothing of the unfinished shard."""
        with contextlib.suppress(BaseException):  # what is thrown in comes out again
            self._tar_file.__exit__(type(error), error, error.__traceback__)
