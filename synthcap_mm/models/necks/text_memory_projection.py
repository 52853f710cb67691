"""Re-expressing a feature by the captions that lie near it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from synthcap_mm.registry import MODELS
from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder
from synthcap_mm.structures import SOURCES, PrefixBatch

from .base import PHASES, BaseNeck, check_finite
from .memory_attention import memory_attention, top_memory

if TYPE_CHECKING:
    from synthcap_mm.store import Store

#: Captions read from the store at a time, to keep float16 copies small.
_READ_ROWS = 65_536


@MODELS.register_module()
class TextMemoryProjection(BaseNeck):
    r"""Projects features onto a memory of caption features.

    :math:`p = \mathrm{normalise}\left(\sum_i \mathrm{softmax}_i(v \cdot m_i / \tau)\, m_i\right)`, as in
    `DeCap <https://arxiv.org/abs/2303.03032>`_ and, for training as well as
    inference, `SynTIC <https://arxiv.org/abs/2312.08865>`_: an image's feature
    becomes a mixture of caption features, which closes CLIP's modality gap.

    The memory is the captions table of a store. It is read on first use, lies
    on the module's device once, in float32 whatever the model's precision, and
    is in no ``state_dict``; its SHA-256 is. A checkpoint trained with another
    memory than the one in use gives a warning, not an error: that is how a target
    domain's captions are swapped in. A memory of another *encoder* is refused, as
    soon as the captioner is built (or the memory swapped): see :meth:`expect_encoder`.

    Args:
        memory (str, optional): path of a store. ``None`` waits for
            :meth:`set_memory`. Defaults to ``None``.
        temperature (float): :math:`\tau`, of the encoder. Defaults to 0.01: DeCap's
            public code and CLIP's own temperature; for SynTIC assumed.
        exclude_self (bool): in phase ``'train'``, hide from each query the row of
            its own caption (another caption of the same words stays). The memory must
            then be of the store that is trained on: rows of another one mean other
            captions. Defaults to ``False``: assumed, as DeCap's public code trains
            without; a switch to ablate.
        split (str, optional): split of the store's captions that makes the memory;
            ``None`` takes all. Defaults to ``'train'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to both.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to all.
        block_size (int): rows of the memory at a time where the work is done in
            blocks; decides memory and speed, not the result. Defaults to 8192.

    Shape:
        ``feats`` (B, D) in any float dtype → (B, D) float32, L2-normalised.

    Raises:
        ValueError: if ``temperature`` or ``block_size`` is not positive; in use, if features are
            not finite, their width is not the memory's, or ``exclude_self`` meets
            a batch without ``memory_rows``, a memory of another store than the one trained on,
            or leaves no memory.
        RuntimeError: in use, if there is no memory.
        StoreError: in use, if the memory was made with another encoder than is expected.
    """

    memory: Tensor | None
    memory_rows: Tensor | None
    #: What :meth:`other_memory` puts back.
    _OF_MEMORY: tuple[str, ...] = ("memory", "memory_rows", "memory_sha256", "_was_set", "_set_encoder")

    def __init__(
        self,
        memory: str | None = None,
        temperature: float = 0.01,
        exclude_self: bool = False,
        split: str | None = "train",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
        block_size: int = 8192,
    ) -> None:
        super().__init__(phases, sources)
        if not temperature > 0:
            raise ValueError(f"{type(self).__name__}: 'temperature' must be positive, got {temperature}.")
        if block_size < 1:
            raise ValueError(f"{type(self).__name__}: 'block_size' must be at least 1, got {block_size}.")
        self.memory_path = None if memory is None else os.fspath(memory)
        self.temperature = float(temperature)
        self.exclude_self = exclude_self
        self.split = split
        self.block_size = block_size
        self.register_buffer("memory", None, persistent=False)
        self.register_buffer("memory_rows", None, persistent=False)
        #: SHA-256 of the memory in use, or of the checkpoint's until one is in use; zeros: neither.
        self.register_buffer("memory_sha256", torch.zeros(32, dtype=torch.uint8))
        self._checkpoint_sha256: bytes | None = None
        self._expected: tuple[Mapping[str, Any], str] | None = None  # an encoder's fingerprint, and whose it is
        self._trained_on: Store | None = None
        self._rows_of: Store | None = None  # the one that the memory has been compared with
        self._set_encoder: Mapping[str, Any] | None = None  # of a memory that was set
        self._was_set = False

    # --------------------------------------------- whose features, whose rows
    def expect_encoder(self, encoder: Mapping[str, Any], what: str = "the captioner") -> None:
        """Say which encoder's features will come in, and refuse a memory of another one.

        The captioner calls it when it is built or takes an encoder from a checkpoint,
        the engine's ``EncoderCheckHook`` before each run. A memory that comes later is
        compared when it comes.

        Args:
            encoder (dict): fingerprint, ``{'name': str, 'image': list[float], 'text': list[float]}``.
            what (str): whose it is, for the message. Defaults to ``'the captioner'``.

        Raises:
            StoreError: if the memory was made with another encoder; both are named.
        """
        self._compare_encoders(encoder, what)
        self._expected = (encoder, what)

    def expect_rows_of(self, store: Store, check: bool = True) -> None:
        """Say which store the batches' ``memory_rows`` count in; it matters with ``exclude_self`` only.

        Args:
            store (Store): the store that is trained on.
            check (bool): compare now, not at the first training batch only. Defaults to ``True``.

        Raises:
            ValueError: with ``exclude_self``, if the memory is another store's captions.
        """
        self._trained_on = store
        if check:
            self._compare_rows()

    def _store(self) -> Store | None:
        """The memory's store; ``None`` if the memory was set, or there is no store (told when it is needed)."""
        from synthcap_mm.store import Store, StoreError

        if self._was_set or self.memory_path is None:
            return None
        try:
            return Store.open(self.memory_path)
        except StoreError:
            return None

    def _compare_encoders(self, encoder: Mapping[str, Any], what: str) -> None:
        from synthcap_mm.store import StoreError

        own, where = self._set_encoder, "the memory that was set"
        if not self._was_set:
            store = self._store()
            own, where = (None, "") if store is None else (store.encoder, f"the memory {store.path}")
        if own is not None and not same_encoder(own, encoder):
            raise StoreError(
                f"{type(self).__name__}: {where} was made with another encoder than {what}: "
                f"{describe_mismatch(own, encoder)}. Name a memory of the same encoder, or make the store anew."
            )

    def _compare_rows(self) -> None:
        if not self.exclude_self or self._trained_on is None:
            return
        store = self._store()
        if store is None or not (store.has("texts") and self._trained_on.has("texts")):
            return
        if store.captions_sha256(None) != self._trained_on.captions_sha256(None):
            raise ValueError(
                f"{type(self).__name__}: exclude_self hides a caption by its row in the store trained on, "
                f"{self._trained_on.path}, but the memory is of another one, {store.path}, where that row is another "
                "caption. Train with the memory of the same store, or turn exclude_self off."
            )

    # ---------------------------------------------------------------- memory
    def load_memory(self) -> None:
        """Read the memory from its store, unless there is one already.

        Raises:
            RuntimeError: if no store was named.
            ValueError: if the store's captions hold features that are not finite, or none.
            StoreError: if it was made with another encoder than :meth:`expect_encoder` said.
        """
        if self.memory is not None:
            return
        if self.memory_path is None:
            raise RuntimeError(
                f"{type(self).__name__} has no memory: name a store in its config (memory='data/stores/...') or call "
                "set_memory(feats)."
            )
        from synthcap_mm.store import Store

        store = Store.open(self.memory_path)
        self._was_set = False
        if self._expected is not None:
            self._compare_encoders(*self._expected)
        rows = store.caption_rows(self.split)
        where = f"the memory of {self.memory_path!r} (split {self.split!r})"
        if len(rows) == 0:
            raise ValueError(f"{type(self).__name__}: {where} has no captions.")
        # A memory made under inference_mode could not be used in training afterwards.
        with torch.inference_mode(False):
            feats: Tensor | None = None
            for start in range(0, len(rows), _READ_ROWS):
                chunk = torch.tensor(store.caption_features(rows[start : start + _READ_ROWS]))
                if feats is None:
                    feats = torch.empty((len(rows), chunk.shape[1]), device=self.memory_sha256.device)
                feats[start : start + len(chunk)] = chunk.to(feats.device)
            self._install(feats, torch.as_tensor(rows), store.captions_sha256(self.split), where)

    def set_memory(
        self,
        feats: Tensor,
        rows: Tensor | None = None,
        sha256: str | None = None,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        """Use another memory from now on, e.g. a target domain's captions.

        Args:
            feats (Tensor): caption features, ``(M, D)``, L2-normalised.
            rows (Tensor, optional): their rows in the store that the batches come
                from, ``(M,)`` long; without them ``exclude_self`` excludes nothing.
                Defaults to ``None``.
            sha256 (str, optional): their hash, 64 hexadecimal digits; made of the features when
                ``None``. Defaults to ``None``.
            encoder (dict, optional): fingerprint of the encoder that made them
                (``Store.manifest['encoder']``, ``BaseBackbone.fingerprint()``), to be compared with
                the captioner's; without it only the width can be. Defaults to ``None``.

        Raises:
            ValueError: if the features are not ``(M, D)`` with M > 0 and finite, not of the captioner's
                encoder's width, the rows do not fit them or repeat, or the hash is malformed.
            StoreError: if ``encoder`` is another one than the captioner's.
        """
        if feats.dim() != 2 or len(feats) == 0:
            raise ValueError(f"{type(self).__name__}: a memory must be (M, D) with M > 0, got {tuple(feats.shape)}.")
        if self._expected is not None:
            expected, what = self._expected
            if feats.shape[1] != len(expected["text"]):
                raise ValueError(
                    f"{type(self).__name__}: a memory of {feats.shape[1]} numbers a caption is of another encoder than "
                    f"{what}: {expected['name']!r} makes {len(expected['text'])}."
                )
            if encoder is not None and not same_encoder(encoder, expected):
                from synthcap_mm.store import StoreError

                raise StoreError(
                    f"{type(self).__name__}: the memory to set was made with another encoder than {what}: "
                    f"{describe_mismatch(encoder, expected)}. Encode its captions with the captioner's encoder."
                )
        with torch.inference_mode(False), torch.no_grad():
            # A copy: the caller's tensor may change, or be an inference tensor.
            feats = feats.detach().to(self.memory_sha256.device, torch.float32, copy=True).contiguous()
            if sha256 is None:
                sha256 = hashlib.sha256(feats.half().cpu().numpy().tobytes()).hexdigest()
            self._install(feats, rows, sha256, "the memory that was set")
        self._was_set, self._set_encoder = True, encoder

    @contextlib.contextmanager
    def other_memory(self, feats: Tensor, encoder: Mapping[str, Any] | None = None) -> Iterator[None]:
        """While in the context, use another memory; afterwards the one that was in use.

        Args:
            feats (Tensor): see :meth:`set_memory`.
            encoder (dict, optional): see :meth:`set_memory`. Defaults to ``None``.

        Raises:
            ValueError: see :meth:`set_memory`.
            StoreError: see :meth:`set_memory`.
        """
        before = {name: getattr(self, name) for name in self._OF_MEMORY}
        try:
            self.set_memory(feats, encoder=encoder)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def _install(self, feats: Tensor, rows: Tensor | None, sha256: str, where: str) -> None:
        name = type(self).__name__
        check_finite(name, feats, where)
        if rows is not None:
            rows = rows.detach().to(feats.device, torch.long, copy=True)
            if rows.shape != (len(feats),):
                raise ValueError(f"{name}: {len(feats)} memory features need as many rows, got {tuple(rows.shape)}.")
            if len(rows) > 1 and not bool((rows[1:] > rows[:-1]).all()):
                rows, order = rows.sort()
                if bool((rows[1:] == rows[:-1]).any()):
                    raise ValueError(f"{name}: the rows of {where} repeat; each caption may be there once.")
                feats = feats[order]
        digest = self._digest(sha256)
        self.memory, self.memory_rows = feats, rows
        self._use_digest(digest)
        self._compare_with_checkpoint()

    @staticmethod
    def _digest(sha256: str) -> bytes:
        try:
            digest = bytes.fromhex(sha256)
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise ValueError(f"TextMemoryProjection: 'sha256' must be 64 hexadecimal digits, got {sha256!r}.")
        return digest

    def _use_digest(self, digest: bytes) -> None:
        # In place of the old buffer rather than into it: that may be an inference tensor.
        self.memory_sha256 = torch.tensor(list(digest), dtype=torch.uint8, device=self.memory_sha256.device)

    def _compare_with_checkpoint(self) -> None:
        used = bytes(self.memory_sha256.tolist())
        if self.memory is None or self._checkpoint_sha256 in (None, used):
            return
        print_log(
            f"{type(self).__name__}: the checkpoint was trained with another memory (sha256 "
            f"{self._checkpoint_sha256.hex()[:12]}) than the one in use ({used.hex()[:12]}, {len(self.memory)} "
            "captions). That is right if a target domain's captions were swapped in on purpose; else name the store "
            "that the model was trained with.",
            logger="current",
            level=logging.WARNING,
        )

    # ------------------------------------------------------- module machinery
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TextMemoryProjection:
        # half() and to(dtype) must not cost the memory its precision: it only follows the device.
        memory = self.memory
        self.memory = None
        try:
            super()._apply(fn, recurse)
            if memory is not None:
                memory = memory.to(fn(torch.empty(0, device=memory.device)).device)
        finally:
            self.memory = memory
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        in_use = None if self.memory is None else bytes(self.memory_sha256.tolist())
        super()._load_from_state_dict(state_dict, prefix, *args)
        loaded = state_dict.get(prefix + "memory_sha256")
        if loaded is None:
            return
        digest = bytes(loaded.tolist())
        # Zeros: the checkpoint was written before any memory was in use.
        self._checkpoint_sha256 = digest if any(digest) else None
        if in_use is not None:
            self._use_digest(in_use)
        self._compare_with_checkpoint()

    # -------------------------------------------------------------------- use
    def project(self, feats: Tensor, excluded: Tensor | None = None) -> Tensor:
        """Project features, without regard to phases and sources.

        Args:
            feats (Tensor): ``(B, D)``, any float dtype.
            excluded (Tensor, optional): ``(B,)`` long, rows *of the memory*, or -1. Defaults to ``None``.

        Returns:
            Tensor: ``(B, D)`` float32, L2-normalised; differentiable in ``feats``.

        Raises:
            ValueError: see the class.
            RuntimeError: if there is no memory.
        """
        self.load_memory()
        with torch.amp.autocast(feats.device.type, enabled=False):
            feats = feats.float()
            check_finite(type(self).__name__, feats)
            mixed = memory_attention(feats, self.memory, self.temperature, excluded, self.block_size)
            return F.normalize(mixed, dim=-1)

    def attend(self, feats: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Which captions a projection is made of, to explain it.

        Args:
            feats (Tensor): ``(B, D)``.
            k (int): how many captions for each.

        Returns:
            tuple[Tensor, Tensor]: weights ``(B, k)`` in [0, 1], largest first, and rows
            of the memory ``(B, k)``; ``memory_rows[rows]`` are rows of the store.

        Raises:
            ValueError: if ``k`` is not in [1, M], or features are not finite.
            RuntimeError: if there is no memory.
        """
        self.load_memory()
        with torch.no_grad(), torch.amp.autocast(feats.device.type, enabled=False):
            feats = feats.float()
            check_finite(type(self).__name__, feats)
            return top_memory(feats, self.memory, self.temperature, k, self.block_size)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Replace the features by their projections."""
        self.load_memory()
        excluded = self._own_rows(batch) if self.exclude_self and phase == "train" else None
        return batch.replace(feats=self.project(batch.feats, excluded)), {}

    def _own_rows(self, batch: PrefixBatch) -> Tensor | None:
        """For each sample the row of its caption in the memory, -1 where it is not there."""
        if batch.memory_rows is None:
            raise ValueError(
                f"{type(self).__name__}: exclude_self needs the batch's memory_rows, and they are missing: let the "
                "dataset give them, or turn exclude_self off."
            )
        if self.memory_rows is None:
            return None
        if self._rows_of is not self._trained_on:  # once a store, since it opens two
            self._compare_rows()
            self._rows_of = self._trained_on
        wanted = batch.memory_rows.to(self.memory_rows.device)
        place = torch.searchsorted(self.memory_rows, wanted).clamp_(max=len(self.memory_rows) - 1)
        return torch.where(self.memory_rows[place] == wanted, place, -1)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        size = "not loaded" if self.memory is None else tuple(self.memory.shape)
        return (
            f"memory={self.memory_path!r} ({size}), temperature={self.temperature}, exclude_self={self.exclude_self}, "
            f"{super().extra_repr()}"
        )
