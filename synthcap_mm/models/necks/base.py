"""The contract of a neck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from synthcap_mm.options import check_options
from synthcap_mm.structures import SOURCES, PrefixBatch

if TYPE_CHECKING:
    from synthcap_mm.store import Store

#: What a batch is there for: to learn from, or to be captioned.
PHASES = ("train", "predict")


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

    Attributes:
        not_in_recipe (tuple[str, ...]): arguments of the constructor that do not decide the result.
        recipe_version (int): raised when the class gives other results for the same arguments.

    Raises:
        UserError: if ``phases`` or ``sources`` is a string, or holds an unknown name.
    """

    not_in_recipe: tuple[str, ...] = ()
    recipe_version: int = 1

    def __init__(
        self,
        phases: Sequence[Literal["train", "predict"]] = PHASES,
        sources: Sequence[Literal["pseudo", "text", "real"]] = SOURCES,
    ) -> None:
        super().__init__()
        # With a misspelt phase or source a neck would silently never act; here, for necks of the user's too.
        check_options(type(self).__name__, BaseNeck.__init__, (phases, sources), {})
        self.phases, self.sources = tuple(phases), tuple(sources)

    def acts(self, phase: str, source: str) -> bool:
        """Whether the neck changes a batch of this source in this phase.

        Args:
            phase (str): one of :data:`PHASES`.
            source (str): one of :data:`synthcap_mm.structures.SOURCES`.

        Raises:
            ValueError: if either name is unknown.
        """
        if phase not in PHASES or source not in SOURCES:
            raise ValueError(f"phase {phase!r} or source {source!r} is not one of {PHASES}, {SOURCES}")
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


class StoreNeck(BaseNeck):
    """A neck that reads more of the captioner's store than its captions; the captioner binds it when it is built."""

    def bind_store(self, store: Store) -> None:
        """Take the captioner's store."""
        raise NotImplementedError(f"{type(self).__name__} must define bind_store(store).")


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
