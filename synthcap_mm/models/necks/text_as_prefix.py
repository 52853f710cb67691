"""Training on the caption's own feature."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import PrefixBatch

from .base import BaseNeck


@MODELS.register_module()
class TextAsPrefix(BaseNeck):
    """Puts the caption's feature in the place of the image's.

    So `CapDec <https://arxiv.org/abs/2211.00575>`_ and
    `DeCap <https://arxiv.org/abs/2303.03032>`_ train, which have no images; the
    source of the batch becomes ``'text'`` for the necks after this one.

    Args:
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('train',)``:
            at inference the caption is what is asked for.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('pseudo', 'text')``.

    Shape:
        ``text_feats`` (B, D) → ``feats`` (B, D).

    Raises:
        ValueError: if a batch has no ``text_feats``.
    """

    exportable = data("phases", "sources")

    def __init__(self, phases: Sequence[str] = ("train",), sources: Sequence[str] = ("pseudo", "text")) -> None:
        super().__init__(phases, sources)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Replace the features and the source."""
        return batch.replace(feats=self._need_text_feats(batch), source="text"), {}
