"""Giving features the mean, and the spread, of others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import data
from synthcap_mm.options import Name
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import PrefixBatch

from .base import StoreNeck, check_finite

#: Rows read from a store at a time.
_READ_ROWS = 65_536
#: Names of the two tables of the captioner's own store; anything else is the path of another store.
OWN_TABLES = ("captions", "images")


@MODELS.register_module()
class MomentMatching(StoreNeck):
    r"""Moves a cloud of features onto another one by its mean and, per dimension, its spread.

    :math:`v' = \mathrm{normalise}\left((v - \mu_s)\, \sigma_t / \sigma_s + \mu_t\right)`, as in
    `TOMCap <https://arxiv.org/abs/2512.04309>`_, which gives captions' features the moments of images' before a
    decoder is trained on them. No pair is needed: the target may be photos of the domain that nobody has
    described. Without ``spread`` the clouds' means alone are made to meet.

    The moments are measured at first use, over the unit features of a store's rows (population variance, in
    float64), and are in the ``state_dict``: a trained captioner needs the stores no more.

    Args:
        start (str): whose moments the features have: ``'captions'`` or ``'images'`` of the captioner's store (its
            training captions; the images that they have, flagged ones left out), or the path of a store of
            photos. Defaults to ``'captions'``.
        target (str): whose moments they get; likewise. Defaults to ``'images'``.
        spread (bool): match the spread too. Defaults to ``True``, as TOMCap does.
        store (str, optional): path of the store that ``'captions'`` and ``'images'`` mean. Defaults to ``None``:
            the captioner's.
        pairs (str): the pairs table whose images ``'images'`` means; where another one is trained on, e.g.
            ``'curated'``, its name. Defaults to ``'default'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('train',)``.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('text', 'pseudo')``.

    Shape:
        ``feats`` (B, D) in any float dtype → (B, D) float32 (float64 stays), L2-normalised.

    Raises:
        UserError: if ``start`` and ``target`` are the same; in use, if no store was named, a table holds fewer than two
            rows, a dimension of ``start`` does not vary though ``target``'s does, or a store was made with another
            encoder.
        ValueError: in use, if features are not finite or of another width.
        StoreError: if there is no store.
    """

    exportable = data("spread", "phases", "sources")

    def __init__(
        self,
        start: Name = "captions",
        target: Name = "images",
        spread: bool = True,
        store: Name | None = None,
        phases: Sequence[str] = ("train",),
        sources: Sequence[str] = ("text", "pseudo"),
        pairs: Name = "default",
    ) -> None:
        super().__init__(phases, sources)
        if start == target:
            raise UserError(f"MomentMatching: 'start' and 'target' are both {start!r}, so nothing would be moved.")
        self.start, self.target, self.spread, self.pairs = os.fspath(start), os.fspath(target), spread, pairs
        self.store: Store | None = None if store is None else Store.open(store)
        #: ``(4, D)``: mean and deviation of the start, mean and deviation of the target; empty until measured.
        self.register_buffer("moments", torch.empty(0, 0))

    def bind_store(self, store: Store) -> None:
        """Take the captioner's store, unless the config named one."""
        self.store = self.store or store

    def _rows(self, name: str) -> tuple[Any, np.ndarray]:
        """The table that a name means, and the rows of it that count."""
        if name not in OWN_TABLES:
            photos = Store.open(name)
            if self.store is not None:
                photos.check_encoder(self.store.encoder, f"that of {self.store.path}")
            return photos.images, np.flatnonzero(~photos.is_flagged)
        if self.store is None:
            raise UserError(
                f"MomentMatching has no store whose {name!r} it could measure: give the captioner a store, or this "
                "neck (store='data/stores/...')."
            )
        rows = self.store.caption_rows("train")
        if name == "captions":
            return self.store.captions, rows
        pairs = self.store.pairs(self.pairs)
        used = np.unique(pairs.numbers("image")[np.isin(pairs.numbers("caption"), rows)])
        return self.store.images, used[~self.store.is_flagged[used]]

    def _measure(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        table, rows = self._rows(name)
        if len(rows) < 2:
            raise UserError(f"MomentMatching: {name!r} has {len(rows)} usable features; moments need two or more.")
        total = squares = 0.0
        centre = None
        for first in range(0, len(rows), _READ_ROWS):
            feats = table.features(rows[first : first + _READ_ROWS]).astype(np.float64)
            feats /= np.linalg.norm(feats, axis=1, keepdims=True)
            check_finite(type(self).__name__, torch.from_numpy(feats), f"the features of {name!r}")
            centre = feats.mean(axis=0) if centre is None else centre
            # Around a point near the mean, so that the difference of squares does not cancel.
            total = total + (feats - centre).sum(axis=0)
            squares = squares + ((feats - centre) ** 2).sum(axis=0)
        offset = total / len(rows)
        return centre + offset, np.sqrt(np.maximum(squares / len(rows) - offset**2, 0.0))

    def load_moments(self) -> None:
        """Measure the moments, unless they are there (of a checkpoint); errors as of the class."""
        if self.moments.numel():
            return
        (mean_s, sd_s), (mean_t, sd_t) = self._measure(self.start), self._measure(self.target)
        still = np.flatnonzero((sd_s < 1e-7) & (sd_t >= 1e-7))
        if self.spread and len(still):
            raise UserError(
                f"MomentMatching: {len(still)} dimensions of {self.start!r} do not vary, the first is {still[0]}, so "
                "they cannot be given a spread; use spread=False."
            )
        with torch.inference_mode(False):
            moments = torch.from_numpy(np.stack([mean_s, sd_s, mean_t, sd_t]))
            self.moments = moments.to(self.moments.device, torch.float32)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        loaded = state_dict.get(prefix + "moments")
        if loaded is not None and loaded.shape != self.moments.shape:
            self.moments = torch.empty_like(loaded, device=self.moments.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def match(self, feats: Tensor) -> Tensor:
        """Move features, without regard to phases and sources; differentiable.

        Args:
            feats (Tensor): ``(B, D)``.

        Returns:
            Tensor: ``(B, D)``, L2-normalised.

        Raises:
            ValueError: see the class.
        """
        self.load_moments()
        with torch.amp.autocast(feats.device.type, enabled=False):
            feats = feats if feats.dtype == torch.float64 else feats.float()
            check_finite(type(self).__name__, feats)
            if feats.dim() != 2 or feats.shape[1] != self.moments.shape[1]:
                raise ValueError(
                    f"MomentMatching: features must be (B, {self.moments.shape[1]}), got {tuple(feats.shape)}: were "
                    "they made with another encoder than the stores?"
                )
            mean_s, sd_s, mean_t, sd_t = self.moments.to(feats.dtype)
            ratio = torch.where(sd_s < 1e-7, 1.0, sd_t / sd_s.clamp_min(1e-7)) if self.spread else 1.0
            return F.normalize((feats - mean_s) * ratio + mean_t, dim=1)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Move the features."""
        return batch.replace(feats=self.match(batch.feats)), {}

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"start={self.start!r}, target={self.target!r}, spread={self.spread}, {super().extra_repr()}"
