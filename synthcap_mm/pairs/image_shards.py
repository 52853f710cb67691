"""Shards of the images table: pictures come from here, are encoded, tagged and written over there."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from PIL.Image import Image

from synthcap_mm.pairs.background import Background
from synthcap_mm.pairs.image_reader import ImageReader
from synthcap_mm.pairs.progress import Progress
from synthcap_mm.stores import StoreWriter
from synthcap_mm.stores.schema import images_table
from synthcap_mm.stores.tar_images import TarImageWriter
from synthcap_mm.structures import Tag


class ImageRow(NamedTuple):
    """A row of the images table before it is made.

    Attributes:
        key: the image's key.
        source: what the picture is made of: anything that the loading function takes.
        caption: stands beside a kept picture.
    """

    key: str
    source: Any
    caption: str = ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or off it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def halved(size: int, what: str, error: BaseException) -> int:
    """Half a batch after memory ran out; says so.

    Args:
        size: the batch that did not fit.
        what: what it is a batch of, for the message.
        error: what was raised.

    Raises:
        RuntimeError: if nothing is left to halve.
    """
    if size == 1:
        raise RuntimeError(
            f"out of memory with a single one of the {what}: {error}. Use a smaller model or picture, a lower "
            "precision, or a device with more memory."
        ) from error
    print_log(
        f"out of memory with {size} {what} at once; going on with {size // 2}, the unfinished shard from its beginning",
        logger="current",
        level=30,
    )
    return size // 2


def free_memory() -> None:
    """Give back what a failed batch held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Shards:
    """Collects batches in their order and writes a shard at its end; runs in the background."""

    def __init__(self, maker: ImageShards, info: dict[str, Any]) -> None:
        self._maker, self._info = maker, info
        self.done: set[int] = set()
        self.counted = 0
        self._context: AbstractContextManager[TarImageWriter] | None = None
        self._start()

    def _start(self) -> None:
        self._features: list[np.ndarray] = []
        self._tags: list[list[Tag]] = []
        self._flags: list[list[str]] = []
        self._keys: list[str] = []
        self._tar: TarImageWriter | None = None
        self.counted = 0

    def __call__(self, item: tuple[int, Sequence[ImageRow], Sequence[Image | None]]) -> None:
        shard, rows, images = item
        try:
            if rows:
                self._take(shard, rows, images)
            else:
                self._finish(shard)
        except BaseException as error:
            self.discard(error)
            raise

    def _take(self, shard: int, rows: Sequence[ImageRow], images: Sequence[Image | None]) -> None:
        maker = self._maker
        if maker.image_format is not None and self._context is None:
            context = maker.writer.tar_images(shard, maker.image_format)
            self._tar = context.__enter__()
            self._context = context
        features, tags, flags = maker.reader(images)
        self._features.append(features)
        self._tags += tags
        self._flags += flags
        self._keys += [row.key for row in rows]
        if self._tar is not None:
            for row, image in zip(rows, images):
                self._tar.add(row.key, image, row.caption)
        self.counted += len(rows)
        maker.bar.update(len(rows))

    def _finish(self, shard: int) -> None:
        # The kept pictures first: a shard counts as whole when its table is.
        context, self._context = self._context, None
        if context is not None:
            context.__exit__(None, None, None)
        table = images_table(self._keys, np.concatenate(self._features), self._tags, self._flags)
        kinds = Counter(flag for flags in self._flags for flag in flags)
        flagged = sum(map(bool, self._flags))
        info = {**self._info, **self._maker.info_of(shard)}
        self._maker.writer.write("images", shard, table, flagged=flagged, flags=dict(sorted(kinds.items())), **info)
        self.done.add(shard)
        self._start()

    def discard(self, error: BaseException) -> None:
        """Leave nothing of the unfinished shard."""
        context, self._context = self._context, None
        if context is not None:
            context.__exit__(type(error), error, error.__traceback__)


class ImageShards:
    """Makes shards of the images table; loading the next batch does not wait for encoding, tagging or disk.

    Args:
        writer: of the store.
        reader: encodes and tags.
        bar: counts images.
        batch_size: pictures at a time; when memory runs out it is halved for good,
            and the unfinished shard begins anew, so that every shard is made with
            one batch size, which its record tells.
        image_format: keep the pictures in this format. Default ``None``: drop them.
        device: where the reader computes. Default: the CPU.
        info_of: what the record of a shard says besides, by the shard's number. Default: nothing.
        **info: for the records of all shards.
    """

    def __init__(
        self,
        writer: StoreWriter,
        reader: ImageReader,
        bar: Progress,
        batch_size: int,
        image_format: str | None = None,
        device: torch.device | None = None,
        info_of: Callable[[int], dict[str, Any]] = lambda shard: {},
        **info: Any,
    ) -> None:
        self.writer, self.reader, self.bar = writer, reader, bar
        self.batch_size, self.image_format, self.device, self.info = batch_size, image_format, device, info
        self.info_of = info_of

    def make(
        self,
        shards: Sequence[int],
        rows_of: Callable[[int], Sequence[ImageRow]],
        load: Callable[[Sequence[ImageRow]], Sequence[Image | None]],
    ) -> None:
        """Make shards.

        Args:
            shards: their numbers.
            rows_of: the rows of a shard.
            load: pictures of some rows; ``None`` for one that does not decode.

        Raises:
            RuntimeError: if memory runs out with one picture.
            StoreError: if a shard cannot be written.
        """
        todo = list(shards)
        while todo:
            sink = _Shards(self, {"batch_size": self.batch_size, **self.info})
            try:
                with Background(sink, device=self.device) as background:
                    for shard in todo:
                        rows = rows_of(shard)
                        for start in range(0, len(rows), self.batch_size):
                            part = rows[start : start + self.batch_size]
                            background.put((shard, part, load(part)))
                        background.put((shard, (), ()))
                return
            except BaseException as error:
                sink.discard(error)
                if not is_out_of_memory(error):
                    raise
                self.batch_size = halved(self.batch_size, "pictures", error)
            free_memory()
            self.bar.update(-sink.counted)
            todo = [shard for shard in todo if shard not in sink.done]
