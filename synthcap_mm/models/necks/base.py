"""The contract of a neck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from synthcap_mm.structures import SOURCES, PrefixBatch

#: What a batch is there for: to learn from, or to be captioned.
PHASES = ("train", "predict")


def _checked_names(owner: str, option: str, names: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{owner}: '{option}' must be a list of names, got the string {names!r}; write [{names!r}].")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{owner}: '{option}' has unknown names {unknown}; choose from {list(known)}.")
    return tuple(names)


class BaseNeck(nn.Module):
    """A step between the encoder's features and the decoder's prefix.

    The config says when a neck acts; ``self.training`` never does, so that a
    feature is the same thing wherever it is computed. Randomness of a neck
    comes from torch's global generator only.

    Args:
        phases (Sequence[str]): phases in which the neck acts, of :data:`PHASES`.
            An empty list switches it off. Defaults to both.
        sources (Sequence[str]): sources of a batch for which it acts, of
            :data:`synthcap_mm.structures.SOURCES`. Defaults to all.

    Raises:
        TypeError: if ``phases`` or ``sources`` is a string.
        ValueError: if one of them holds an unknown name.
    """

    def __init__(self, phases: Sequence[str] = PHASES, sources: Sequence[str] = SOURCES) -> None:
        super().__init__()
        self.phases = _checked_names(type(self).__name__, "phases", phases, PHASES)
        self.sources = _checked_names(type(self).__name__, "sources", sources, SOURCES)

    def acts(self, phase: str, source: str) -> bool:
        """Whether the neck changes a batch of this source in this phase.

        Args:
            phase (str): one of :data:`PHASES`.
            source (str): one of :data:`synthcap_mm.structures.SOURCES`.

        Raises:
            ValueError: if either name is unknown.
        """
        if phase not in PHASES:
            raise ValueError(f"{type(self).__name__}: unknown phase {phase!r}; choose from {list(PHASES)}.")
        if source not in SOURCES:
            raise ValueError(f"{type(self).__name__}: unknown source {source!r}; choose from {list(SOURCES)}.")
        return phase in self.phases and source in self.sources

    def forward(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Apply the neck where it acts.

        Args:
            batch (PrefixBatch): the batch, left unchanged.
            phase (str): one of :data:`PHASES`.

        Returns:
            tuple[PrefixBatch, dict[str, Tensor]]: the new batch (the very same
            object where the neck does not act), and the neck's own losses, scalars
            by name: empty unless ``phase`` is ``'train'`` and the neck learns
            by a loss of its own.

        Raises:
            ValueError: if the phase or the batch's source is unknown.
        """
        if not self.acts(phase, batch.source):
            return batch, {}
        return self.transform(batch, phase)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """What a subclass does where it acts; arguments and result as in :meth:`forward`."""
        raise NotImplementedError(f"{type(self).__name__} must define transform(batch, phase).")

    def extra_repr(self) -> str:
        """The phases and sources, for ``print(model)``."""
        return f"phases={self.phases}, sources={self.sources}"

    def _need_text_feats(self, batch: PrefixBatch) -> Tensor:
        if batch.text_feats is None:
            raise ValueError(
                f"{type(self).__name__} needs the captions' features (text_feats), and this {batch.source!r} batch has "
                "none: let the dataset give them, or narrow the neck's phases and sources."
            )
        return batch.text_feats


def check_finite(owner: str, feats: Tensor, what: str = "features") -> None:
    """Refuse features that are not finite.

    Args:
        owner (str): who is asking, for the message.
        feats (Tensor): features, ``(N, D)``.
        what (str): what they are, for the message. Defaults to ``'features'``.

    Raises:
        ValueError: if any row has a NaN or an infinity; the message says how many.
    """
    # In pieces, because a memory may be large and isfinite() makes a mask; rows are counted only for the message.
    if all(bool(piece.isfinite().all()) for piece in feats.split(65_536)):
        return
    finite = torch.cat([piece.isfinite().all(dim=1) for piece in feats.split(65_536)])
    bad = finite.logical_not().nonzero().flatten()
    raise ValueError(
        f"{owner}: {len(bad)} of {len(feats)} rows of {what} are not finite (NaN or infinity), the first is row "
        f"{int(bad[0])}. The store or the encoder that made them is damaged: make those features again."
    )
