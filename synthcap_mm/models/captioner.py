"""The captioner: (backbone →) necks → head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from PIL.Image import Image
from torch import Tensor, nn

from synthcap_mm.registry import MODELS
from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder
from synthcap_mm.structures import CaptionSample, PrefixBatch

if TYPE_CHECKING:
    import numpy as np


@MODELS.register_module()
class SynthCaptioner(BaseModel):
    """Captions images, having learnt from text and synthetic images.

    Args:
        head: the decoder's config. What depends on the tokenizer (``vocab_size`` and
            special ids) is filled in.
        necks: list of configs, run in order; a method is a list of necks. The last
            one makes the prefix of embeddings (``PrefixProjector``).
        data_preprocessor: config of :class:`CaptionPreprocessor`; its ``tokenizer``
            is the store's unless it names one.
        store: path of the store that the captioner is trained on. It gives the
            tokenizer and the memory of ``TextMemoryProjection`` where those name none,
            and tells which encoder made the features, so that others are refused.
            Default ``None``.
        backbone: the encoder's config; built only when images arrive without
            features, or captions have to be encoded. Default ``None``.
        rerank: order the captions of the beams by their CLIPScore with the image, which needs
            ``backbone``, instead of by their likelihood. Default ``False``: docs/inference.md has what it changes.
        init_cfg: passed on to MMEngine. Default ``None``.

    Raises:
        StoreError: if there is no store at ``store``.
        ValueError: if prefix, prompt and caption may be longer than the head's ``positions``.
        StoreError: if a neck's memory was made with another encoder than ``store``.
    """

    def __init__(
        self,
        head: dict,
        necks: Sequence[dict],
        data_preprocessor: dict,
        store: str | None = None,
        backbone: dict | None = None,
        rerank: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        pair_store = None
        if store is not None:
            from synthcap_mm.store import Store

            pair_store = Store.open(store)
            if isinstance(data_preprocessor, dict) and "tokenizer" not in data_preprocessor:
                data_preprocessor = {**data_preprocessor, "tokenizer": str(pair_store.tokenizer_path)}
        super().__init__(data_preprocessor, init_cfg)
        tokenizer = self.data_preprocessor.tokenizer
        special = {
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "pad_id": tokenizer.pad_id,
        }
        self.head = MODELS.build({**special, **head})
        self.necks = nn.ModuleList(MODELS.build(neck) for neck in necks)
        self._check_positions()
        self._backbone_cfg = backbone
        self.rerank = rerank
        self._backbone: list[nn.Module] = []  # in a list: frozen, and no part of the state_dict
        self.encoder: dict[str, Any] | None = None
        if pair_store is not None:
            self.encoder = pair_store.encoder
            for neck in self.necks:
                if getattr(neck, "memory_path", "") is None:
                    neck.memory_path = str(store)
                if getattr(neck, "store_path", "") is None:
                    neck.store_path = str(store)
                if hasattr(neck, "expect_rows_of"):
                    # Compared at the first training batch: a captioner that only predicts may have another memory.
                    neck.expect_rows_of(pair_store, check=False)
            self.check_memories(self.encoder)
        # A hook, since MMEngine walks the modules by itself when it saves, and honours these only.
        self.register_state_dict_post_hook(self._add_identities)

    def _check_positions(self) -> None:
        positions = getattr(self.head, "positions", None)
        prefix = getattr(self.necks[-1], "prefix_length", None) if len(self.necks) else None
        if positions is None or prefix is None:  # parts of the user's own that do not say
            return
        data = self.data_preprocessor
        prompt = 0 if data.prompt is None else data.max_prompt_length
        longest = prefix + prompt + 1 + data.max_length
        if longest > positions:
            raise ValueError(
                f"head.positions is {positions}, but a sequence may have {longest}: necks[-1].prefix_length {prefix} + "
                f"data_preprocessor.max_prompt_length {prompt} + 1 (begin token) + data_preprocessor.max_length "
                f"{data.max_length}. Raise head.positions (fixed in a pretrained decoder) or lower one of the others."
            )

    def check_memories(self, encoder: dict[str, Any], what: str = "the captioner") -> None:
        """Refuse necks whose memory was made with another encoder.

        Args:
            encoder: fingerprint of the encoder whose features come in.
            what: whose it is, for the message. Default ``'the captioner'``.

        Raises:
            StoreError: naming the memory, and both encoders.
        """
        for neck in self.necks:
            if hasattr(neck, "expect_encoder"):
                neck.expect_encoder(encoder, what)

    # ---- what a checkpoint says of the parts that are not in it
    @staticmethod
    def _add_identities(model: SynthCaptioner, state_dict: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        digest = bytearray.fromhex(model.data_preprocessor.tokenizer.sha256)
        state_dict[prefix + "tokenizer_sha256"] = torch.frombuffer(digest, dtype=torch.uint8).clone()
        if model.encoder is not None:
            name = bytearray(model.encoder["name"].encode())
            state_dict[prefix + "encoder_name"] = torch.frombuffer(name, dtype=torch.uint8).clone()
            state_dict[prefix + "encoder_fingerprint"] = torch.tensor([model.encoder["image"], model.encoder["text"]])

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        digest = state_dict.pop(prefix + "tokenizer_sha256", None)
        if digest is not None and bytes(digest.tolist()).hex() != self.data_preprocessor.tokenizer.sha256:
            raise RuntimeError(
                "the checkpoint was trained with another tokenizer than "
                f"{self.data_preprocessor.tokenizer.path}: its words would come out as others. Use the tokenizer.json "
                "of the store it was trained on."
            )
        name = state_dict.pop(prefix + "encoder_name", None)
        vectors = state_dict.pop(prefix + "encoder_fingerprint", None)
        if name is not None and vectors is not None:
            encoder = {
                "name": bytes(name.tolist()).decode(),
                "image": vectors[0].tolist(),
                "text": vectors[1].tolist(),
            }
            if self.encoder is not None and not same_encoder(encoder, self.encoder):
                raise RuntimeError(
                    "the checkpoint was trained on the features of another encoder than this config's store: "
                    + describe_mismatch(encoder, self.encoder)
                )
            self.encoder = encoder
            self.check_memories(encoder, "the checkpoint")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    # ---- images
    @property
    def backbone(self) -> nn.Module:
        """The encoder, built at first use.

        Raises:
            RuntimeError: if the config names none, or its features are not those
                that the captioner was trained on.
        """
        if not self._backbone:
            if self._backbone_cfg is None:
                raise RuntimeError(
                    "there are images without features, or captions to encode, and the captioner's config has no "
                    "backbone for it: encode images beforehand (python tools/encode_images.py CONFIG), or give "
                    "model.backbone (needed for model.rerank, whose captions cannot be encoded beforehand)"
                )
            backbone = MODELS.build(self._backbone_cfg).to(next(self.parameters()).device)
            if self.encoder is not None and not same_encoder(backbone.fingerprint(), self.encoder):
                raise RuntimeError(
                    "model.backbone is not the encoder that the captioner was trained with: "
                    + describe_mismatch(self.encoder, backbone.fingerprint())
                )
            if self.encoder is None:
                self.check_memories(backbone.fingerprint(), "model.backbone")
            self._backbone.append(backbone)
        return self._backbone[0]

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Features of images, ``(B, D)`` float32, L2-normalised."""
        device = next(self.parameters()).device
        return self.backbone.encode_pil(list(images)).to(device)

    # ---- MMEngine's contract
    def run_necks(self, prefix: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """All necks in order; what they made, and the losses of those that learn by one of their own."""
        losses: dict[str, Tensor] = {}
        for neck in self.necks:
            prefix, own = neck(prefix, phase)
            losses.update(own)
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
            images: PIL images, encoded here.
            source: the batch's source, with ``images``.
            samples: the samples, for ``mode='predict'``.
            mode: ``'loss'``: dict of losses; ``'predict'``: the samples with their
                ``pred_*`` fields filled; ``'tensor'``: logits ``(B, T, V)``.
            generation: options of the head's ``generate`` over those of its config, for
                ``mode='predict'``; ``rerank`` among them counts instead of the captioner's own. Default ``None``.

        Raises:
            ValueError: for another mode.
        """
        if prefix is None:
            prefix = PrefixBatch(feats=self.encode(images), source=source)
        if mode == "loss":
            prefix, losses = self.run_necks(prefix, "train")
            losses.update(self.head.loss(prefix.feats, input_ids, lengths, labels, prefix.weights))
            return losses
        if mode == "predict":
            return self._predict(prefix, input_ids, lengths, samples or [], dict(generation or {}))
        if mode == "tensor":
            prefix, _ = self.run_necks(prefix, "train" if labels is not None else "predict")
            return self.head.logits(prefix.feats, input_ids, lengths)
        raise ValueError(f"mode is 'loss', 'predict' or 'tensor', not {mode!r}")

    def _predict(
        self,
        prefix: PrefixBatch,
        input_ids: Tensor,
        lengths: Tensor,
        samples: list[CaptionSample],
        options: dict[str, Any],
    ) -> list[CaptionSample]:
        image_feats = prefix.feats
        prefix, _ = self.run_necks(prefix, "predict")
        rerank = options.pop("rerank", self.rerank)
        wanted = options.get("num_return_sequences", self.head.generation.get("num_return_sequences", 1))
        if rerank:
            # All that the beams found are judged, though fewer may be asked for.
            beams = options.get("num_beams", self.head.generation.get("num_beams", 1))
            options["num_return_sequences"] = max(wanted, beams)
        options.setdefault("max_new_tokens", self.data_preprocessor.max_length)
        written = self.head.generate(prefix.feats, input_ids, lengths, **options)
        best = written["ids"].shape[1]
        captions = self.data_preprocessor.tokenizer.decode(written["ids"].flatten(0, 1).tolist())
        scores = written["scores"]
        if rerank:
            scores = torch.from_numpy(self.clip_scores(image_feats.repeat_interleave(best, 0), captions))
            scores = scores.view(-1, best)
        for i, sample in enumerate(samples):
            rows = list(zip(captions[i * best :], written["logprobs"][i].tolist(), scores[i].tolist()))
            if rerank:
                rows.sort(key=lambda row: -row[2])  # stable: equals stay in the beams' order
            found, logprobs, ranks = zip(*rows[:wanted])
            sample.pred_captions, sample.pred_logprobs, sample.pred_scores = list(found), list(logprobs), list(ranks)
            sample.pred_caption = sample.pred_captions[0]
        return samples

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
            RuntimeError: if the captioner has no ``backbone``.
        """
        from synthcap_mm.evaluation.clip_score import clip_score

        different = list(dict.fromkeys(captions))
        place = {caption: row for row, caption in enumerate(different)}
        encoded = self.backbone.encode_text(different)
        scores = clip_score(image_feats, encoded[[place[caption] for caption in captions]])
        # The prompt that the encoder puts before it would score.
        scores[[not caption.strip() for caption in captions]] = 0.0
        return scores

    @torch.no_grad()
    def memory_weights(self, prefix: PrefixBatch, k: int) -> tuple[Tensor, Tensor] | None:
        """The captions of the memory that carry most weight in a prediction.

        Args:
            prefix: the batch, as the necks get it.
            k: how many, at most as many as the memory has.

        Returns:
            Weights and rows of the memory, ``(B, k)`` each, of the first neck with a memory that
            acts in prediction (see :meth:`TextMemoryProjection.attend`); ``None`` if there is none.
        """
        for neck in self.necks:
            if hasattr(neck, "attend") and neck.acts("predict", prefix.source):
                neck.load_memory()
                return neck.attend(prefix.feats, min(k, len(neck.memory)))
            prefix, _ = neck(prefix, "predict")
        return None

    def train(self, mode: bool = True) -> SynthCaptioner:
        """As torch's; says once when nothing can learn."""
        if mode and not any(p.requires_grad for p in self.parameters()):
            print_log("no parameter of the captioner requires a gradient", logger="current", level=30)
        return super().train(mode)
