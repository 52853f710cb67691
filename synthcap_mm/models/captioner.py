"""The captioner: (backbone →) necks → head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModel
from PIL.Image import Image
from torch import Tensor, nn

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import Child, Parts, data
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.named_encoder import named_encoder
from synthcap_mm.models.necks.base import StoreNeck
from synthcap_mm.models.necks.memory_neck import MemoryNeck
from synthcap_mm.models.ranking import Candidates, CaptionRanker, ImageScore
from synthcap_mm.models.remembering import RemembersCaptions
from synthcap_mm.options import Model, Name, OtherEncoders, That
from synthcap_mm.registry import MODELS, filled_in
from synthcap_mm.store import Store
from synthcap_mm.store.fingerprint import checked_fingerprint, checked_fingerprints, describe_mismatch, same_encoder
from synthcap_mm.store.topk import blockwise_topk
from synthcap_mm.structures import CaptionSample, PrefixBatch

if TYPE_CHECKING:
    import numpy as np


@MODELS.register_module()
class SynthCaptioner(BaseModel):
    """Captions images, having learnt from text and synthetic images.

    Args:
        head: the decoder's config. What depends on the tokenizer (``vocab_size`` and
            special ids) is filled in.
        necks: configs by name, run in the order in which they stand; a method is an order of necks. The last
            one makes the prefix of embeddings (``PrefixProjector``). ``None`` in place of a config leaves one out.
            Options that a neck needs and its config leaves out are filled in: ``in_dim`` and ``embed_dim`` with the
            width of the store's features (so is the head's ``context_dim``; with ``grids`` it is that of the places),
            ``width`` with that of the head's embeddings.
        data_preprocessor: config of :class:`CaptionPreprocessor`; its ``tokenizer``
            is the store's unless it names one.
        store: path of the store that the captioner is trained on. It gives the
            tokenizer, and the memory of necks that want one and name no other store,
            and tells which encoder made the features, so that others are refused.
            Default ``None``.
        backbone: the encoder's config; built only when images arrive without
            features, or captions have to be encoded. Default ``None``.
        other_backbones: configs of the encoders beside it, by the names that the store has them under; each is built
            when it is first needed. Default ``None``: there are none.
        rerank: config of a ranker (:class:`~synthcap_mm.models.ranking.CaptionRanker`), which chooses among the beams'
            captions, and maybe the memory's; scores of the encoder need ``backbone``. Default ``None``: the beams'
            likeliest; docs/inference.md has what it changes.
        grids: the head's cross-attention sees the features of the images' places: those that datasets give
            (``grids=True``, of a store made with ``synthesis.grids=True``), or what the encoder makes of an image.
            Default ``False``.
        init_cfg: passed on to MMEngine. Default ``None``.

    Attributes:
        head_settings: the head's config, filled in.
        encoder: fingerprint of the encoder whose features the captioner takes: the store's, or the checkpoint's;
            ``None`` while it is not known.
        other_encoders: fingerprints of the encoders beside it, by name, as far as they are known.
        neck_settings: the necks' configs by name, filled in.

    Raises:
        StoreError: if there is no store at ``store``, or where a neck's memory should be.
        UserError: if prefix, prompt and caption may be longer than the head's ``positions``, a neck's memory was
            made with another encoder than ``store``, or a neck comes after the one that makes the prefix.
    """

    exportable = {
        "head": Child(), "necks": Parts(), "data_preprocessor": Child(), "rerank": Child(), **data("grids")
    }  # fmt: skip

    def __init__(
        self,
        head: Model,
        necks: Annotated[
            Mapping[str, Model | None],
            That("a dict of necks by name, of one or more", lambda necks: any(map(bool, necks.values()))),
        ],
        data_preprocessor: Model,
        store: Name | None = None,
        backbone: Model | None = None,
        rerank: Model | None = None,
        grids: bool = False,
        init_cfg: dict | None = None,
        other_backbones: OtherEncoders | None = None,
    ) -> None:
        own = None if store is None else Store.open(store)
        if own is not None and "tokenizer" not in data_preprocessor:
            data_preprocessor = {**data_preprocessor, "tokenizer": str(own.tokenizer_path)}
        elif "tokenizer" not in data_preprocessor:
            raise UserError("SynthCaptioner needs its store, or data_preprocessor.tokenizer: one of them has the words")
        super().__init__(data_preprocessor, init_cfg)
        tokenizer = self.data_preprocessor.tokenizer
        special = {
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "pad_id": tokenizer.pad_id,
        }
        dim = None if own is None else own.embed_dim
        self.grids = grids
        seen = (own.grid_shape or [None])[-1] if grids and own is not None else dim
        self.head_settings = filled_in({**special, **head}, context_dim=seen)
        self.head = MODELS.build(self.head_settings)
        known = {"in_dim": dim, "embed_dim": dim, "width": getattr(self.head, "width", None)}
        self.neck_settings = {name: filled_in(neck, **known) for name, neck in necks.items() if neck is not None}
        self.necks = nn.ModuleList(map(MODELS.build, self.neck_settings.values()))
        self._check_positions()
        self._backbone_cfgs = {None: backbone, **(other_backbones or {})}
        self.ranker = None if rerank is None else MODELS.build(rerank)
        self._backbones: dict[str | None, nn.Module] = {}  # in a dict: frozen, and no part of the state_dict
        self.encoder: dict[str, Any] | None = None if own is None else own.encoder
        self.other_encoders: dict[str, dict[str, Any]] = {} if own is None else dict(own.other_encoders)
        self._store = own
        self._memories: dict[tuple[str, str | None], CaptionMemory] = {}
        others = {neck.memory_store for neck in self.remembering} - {None}
        self._stores = {path: Store.open(path) for path in sorted(others)}
        self._check_memories()
        for neck in self.necks:
            if isinstance(neck, StoreNeck) and own is not None:
                neck.bind_store(own)

    def _check_positions(self) -> None:
        *others, last = self.neck_settings
        for name, neck in zip(others, self.necks):
            if hasattr(neck, "prefix_length"):
                raise UserError(
                    f"model.necks.{name} makes the prefix, and {last} comes after it. What a config adds to its base's "
                    "necks comes last: name all in their order, with _delete_=True"
                )
        positions = getattr(self.head, "positions", None)
        prefix = getattr(self.necks[-1], "prefix_length", None)
        if positions is None or prefix is None:  # a head or neck of the user's without these attributes
            return
        data = self.data_preprocessor
        prompt = 0 if data.prompt is None else data.max_prompt_length
        retrieved = sum(getattr(neck, "prompt_length", 0) for neck in self.necks)
        longest = prefix + retrieved + prompt + 1 + data.max_length
        if longest > positions:
            raise UserError(
                f"head.positions is {positions}, but a sequence may have {longest}: necks.{last}.prefix_length {prefix}"
                + (f" + prompt_length of retrieved captions {retrieved}" if retrieved else "")
                + f" + data_preprocessor.max_prompt_length {prompt} + 1 (begin token) + data_preprocessor.max_length "
                f"{data.max_length}. Raise head.positions (fixed in a pretrained decoder) or lower one of the others."
            )

    # ---- checks that encoder, tokenizer and memory belong together
    def check_encoder(self, encoder: Mapping[str, Any] | None, what: str, name: str | None = None) -> None:
        """Refuse features of another encoder than the captioner's; the one place where that is done.

        Args:
            encoder: fingerprint; ``None`` is not known, and passes.
            what: whose it is, for the message.
            name: of the encoder among :attr:`other_encoders`. Default ``None``: the captioner's own.

        Raises:
            UserError: naming both encoders.
        """
        own = self.encoder if name is None else self.other_encoders.get(name)
        if encoder is not None and own is not None and not same_encoder(encoder, own):
            named = "" if name is None else f" by the name {name!r}"
            raise UserError(
                f"{what} is of another encoder{named} than the captioner: {describe_mismatch(encoder, own)}. Use one "
                "encoder for all, or make the store again with this one."
            )

    def check_encoders(self, encoded: Store | CaptionMemory, what: str) -> None:
        """Refuse a store or a memory with features of other encoders than the captioner's; see :meth:`check_encoder`.

        Args:
            encoded: the store or memory; encoders that the captioner does not need do not matter.
            what: what it is, for the message.

        Raises:
            UserError: naming both encoders.
        """
        self.check_encoder(encoded.encoder, what)
        for name in self.encoders_needed:
            self.check_encoder(encoded.other_encoders.get(name), what, name)

    @property
    def encoders_needed(self) -> set[str]:
        """Names of the encoders beside the captioner's own that necks, ranker and scores need features of."""
        ranking = [] if self.ranker is None else [self.ranker, *self.ranker.scores.values()]
        return {name for part in (*self.necks, *ranking) if (name := named_encoder(part)) is not None}

    def _check_memories(self) -> None:
        for path, store in self._stores.items():
            self.check_encoders(store, f"the memory {path}")
        for neck in self.remembering:
            if neck.memory is not None:
                self.check_encoders(neck.memory, "the memory in use")

    def check_rows(self, store: Store) -> None:
        """Refuse to train where ``exclude_self`` would hide another caption than a sample's own.

        Args:
            store: the store that is trained on, whose rows the samples bring.

        Raises:
            UserError: if a neck's memory is of another store's captions.
        """
        for neck in self.remembering:
            if not neck.exclude_self:
                continue
            digest = self._store_of(neck).captions_sha256(None) if neck.memory is None else neck.memory.store_digest
            if digest not in (None, store.captions_sha256(None)):
                raise UserError(
                    f"{type(neck).__name__} hides a caption (exclude_self) by its row in the store trained on, "
                    f"{store.path}, but its memory is of another store, {neck.memory_store or self._store.path}, where "
                    "that row is another caption: use one store for both, or turn exclude_self off."
                )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint's ``meta`` says of the parts that are not in it: encoder, tokenizer, memory (by hash)."""
        neck = next(iter(self.remembering), None)
        if neck is not None and neck.memory is not None:
            digest = neck.memory.digest
        else:
            store = None if neck is None else self._store_of(neck, required=False)
            digest = None if store is None else store.captions_sha256(neck.split)
        others = {name: self.other_encoders[name] for name in self.encoders_needed if name in self.other_encoders}
        return {
            "encoder": self.encoder,
            **({"other_encoders": others} if others else {}),
            "tokenizer_sha256": self.data_preprocessor.tokenizer.sha256,
            "memory_sha256": digest,
        }

    def check_identity(self, identity: Mapping[str, Any] | None) -> None:
        """Refuse a checkpoint of another tokenizer or encoder; one that knows no encoder yet takes the checkpoint's.

        Args:
            identity: :attr:`identity` of the captioner that was saved; ``None``: it is not known, and passes.

        Raises:
            UserError: naming what differs.
        """
        if identity is None:
            return
        if not isinstance(identity, Mapping):
            raise UserError("the checkpoint's meta does not say what it was trained with; train it anew")
        encoder = checked_fingerprint(identity.get("encoder"), "the checkpoint's meta")
        others = checked_fingerprints(identity.get("other_encoders", {}), "the checkpoint's meta")
        tokenizer = self.data_preprocessor.tokenizer
        if identity.get("tokenizer_sha256") != tokenizer.sha256:
            raise UserError(
                f"the checkpoint was trained with another tokenizer than {tokenizer.path}: its words would come out as "
                "others. Set model.data_preprocessor.tokenizer to the tokenizer.json in the checkpoint's work dir."
            )
        self.check_encoder(encoder, "the checkpoint")
        for name, other in others.items():
            self.check_encoder(other, "the checkpoint", name)
        self.encoder, self.other_encoders = encoder or self.encoder, {**self.other_encoders, **others}
        self._check_memories()

    # ---- the memory
    @property
    def remembering(self) -> list[RemembersCaptions]:
        """The parts that remember captions: necks, and a ranker that retrieves some."""
        necks = [neck for neck in self.necks if isinstance(neck, RemembersCaptions)]
        return [*necks, self.ranker] if self.ranker is not None and self.ranker.retrieves else necks

    def _store_of(self, neck: RemembersCaptions, required: bool = True) -> Store | None:
        store = self._store if neck.memory_store is None else self._stores[neck.memory_store]
        if store is None and required:
            neck.bound(torch.device("cpu"))  # raises: there is no memory
        return store

    def _bind(self, neck: RemembersCaptions) -> None:
        """Give a neck its memory, read once for all necks that want the same."""
        if neck.memory is not None:
            return
        store = self._store_of(neck)
        key = str(store.path), neck.split
        if key not in self._memories:
            device = next(self.parameters()).device
            self._memories[key] = CaptionMemory.from_store(store, neck.split, device)
        neck.bind(self._memories[key])

    @property
    def memory(self) -> CaptionMemory | None:
        """What the first neck with a memory remembers, read at first use; ``None`` if no neck has one."""
        for neck in self.remembering:
            self._bind(neck)
            return neck.memory
        return None

    def bind_memory(self, memory: CaptionMemory) -> None:
        """Let all necks with a memory use this one from now on.

        Raises:
            UserError: if no neck has a memory, or it was made with another encoder.
        """
        if not self.remembering:
            raise UserError(
                "this captioner has no memory: no TextMemoryProjection or the like among its necks, no ranker that "
                "retrieves"
            )
        self.check_encoders(memory, "the memory")
        width = None if self.encoder is None else len(self.encoder["text"])
        if width not in (None, memory.features.shape[1]):
            raise UserError(f"a memory of {memory.features.shape[1]} numbers a caption; the captioner's has {width}")
        for neck in self.remembering:
            if (name := named_encoder(neck)) is not None:
                memory.features_of(name)  # refuses one that lacks them
            neck.bind(memory)

    @contextlib.contextmanager
    def swapped_memory(self, memory: CaptionMemory) -> Iterator[None]:
        """While in the context, remember other captions ("TT", target text); afterwards what was remembered before.

        Args:
            memory: of the same encoder.

        Raises:
            UserError: see :meth:`bind_memory`.
        """
        before = [(neck, neck.memory) for neck in self.remembering]
        self.bind_memory(memory)
        try:
            yield
        finally:
            for neck, own in before:
                neck.bind(own)

    # ---- images
    @property
    def backbone(self) -> nn.Module:
        """:meth:`backbone_of` the captioner's own."""
        return self.backbone_of(None)

    def backbone_of(self, name: str | None) -> nn.Module:
        """An encoder, built at first use.

        Args:
            name: of one of ``other_backbones``; ``None``: the captioner's own.

        Raises:
            UserError: if the config names none, or its features are not those
                that the captioner was trained on.
        """
        if name not in self._backbones:
            where = "model.backbone" if name is None else f"model.other_backbones.{name}"
            config = self._backbone_cfgs.get(name)
            if config is None:
                raise UserError(
                    "there are images without features, or captions to encode, and the captioner's config has no "
                    "backbone for it: encode images beforehand (python tools/encode_images.py CONFIG), or give "
                    f"{where} (needed for model.rerank, whose captions cannot be encoded beforehand)"
                )
            backbone = MODELS.build(config).to(next(self.parameters()).device)
            fingerprint = backbone.fingerprint()
            self.check_encoder(fingerprint, where, name)
            if name is None and self.encoder is None:
                self.encoder = fingerprint
            elif name is not None:
                self.other_encoders.setdefault(name, fingerprint)
            self._check_memories()
            self._backbones[name] = backbone
        return self._backbones[name]

    def encode(self, images: Sequence[Image], encoder: str | None = None) -> Tensor:
        """Features of images, ``(B, D)`` float32, L2-normalised.

        Args:
            images: B images.
            encoder: name of one of ``other_backbones``. Default ``None``: the captioner's own.
        """
        device = next(self.parameters()).device
        return self.backbone_of(encoder).encode_pil(list(images)).to(device)

    def encode_by_others(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Features of images by the encoders that are needed beside the captioner's own, by name."""
        return {name: self.encode(images, name) for name in sorted(self.encoders_needed)}

    # ---- MMEngine's contract
    def run_necks(self, prefix: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """All necks in order; what they made, and the losses of those that learn by one of their own.

        Raises:
            UserError: if the last neck made no prefix.
        """
        losses: dict[str, Tensor] = {}
        for neck in self.necks:
            if isinstance(neck, MemoryNeck) and neck.acts(phase, prefix.source):
                self._bind(neck)
            prefix, own = neck(prefix, phase)
            losses.update(own)
        if prefix.feats.dim() != 3:
            raise UserError(
                f"model.necks ({', '.join(self.neck_settings)}) make no prefix: the last one must be a projector, "
                f"which returns (B, L, width) as PrefixProjector does; it returned {tuple(prefix.feats.shape)}"
            )
        return prefix, losses

    def forward(
        self,
        prefix: PrefixBatch | None,
        input_ids: Tensor,
        lengths: Tensor,
        labels: Tensor | None = None,
        images: Sequence[Image] | None = None,
        source: str = "real",
        samples: list[CaptionSample] | None = None,
        mode: str = "tensor",
        generation: dict[str, Any] | None = None,
    ) -> dict[str, Tensor] | list[CaptionSample] | Tensor:
        """Run the captioner on a batch of the preprocessor.

        Args:
            prefix: features, or ``None`` with ``images``.
            input_ids: ``(B, T)`` prompt (and caption), padded on the right.
            lengths: ``(B,)``.
            labels: ``(B, T)``, for ``mode='loss'``.
            images: PIL images, encoded here by the captioner's own encoder and by those that are needed besides.
            source: the batch's source, with ``images``.
            samples: the samples, for ``mode='predict'``.
            mode: ``'loss'``: dict of losses; ``'predict'``: the samples with their
                ``pred_*`` fields filled, and their features where they brought an image; ``'tensor'``: logits
                ``(B, T, V)``, of T tokens with the prompts that necks made.
            generation: options of the head's ``generate`` over those of its config, for
                ``mode='predict'``; ``rerank`` among them counts instead of the captioner's own. Default ``None``.

        Raises:
            ValueError: for another mode.
        """
        if prefix is None:
            grids = self.backbone.encode_grid(list(images)) if self.grids else None
            others = self.encode_by_others(images)
            prefix = PrefixBatch(feats=self.encode(images), source=source, other_feats=others, context=grids)
            for row, sample in enumerate(samples or []):
                sample.feat = prefix.feats[row]  # metrics want it
                sample.other_feats = {name: feats[row] for name, feats in others.items()}
        if mode == "loss":
            prefix, losses = self.run_necks(prefix, "train")
            input_ids, lengths, labels = self._with_prompts(prefix, input_ids, lengths, labels)
            context = _context_of(prefix)
            losses.update(self.head.loss(prefix.feats, input_ids, lengths, labels, prefix.weights, **context))
            return losses
        if mode == "predict":
            return self._predict(prefix, input_ids, lengths, samples or [], dict(generation or {}))
        if mode == "tensor":
            prefix, _ = self.run_necks(prefix, "train" if labels is not None else "predict")
            input_ids, lengths, _ = self._with_prompts(prefix, input_ids, lengths)
            return self.head.logits(prefix.feats, input_ids, lengths, **_context_of(prefix))
        raise ValueError(f"mode is 'loss', 'predict' or 'tensor', not {mode!r}")

    def _with_prompts(
        self, prefix: PrefixBatch, input_ids: Tensor, lengths: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tokens with the prompts of necks before them."""
        if prefix.prompts is None:
            return input_ids, lengths, labels
        most = max(getattr(neck, "prompt_length", 0) for neck in self.necks)
        return self.data_preprocessor.with_prompts(prefix.prompts, most, input_ids, lengths, labels)

    def _predict(
        self,
        prefix: PrefixBatch,
        input_ids: Tensor,
        lengths: Tensor,
        samples: list[CaptionSample],
        options: dict[str, Any],
    ) -> list[CaptionSample]:
        images = prefix  # as the encoders gave them
        prefix, _ = self.run_necks(prefix, "predict")
        ranker = self._ranker_of(options.pop("rerank", None))
        wanted = options.get("num_return_sequences", self.head.generation.get("num_return_sequences", 1))
        if ranker is not None:
            # All captions of the beams are ranked, also where fewer are asked for.
            beams = options.get("num_beams", self.head.generation.get("num_beams", 1))
            options["num_return_sequences"] = max(wanted, beams)
        options.setdefault("max_new_tokens", self.data_preprocessor.max_length)
        input_ids, lengths, _ = self._with_prompts(prefix, input_ids, lengths)
        written = self.head.generate(prefix.feats, input_ids, lengths, **_context_of(prefix), **options)
        logprobs, scores = written["logprobs"].float(), written["scores"]
        flat = self.data_preprocessor.tokenizer.decode(written["ids"].flatten(0, 1).tolist())
        captions = [flat[start : start + logprobs.shape[1]] for start in range(0, len(flat), logprobs.shape[1])]
        if ranker is not None:
            image_feats = {name: images.feats_of(name) for name in (None, *self.encoders_needed)}
            own = Candidates(
                captions, logprobs, image_feats, [sample.pred_tags or [] for sample in samples],
                lambda name, texts: self.backbone_of(name).encode_text(texts), self.data_preprocessor.tokenizer.encode,
            )  # fmt: skip
            self._retrieve(ranker, own, prefix, input_ids, lengths)
            captions, logprobs, scores = own.captions, own.logprobs, ranker.rank(own)
        for sample, *found in zip(samples, captions, logprobs.tolist(), scores.tolist()):
            rows = list(zip(*found))
            if ranker is not None:
                rows.sort(key=lambda row: -row[2])  # stable: equals stay in the beams' order
                rows = [row for i, row in enumerate(rows) if row[0] not in {other[0] for other in rows[:i]}]
            sample.pred_captions, sample.pred_logprobs, sample.pred_scores = map(list, zip(*rows[:wanted]))
            sample.pred_caption = sample.pred_captions[0]
        return samples

    def _ranker_of(self, rerank: bool | None) -> CaptionRanker | None:
        """The ranker, unless captions are to stay as they are; where the config names none, the encoder's word."""
        if rerank is False:
            return None
        return self.ranker or (CaptionRanker({"image": {"type": ImageScore}}) if rerank else None)

    def _retrieve(
        self, ranker: CaptionRanker, candidates: Candidates, prefix: PrefixBatch, input_ids: Tensor, lengths: Tensor
    ) -> None:
        """Let a ranker see the captions of the memory that lie nearest to the images, and choose among the first."""
        if not ranker.retrieves:
            return
        self._bind(ranker)
        memory = ranker.bound(prefix.feats.device)
        queries = F.normalize(candidates.image_feats[ranker.encoder].float(), dim=-1)
        count = min(ranker.retrieves, len(memory))
        candidates.similarities, places = blockwise_topk(queries, memory.features_of(ranker.encoder), count)
        candidates.retrieved = [[memory.text(place) for place in row] for row in places.tolist()]
        for n in range(min(ranker.retrieved, count)):
            column = [row[n] for row in candidates.retrieved]
            candidates.add(column, self._logprobs(prefix, input_ids, lengths, column))

    def _logprobs(self, prefix: PrefixBatch, input_ids: Tensor, lengths: Tensor, captions: Sequence[str]) -> Tensor:
        """``(B,)`` summed log-probabilities of one given caption for each image, its end token included."""
        prompts = [row[:length] for row, length in zip(input_ids.tolist(), lengths.tolist())]
        tokens = self.data_preprocessor.tokens(prompts, captions)
        return self.head.logprobs(prefix.feats, **tokens, **_context_of(prefix))

    @torch.no_grad()
    def clip_scores(self, image_feats: Tensor, captions: Sequence[str]) -> np.ndarray:
        """CLIPScore of images and captions under the captioner's own encoder.

        Args:
            image_feats: ``(N, D)``, as the encoder gives them.
            captions: N sentences.

        Returns:
            ``(N,)`` float64, see :func:`~synthcap_mm.evaluation.clip_score.clip_score`; 0 for a caption without words,
            as the metric has it.

        Raises:
            UserError: if the captioner has no ``backbone``.
        """
        from synthcap_mm.evaluation.clip_score import clip_score

        different = list(dict.fromkeys(captions))
        place = {caption: row for row, caption in enumerate(different)}
        encoded = self.backbone.encode_text(different)
        scores = clip_score(image_feats, encoded[[place[caption] for caption in captions]])
        # An empty caption scores 0; otherwise the prompt alone would get a score.
        scores[[not caption.strip() for caption in captions]] = 0.0
        return scores

    @torch.no_grad()
    def memory_weights(self, prefix: PrefixBatch, k: int) -> tuple[Tensor, Tensor] | None:
        """The captions of the memory that carry most weight in a prediction.

        Args:
            prefix: the batch, as the necks get it.
            k: how many, at most as many as the memory has.

        Returns:
            Weights and places in the memory, ``(B, k)`` each, of the first neck with a memory that
            acts in prediction (see :meth:`MemoryNeck.attend`); ``None`` if there is none.
        """
        for neck in self.necks:
            if isinstance(neck, MemoryNeck) and neck.acts("predict", prefix.source):
                self._bind(neck)
                return neck.attend(prefix.feats_of(named_encoder(neck)), min(k, len(neck.memory)))
            prefix, _ = neck(prefix, "predict")
        return None

    def train(self, mode: bool = True) -> SynthCaptioner:
        """As torch's; says once when nothing can learn."""
        if mode and not any(p.requires_grad for p in self.parameters()):
            print_log("no parameter of the captioner requires a gradient", logger="current", level=30)
        return super().train(mode)


def _context_of(prefix: PrefixBatch) -> dict[str, Tensor]:
    """What a head with cross-attention attends to, as its argument; a head without needs to know none."""
    return {} if prefix.context is None else {"context": prefix.context}
