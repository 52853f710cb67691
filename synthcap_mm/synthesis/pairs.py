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
    """

    def __init__(self, *args: Any, generator: Callable[[], Any], device: torch.device) -> None:
        super().__init__(*args)
        self.reads, self.needs = [self._text], [self._image]
        self._generator, self._device = generator, device

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        generator, usable = self._generator(), None
        for shard in shards:
            if usable is None:
                usable = self._set_pool(generator)
            span = self._spans[shard]
            text = torch.from_numpy(unit(self._text.read([shard]).features())).to(self._device)
            part = self._captions[span.start : span.stop]
            seeds = [self._seed_of(c.id, 0) for c in part]
            rows, scores = generator.retrieve(text, part, seeds, self._per_caption)
            table = pair_rows(
                np.repeat(np.arange(span.start, span.stop), rows.shape[1]),
                usable[rows.cpu().numpy().reshape(-1)],
                np.repeat(seeds, rows.shape[1]),
                scores.float().cpu().numpy().reshape(-1),
            )
            self.tables[0].write(shard, table)
            progress.update(table.num_rows)

    def _set_pool(self, generator: Any) -> np.ndarray:
        """Hands the pool's features to the generator; returns the rows that may be found."""
        images = self._image.read()
        # Flagged photos would be found, and then left out of the dataset with the captions that found them.
        usable = np.flatnonzero(~images.is_set("flags"))
        if len(usable) < self._per_caption:
            raise UserError(
                f"the pool has {len(usable)} usable photos of {len(images)}; "
                f"synthesis.images_per_caption is {self._per_caption}"
            )
        generator.set_pool(torch.from_numpy(images.features(usable)).to(self._device))
        return usable
