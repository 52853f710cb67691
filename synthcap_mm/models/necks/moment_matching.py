"""Giving features the mean, and the spread, of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import data
from synthcap_mm.options import Name
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import PrefixBatch

from .moments import MomentsNeck


@MODELS.register_module()
class MomentMatching(MomentsNeck):
    r"""Moves a cloud of features onto another one by its mean and, per dimension, its spread.

    :math:`v' = \mathrm{normalise}\left((v - \mu_s)\, \sigma_t / \sigma_s + \mu_t\right)`, as in
    `TOMCap <https://arxiv.org/abs/2512.04309>`_, which gives captions' features the moments of images' before a
    decoder is trained on them. No pair is needed: the target may be photos of the domain that nobody has
    described. Without ``spread`` the clouds' means alone are made to meet.

    The moments are measured at first use, and are in the ``state_dict``: a trained captioner needs the stores no more.

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
        super().__init__(start, target, store, pairs, phases, sources)
        self.spread = spread

    def _check_moments(self, moments: np.ndarray) -> None:
        still = np.flatnonzero((moments[1] < 1e-7) & (moments[3] >= 1e-7))
        if self.spread and len(still):
            raise UserError(
                f"MomentMatching: {len(still)} dimensions of {self.start!r} do not vary, the first is {still[0]}, so "
                "they cannot be given a spread; use spread=False."
            )

    def match(self, feats: Tensor) -> Tensor:
        """Move features, without regard to phases and sources; differentiable.

        Args:
            feats (Tensor): ``(B, D)``.

        Returns:
            Tensor: ``(B, D)``, L2-normalised.

        Raises:
            ValueError: see the class.
        """
        with torch.amp.autocast(feats.device.type, enabled=False):
            feats = self.checked(feats)
            mean_s, sd_s, mean_t, sd_t = self.moments.to(feats.dtype)
            ratio = torch.where(sd_s < 1e-7, 1.0, sd_t / sd_s.clamp_min(1e-7)) if self.spread else 1.0
            return F.normalize((feats - mean_s) * ratio + mean_t, dim=1)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Move the features."""
        return batch.replace(feats=self.match(batch.feats)), {}

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"spread={self.spread}, {super().extra_repr()}"
