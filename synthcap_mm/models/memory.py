"""What a captioner remembers: the features of captions, and the captions."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from synthcap_mm.errors import UserError, listed
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
        other_encoders: fingerprints of the encoders beside it that :meth:`features_of` has features by, by name.
            Default ``None``: there are none.
        read_features: gives the features by one of those, ``(M, D')``, by its name. Default ``None``.

    Attributes:
        features: ``(M, D)`` float32.
        rows: ``(M,)`` long, or ``None``.
        encoder: see above.
        other_encoders: see above.
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
        other_encoders: Mapping[str, Mapping[str, Any]] | None = None,
        read_features: Callable[[str], Tensor] | None = None,
    ) -> None:
        if features.dim() != 2 or len(features) == 0:
            raise UserError(f"a memory needs at least one caption's features, (M, D); got {tuple(features.shape)}")
        if rows is not None and not (rows.shape == (len(features),) and bool((rows[1:] > rows[:-1]).all())):
            raise ValueError("a memory's rows are one for each caption, ascending")
        self.features = _checked(features)
        with torch.inference_mode(False):  # inference tensors could not be used in training afterwards
            self.rows = None if rows is None else rows.detach().to(features.device, torch.long)
        self.encoder, self.store_digest = encoder, store_digest
        self.digest = digest or hashlib.sha256(self.features.half().cpu().numpy().tobytes()).hexdigest()
        self.other_encoders = dict(other_encoders or {})
        self._read_features, self._others = read_features, {}
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
        return cls(
            _read_from(store, rows, device),
            functools.partial(_text_of, store, rows),
            store.encoder,
            store.captions_sha256(split),
            torch.as_tensor(rows),
            store.captions_sha256(None),
            functools.partial(_groups_of, store, rows),
            store.other_encoders,
            functools.partial(_read_from, store, rows, "cpu"),
        )

    @classmethod
    def from_sentences(
        cls,
        sentences: Sequence[str],
        encoder: BaseBackbone,
        other_encoders: Mapping[str, BaseBackbone] | None = None,
    ) -> CaptionMemory:
        """Sentences of any domain.

        Args:
            sentences: M of them.
            encoder: the captioner's.
            other_encoders: those beside it that the captioner needs, by name. Default ``None``: none.

        Raises:
            UserError: if there is none, or one is empty.
        """
        if isinstance(sentences, str) or not sentences:
            raise UserError("a memory is made of a list of sentences, one or more")
        texts = [" ".join(sentence.split()) for sentence in sentences]
        if "" in texts:
            raise UserError(f"sentence {texts.index('') + 1} of the memory is empty")
        others = other_encoders or {}
        features = {name: _encoded(texts, other) for name, other in others.items()}
        fingerprints = {name: other.fingerprint() for name, other in others.items()}
        return cls(
            _encoded(texts, encoder),
            texts,
            encoder.fingerprint(),
            other_encoders=fingerprints,
            read_features=features.__getitem__,
        )

    def __len__(self) -> int:
        return len(self.features)

    def text(self, place: int) -> str:
        """The caption at a place of the memory."""
        return self._texts(place) if callable(self._texts) else self._texts[place]

    def features_of(self, encoder: str | None) -> Tensor:
        """Features by an encoder, ``(M, D')`` float32; those of another than the captioner's own at first use.

        Args:
            encoder: its name; ``None``: the captioner's own, :attr:`features`.

        Raises:
            UserError: if there are none by that encoder.
        """
        if encoder is None:
            return self.features
        if encoder not in self.other_encoders:
            there = f"by {listed(self.other_encoders)}" if self.other_encoders else "by one encoder only"
            raise UserError(
                f"the captioner remembers captions by an encoder {encoder!r}, and the memory has features {there}: "
                f"name it where the captions' store is made (synthesis.other_encoders.{encoder})"
            )
        if encoder not in self._others:
            self._others[encoder] = _checked(self._read_features(encoder).to(self.features.device))
        return self._others[encoder]

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
            self._others = {name: features.to(device) for name, features in self._others.items()}
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


def _checked(features: Tensor) -> Tensor:
    """The features as a memory holds them."""
    check_finite("CaptionMemory", features, "the memory")
    with torch.inference_mode(False):  # inference tensors could not be used in training afterwards
        return features.detach().float().contiguous()


def _read_from(store: Store, rows: np.ndarray, device: str | torch.device, encoder: str | None = None) -> Tensor:
    """Features of a store's captions, read block by block."""
    with torch.inference_mode(False):
        features = torch.empty((len(rows), store.width_of(encoder)), device=device)
        for start in range(0, len(rows), _READ_ROWS):
            block = torch.tensor(store.caption_features(rows[start : start + _READ_ROWS], encoder))
            features[start : start + len(block)] = block.to(device)
    return features


def _encoded(texts: Sequence[str], encoder: BaseBackbone) -> Tensor:
    with torch.no_grad():
        return torch.cat([encoder.encode_text(texts[i : i + _ENCODE_ROWS]) for i in range(0, len(texts), _ENCODE_ROWS)])


def _text_of(store: Store, rows: np.ndarray, place: int) -> str:
    return store.captions.value("text", int(rows[place]))


def _groups_of(store: Store, rows: np.ndarray) -> list[str | None]:
    names = store.captions.strings("group")
    return [names[row] for row in rows.tolist()]
