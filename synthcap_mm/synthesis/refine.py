"""The refine stage: pseudo image features, optimised toward where real ones lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch

from synthcap_mm.models.necks import pseudo_feature_optimizer as optimizer
from synthcap_mm.options import GivenTo
from synthcap_mm.progress import Progress
from synthcap_mm.store import Table
from synthcap_mm.store.schema import feature_rows
from synthcap_mm.structures import group_id
from synthcap_mm.synthesis.pairs import unit
from synthcap_mm.synthesis.run import Stage

#: Pairs optimised at once; it changes nothing in them but the rounding.
_BATCH = 1024

#: Settings of the refine stage, as configs have them.
Refining = Annotated[dict, GivenTo(optimizer.check_settings)]


class RefineStage(Stage):
    """Optimises the image features of a pairs table against fixed negatives: the same for every pair and worker.

    Args:
        refined: the table to make; shard i has the pairs of the captions in ``spans[i]``.
        pairs: the pairs table.
        texts: of the captions.
        text_features: of the captions.
        image_features: of the images.
        heldout: which captions are held out; the negatives are of the others.
        spans: captions of each shard.
        settings: ``synthesis.refine``.
        seed: of the choice of negatives.
        device: where it computes.
    """

    name, unit = "refine", "pairs"

    def __init__(
        self,
        refined: Table,
        pairs: Table,
        texts: Table,
        text_features: Table,
        image_features: Table,
        heldout: Table,
        spans: Sequence[range],
        settings: Mapping[str, Any],
        seed: int,
        device: torch.device,
    ) -> None:
        self.tables, self.needs = [refined], [pairs, texts, text_features, image_features, heldout]
        self.sizes = [len(span) for span in spans]
        self._spans, self._settings, self._seed, self._device = spans, settings, seed, device

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        bank = None
        for shard in shards:
            if bank is None:
                self._open()
                bank = self._bank()
            span = self._spans[shard]
            first, last = np.searchsorted(self._caption, [span.start, span.stop])
            self.tables[0].write(shard, feature_rows(self._optimise(np.arange(first, last), bank)))
            progress.update(len(span))

    def _open(self) -> None:
        pairs, self._texts, self._text_features, self._image_features, heldout = (t.read() for t in self.needs)
        self._caption, self._image = pairs.numbers("caption"), pairs.numbers("image")
        trained, unflagged = ~heldout.numbers("heldout").astype(bool), ~self._image_features.is_set("flags")
        self._usable = np.flatnonzero(trained[self._caption] & unflagged[self._image])

    def _bank(self) -> dict[str, torch.Tensor]:
        size = self._settings.get("bank_size", optimizer.BANK_SIZE)
        chosen = np.sort(np.random.default_rng(self._seed).permutation(self._usable)[:size])
        image, text, groups = self._load(chosen)
        return {"negative_text": text, "negative_image": image, "negative_groups": groups}

    def _load(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        captions, images = self._caption[rows], self._image[rows]
        image = torch.from_numpy(unit(self._image_features.features(images))).to(self._device)
        text = torch.from_numpy(unit(self._text_features.features(captions))).to(self._device)
        value = self._texts.value
        groups = [group_id(value("group", int(c)) or value("id", int(c))) for c in captions]
        return image, text, torch.tensor(groups, device=self._device)

    def _optimise(self, rows: np.ndarray, bank: dict[str, torch.Tensor]) -> np.ndarray:
        image, text, groups = self._load(rows)
        if not len(rows):
            return image.cpu().numpy()
        parts = [
            optimizer.refine(
                image[a : a + _BATCH],
                text[a : a + _BATCH],
                groups[a : a + _BATCH],
                gather=False,
                **bank,
                **{name: value for name, value in self._settings.items() if name != "bank_size"},
            )
            for a in range(0, len(rows), _BATCH)
        ]
        return torch.cat(parts).float().cpu().numpy()
