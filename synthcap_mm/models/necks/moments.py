"""Where features lie: mean and spread of a store's captions or images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthcap_mm.errors import UserError
from synthcap_mm.store import Store

from .base import StoreNeck, check_finite

#: Rows read from a store at a time.
_READ_ROWS = 65_536
#: Names of the two tables of the captioner's own store; anything else is the path of another store.
OWN_TABLES = ("captions", "images")


class MomentsNeck(StoreNeck):
    """A neck that moves features from where some lie to where others do, and has to know the two places.

    Mean and deviation of each dimension are measured at first use, over the unit features of a store's rows
    (population variance, in float64), and are in the ``state_dict``: a trained captioner needs the stores no more.

    Args:
        start (str): where the features lie: ``'captions'`` or ``'images'`` of the captioner's store (its training
            captions; the images that they have, flagged ones left out), or the path of a store of photos.
        target (str): where they are moved; likewise.
        store (str, optional): path of the store that ``'captions'`` and ``'images'`` mean. ``None``: the captioner's.
        pairs (str): the pairs table whose images ``'images'`` means.
        phases (Sequence[str]): see :class:`BaseNeck`.
        sources (Sequence[str]): see :class:`BaseNeck`.

    Raises:
        UserError: if ``start`` and ``target`` are the same; in use, if no store was named, a table holds fewer than two
            rows, or a store was made with another encoder.
        ValueError: in use, if features are not finite or of another width.
        StoreError: if there is no store.
    """

    def __init__(
        self,
        start: str,
        target: str,
        store: str | None,
        pairs: str,
        phases: Sequence[str],
        sources: Sequence[str],
    ) -> None:
        super().__init__(phases, sources)
        if start == target:
            raise UserError(
                f"{type(self).__name__}: 'start' and 'target' are both {start!r}, so nothing would be moved."
            )
        self.start, self.target, self.pairs = os.fspath(start), os.fspath(target), pairs
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
                f"{type(self).__name__} has no store whose {name!r} it could measure: give the captioner a store, or "
                "this neck (store='data/stores/...')."
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
            raise UserError(
                f"{type(self).__name__}: {name!r} has {len(rows)} usable features; moments need two or more."
            )
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
        moments = np.stack([*self._measure(self.start), *self._measure(self.target)])
        self._check_moments(moments)
        with torch.inference_mode(False):
            self.moments = torch.from_numpy(moments).to(self.moments.device, torch.float32)

    def _check_moments(self, moments: np.ndarray) -> None:
        """Refuse what a subclass cannot work with; ``(4, D)`` as :attr:`moments`."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        loaded = state_dict.get(prefix + "moments")
        if loaded is not None and loaded.shape != self.moments.shape:
            self.moments = torch.empty_like(loaded, device=self.moments.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def checked(self, feats: Tensor) -> Tensor:
        """Features that the moments fit, ``(B, D)`` float32 (float64 stays).

        Raises:
            ValueError: if they are not finite or of another width.
        """
        self.load_moments()
        feats = feats if feats.dtype == torch.float64 else feats.float()
        check_finite(type(self).__name__, feats)
        if feats.dim() != 2 or feats.shape[1] != self.moments.shape[1]:
            raise ValueError(
                f"{type(self).__name__}: features must be (B, {self.moments.shape[1]}), got {tuple(feats.shape)}: were "
                "they made with another encoder than the stores?"
            )
        return feats

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"start={self.start!r}, target={self.target!r}, {super().extra_repr()}"
