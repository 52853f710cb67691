"""The pairs stage: each caption with its images, drawn for it or found in a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.progress import Progress
from synthcap_mm.store import Table
from synthcap_mm.store.schema import pair_rows
from synthcap_mm.synthesis.run import Stage


def unit(features: np.ndarray) -> np.ndarray:
    """Features as float32 of length 1."""
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


class _PairStage(Stage):
    """What both stages share.

    Args:
        pairs: the table to make.
        text_features: of the captions.
        image_features: of the images.
        captions: all captions.
        spans: captions of each shard.
        per_caption: images a caption.
        seed_of: the seed of a caption's image, by the caption's id and the image's number.
    """

    name, unit = "pairs", "pairs"

    def __init__(
        self,
        pairs: Table,
        text_features: Table,
        image_features: Table,
        captions: Sequence[Any],
        spans: Sequence[range],
        per_caption: int,
        seed_of: Callable[[str, int], int],
    ) -> None:
        self.tables, self.sizes = [pairs], [len(span) * per_caption for span in spans]
        self.reads = [text_features, image_features]
        self._text, self._image = text_features, image_features
        self._captions, self._spans, self._per_caption, self._seed_of = captions, spans, per_caption, seed_of


class DrawnPairs(_PairStage):
    """Pairs a caption with the images that were drawn for it."""

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        k = self._per_caption
        for shard in shards:
            span = self._spans[shard]
            rows = np.repeat(np.arange(span.start, span.stop), k)
            part = self._captions[span.start : span.stop]
            seeds = np.array([self._seed_of(c.id, j) for c in part for j in range(k)])
            text = np.repeat(self._text.read([shard]).features(), k, axis=0)
            image = self._image.read([shard]).features()
            scores = (unit(text) * unit(image)).sum(1)
            images = np.arange(span.start * k, span.stop * k)
            self.tables[0].write(shard, pair_rows(rows, images, seeds, scores))
            progress.update(len(rows))


class RetrievedPairs(_PairStage):
    """Pairs a caption with images of a pool, chosen by a generator that retrieves.

    Args:
        *args: see :class:`DrawnPairs`.
        generator: gives the generator, built when it is first needed.
        device: where it searches.
        chosen_by: text and image features that are compared, of training captions and of held-out ones.
        heldout: which captions are held out. Default ``None``: they are not chosen for otherwise.
    """

    def __init__(
        self,
        *args: Any,
        generator: Callable[[], Any],
        device: torch.device,
        chosen_by: tuple[tuple[Table, Table], tuple[Table, Table]],
        heldout: Table | None = None,
    ) -> None:
        super().__init__(*args)
        texts, images = zip(*chosen_by)
        self.reads, self._images = [self._text, *texts], list(dict.fromkeys([self._image, *images]))
        self.needs = [*self._images, *([] if heldout is None else [heldout])]
        self._generator, self._device, self._chosen_by, self._heldout = generator, device, chosen_by, heldout
        #: The pool's features on the device, by their table, and the table of those that the generator has.
        self._pools: dict[Table, torch.Tensor] = {}
        self._pool: Table | None = None

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        generator, usable = self._generator(), None
        for shard in shards:
            if usable is None:
                usable = self._find_usable()
            span = self._spans[shard]
            seeds = [self._seed_of(c.id, 0) for c in self._captions[span.start : span.stop]]
            rows, scores = self._retrieve(generator, shard, seeds, usable)
            table = pair_rows(
                np.repeat(np.arange(span.start, span.stop), rows.shape[1]),
                rows.reshape(-1),
                np.repeat(seeds, rows.shape[1]),
                scores.reshape(-1),
            )
            self.tables[0].write(shard, table)
            progress.update(table.num_rows)

    def _find_usable(self) -> np.ndarray:
        """The rows of the pool that may be found."""
        # Flagged photos would be found, and then left out of the dataset with the captions that found them.
        flagged = np.logical_or.reduce([table.read().is_set("flags") for table in self._images])
        usable = np.flatnonzero(~flagged)
        if len(usable) < self._per_caption:
            raise UserError(
                f"the pool has {len(usable)} usable photos of {len(flagged)}; "
                f"synthesis.images_per_caption is {self._per_caption}"
            )
        return usable

    def _retrieve(
        self, generator: Any, shard: int, seeds: list[int], usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pool for the captions of a shard, and their cosines by the store's own encoder, ``(N, k)``."""
        span = self._spans[shard]
        captions, heldout = self._captions[span.start : span.stop], np.zeros(len(span), bool)
        if self._heldout is not None:
            heldout = self._heldout.read().numbers("heldout").astype(bool)[span.start : span.stop]
        found = []
        for place, features in zip((~heldout, heldout), self._chosen_by):
            if place.any():
                asked = np.flatnonzero(place)
                some = [captions[i] for i in asked], [seeds[i] for i in asked]
                found.append((asked, *self._search(generator, *features, shard, asked, some, usable)))
        asked, rows, scores = map(np.concatenate, zip(*found))
        order = np.argsort(asked)
        return rows[order], scores[order]

    def _search(
        self,
        generator: Any,
        text: Table,
        image: Table,
        shard: int,
        asked: np.ndarray,
        captions_and_seeds: tuple[list[Any], list[int]],
        usable: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        if image not in self._pools:
            self._pools[image] = torch.from_numpy(image.read().features(usable)).to(self._device)
        if self._pool is not image:
            generator.set_pool(self._pools[image])
            self._pool = image
        queries = torch.from_numpy(unit(text.read([shard]).features())[asked]).to(self._device)
        rows, scores = generator.retrieve(queries, *captions_and_seeds, self._per_caption)
        rows = usable[rows.cpu().numpy()]
        if image is self._image:
            return rows, scores.float().cpu().numpy()
        own = unit(self._text.read([shard]).features())[asked]
        images = unit(self._image.read().features(rows.reshape(-1))).reshape(*rows.shape, -1)
        return rows, (own[:, None] * images).sum(2)
