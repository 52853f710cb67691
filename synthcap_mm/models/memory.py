"""What a captioner remembers: the features of captions, and the captions."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from synthcap_mm.errors import UserError
from synthcap_mm.models.backbones.base import BaseBackbone
from synthcap_mm.models.necks.base import check_finite
from synthcap_mm.structures import group_id

if TYPE_CHECKING:
    from synthcap_mm.store import Store

#: Captions read from a store, and sentences encoded, at a time.
_READ_ROWS, _ENCODE_ROWS = 65_536, 256


class CaptionMemory:
    """Captions and their features, which necks project onto or retrieve from.

    A captioner makes one of its store's captions and binds it to its necks; other captions take its place with
    :meth:`SynthCaptioner.swapped_memory`. Features are float32 whatever a model's precision.

    Args:
        features: ``(M, D)``, L2-normalised.
        texts: the caption of each place in the memory: a sequence, or a function of the place.
        encoder: fingerprint of the encoder that made the features. Default ``None``: not known.
        digest: hash of the captions, hexadecimal. Default ``None``: of the features.
        rows: ``(M,)`` ascending rows in the store. Default ``None``: of no store.
        store_digest: hash of all captions of that store, by which its rows are known. Default ``None``.
        read_groups: makes the names of the captions' groups, M of them. Default ``None``: they have none.

    Attributes:
        features: ``(M, D)`` float32.
        rows: ``(M,)`` long, or ``None``.
        encoder: see above.
        digest: see above.
        store_digest: see above.

    Raises:
        UserError: if there are no captions.
        ValueError: if features are not finite, or the rows do not ascend.
    """

    def __init__(
        self,
        features: Tensor,
        texts: Sequence[str] | Callable[[int], str] = (),
        encoder: Mapping[str, Any] | None = None,
        digest: str | None = None,
        rows: Tensor | None = None,
        store_digest: str | None = None,
        read_groups: Callable[[], Sequence[str | None]] | None = None,
    ) -> None:
        if features.dim() != 2 or len(features) == 0:
            raise UserError(f"a memory needs at least one caption's features, (M, D); got {tuple(features.shape)}")
        check_finite("CaptionMemory", features, "the memory")
        if rows is not None and not (rows.shape == (len(features),) and bool((rows[1:] > rows[:-1]).all())):
            raise ValueError("a memory's rows are one for each caption, ascending")
        with torch.inference_mode(False):  # inference tensors could not be used in training afterwards
            self.features = features.detach().float().contiguous()
            self.rows = None if rows is None else rows.detach().to(features.device, torch.long)
        self.encoder, self.store_digest = encoder, store_digest
        self.digest = digest or hashlib.sha256(self.features.half().cpu().numpy().tobytes()).hexdigest()
        self._texts, self._read_groups = texts, read_groups
        self._groups: Tensor | None = None

    @classmethod
    def from_store(cls, store: Store, split: str | None = "train", device: str | torch.device = "cpu") -> CaptionMemory:
        """The captions of a store; their texts and groups are read when they are asked for.

        Args:
            store: the store.
            split: ``'train'``, ``'heldout'``, or ``None`` for all captions. Default ``'train'``.
            device: where the features go, block by block. Default the CPU.
        """
        rows = store.caption_rows(split)
        with torch.inference_mode(False):
            features = torch.empty((len(rows), store.embed_dim), device=device)
            for start in range(0, len(rows), _READ_ROWS):
                block = torch.tensor(store.caption_features(rows[start : start + _READ_ROWS]))
                features[start : start + len(block)] = block.to(device)
        return cls(
            features,
            functools.partial(_text_of, store, rows),
            store.encoder,
            store.captions_sha256(split),
            torch.as_tensor(rows),
            store.captions_sha256(None),
            functools.partial(_groups_of, store, rows),
        )

    @classmethod
    def from_sentences(cls, sentences: Sequence[str], encoder: BaseBackbone) -> CaptionMemory:
        """Sentences of any domain.

        Args:
            sentences: M of them.
            encoder: the captioner's.

        Raises:
            UserError: if there is none, or one is empty.
        """
        if isinstance(sentences, str) or not sentences:
            raise UserError("a memory is made of a list of sentences, one or more")
        texts = [" ".join(sentence.split()) for sentence in sentences]
        if "" in texts:
            raise UserError(f"sentence {texts.index('') + 1} of the memory is empty")
        with torch.no_grad():
            parts = [encoder.encode_text(texts[i : i + _ENCODE_ROWS]) for i in range(0, len(texts), _ENCODE_ROWS)]
        return cls(torch.cat(parts), texts, encoder.fingerprint())

    def __len__(self) -> int:
        return len(self.features)

    def text(self, place: int) -> str:
        """The caption at a place of the memory."""
        return self._texts(place) if callable(self._texts) else self._texts[place]

    @property
    def groups(self) -> Tensor | None:
        """``(M,)`` long: :func:`group_id` of each caption's group, -1 without one; ``None``: no groups are known."""
        if self._groups is None and self._read_groups is not None:
            numbers = np.array([group_id(name) if name else -1 for name in self._read_groups()], dtype=np.int64)
            with torch.inference_mode(False):
                self._groups = torch.from_numpy(numbers).to(self.features.device)
        return self._groups

    def to(self, device: str | torch.device) -> CaptionMemory:
        """Move it, in place."""
        with torch.inference_mode(False):
            self.features = self.features.to(device)
            self.rows = None if self.rows is None else self.rows.to(device)
            self._groups = None if self._groups is None else self._groups.to(device)
        return self

    def places(self, rows: Tensor) -> Tensor | None:
        """Where rows of the store are in the memory.

        Args:
            rows: ``(B,)`` long.

        Returns:
            ``(B,)`` long, -1 for those that are not in it; ``None`` if the memory is of no store.
        """
        if self.rows is None:
            return None
        rows = rows.to(self.rows.device)
        place = torch.searchsorted(self.rows, rows).clamp_(max=len(self.rows) - 1)
        return torch.where(self.rows[place] == rows, place, -1)


def _text_of(store: Store, rows: np.ndarray, place: int) -> str:
    return store.captions.value("text", int(rows[place]))


def _groups_of(store: Store, rows: np.ndarray) -> list[str | None]:
    names = store.captions.strings("group")
    return [names[row] for row in rows.tolist()]
