"""The decoder: GPT-2 behind a soft prefix and a hard prompt."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import Options, data, refused
from synthcap_mm.models.heads.beam_search import OPTIONS as BEAM_OPTIONS
from synthcap_mm.models.heads.beam_search import beam_search
from synthcap_mm.models.heads.lora import LoRA, adapt, merge
from synthcap_mm.models.heads.nucleus import NucleusSampling
from synthcap_mm.models.preprocessor import IGNORE
from synthcap_mm.options import Count, CountOrZero, Name, Part, Positive, Range, Share, Size
from synthcap_mm.registry import MODELS
from synthcap_mm.requirements import require

# GPT-2's activation as one operation of torch; transformers' 'gelu_new' is the same function in six, a tenth to a
# fifth of a small decoder's training step on a CPU.
_FUSED_GELU = "gelu_pytorch_tanh"

_TokenId = Annotated[int, Range("[0, 1e7)")]


#: More than any caption needs (assumed).
_MOST_IN_AN_EXPORT = {
    "positions": 4096, "num_beams": 64, "num_return_sequences": 64, "max_new_tokens": 1024, "min_new_tokens": 256,
    "no_repeat_ngram_size": 1024,
}  # fmt: skip


class Generation(TypedDict, total=False):
    """Defaults of :meth:`GPT2CaptionHead.generate`; with more of transformers' options."""

    num_beams: Annotated[int, Range("[1, 1000]")]
    num_return_sequences: Annotated[int, Range("[1, 1000]")]
    max_new_tokens: Count
    min_new_tokens: CountOrZero
    length_penalty: float
    early_stopping: bool | Literal["never"]
    no_repeat_ngram_size: CountOrZero
    use_cache: bool
    do_sample: bool
    top_p: Share
    temperature: Positive


@MODELS.register_module()
class GPT2CaptionHead(BaseModule):
    """Writes a caption after ``[soft prefix][prompt <bos>]``.

    SynTIC's paper gives 4 layers and 4 heads, trained from scratch. Assumed are width 768 (GPT-2's), beam 5 (as in
    SaCap's public code) and label smoothing 0.1 (in no code of the group's: SaCap trains without). Weights begin with a
    deviation of 0.02 · √(768 / width), GPT-2's at its own width (assumed for others).

    Args:
        vocab_size: tokens of the tokenizer (the captioner fills it in).
        bos_id: begin token (filled in).
        eos_id: end token (filled in).
        pad_id: padding token (filled in).
        width: hidden width. Default 768.
        layers: Transformer blocks. Default 4.
        heads: attention heads. Default 4.
        positions: longest sequence, prefix and prompt included. Default 128.
        dropout: in embeddings, attention and residuals. Default 0.1.
        pretrained: name or local folder of a GPT-2 to start from; then ``width``,
            ``layers``, ``heads`` and ``positions`` are its own and those given are not
            used; ``dropout`` is. Default ``None``: from scratch.
        label_smoothing: Default 0.1.
        cross_attention: let each block attend to a context, which a neck or the dataset gives, behind its
            self-attention, as transformers' GPT-2 does; these layers begin at random. Default ``False``.
        context_dim: width of the context; the captioner fills in that of the store's features. Where it is not the
            decoder's own, a linear map comes first. Default ``None``: the decoder's own.
        lora: learn low-rank adapters of a pretrained decoder's self-attention in place of its weights, see
            :class:`~synthcap_mm.models.heads.lora.LoRA`; cross-attention learns as it is. Needs the package peft.
            Default ``None``: all weights learn.
        generation: defaults of :meth:`generate`. Default ``num_beams=5``.
        init_cfg: passed on to MMEngine. Default ``None``.

    Attributes:
        synced_gpus: whether ranks generate in step, as they must where each holds a share of the weights; a
            sharding strategy sets it. ``False`` at first.

    Raises:
        UserError: if a pretrained model's vocabulary is not the tokenizer's, or ``lora`` has none to adapt; in use,
            if there is a context and no cross-attention, or the other way round.
        OSError: if ``pretrained`` cannot be loaded.
        ImportError: if ``lora`` is asked for and peft is not installed.
    """

    exportable = {
        # An export has no `lora`: its weights are merged.
        **data("width", "layers", "heads", "positions", "dropout", "label_smoothing", "cross_attention", "context_dim"),
        # Others of transformers' options name code that it would download.
        "generation": Options(Generation.__annotations__),
    }

    @classmethod
    def from_export(cls, settings: dict[str, Any], where: str) -> dict[str, Any]:
        """Bounds what a caption may cost; see :func:`~synthcap_mm.exportable.read_component`."""
        numbers = {**settings, **(settings.get("generation") or {})}
        for name, most in _MOST_IN_AN_EXPORT.items():
            if isinstance(numbers.get(name), (int, float)) and numbers[name] > most:
                raise refused(f"{where}.{name}", numbers[name], f"at most {most}")
        return settings

    def __init__(
        self,
        vocab_size: Annotated[int, Range("[1, 1e7]")],
        bos_id: _TokenId,
        eos_id: _TokenId,
        pad_id: _TokenId,
        width: Size = 768,
        layers: Annotated[int, Range("[1, 1000]")] = 4,
        heads: Size = 4,
        positions: Size = 128,
        dropout: Part = 0.1,
        pretrained: Name | None = None,
        label_smoothing: Part = 0.1,
        cross_attention: bool = False,
        context_dim: Size | None = None,
        lora: LoRA | None = None,
        generation: Generation | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        transformers = require("transformers")
        if lora is not None and pretrained is None:
            raise UserError("GPT2CaptionHead.lora adapts a pretrained decoder: set pretrained, or leave lora out")
        if pretrained is None:
            config = transformers.GPT2Config(
                vocab_size=vocab_size,
                n_embd=width,
                n_layer=layers,
                n_head=heads,
                n_positions=positions,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                resid_pdrop=dropout,
                activation_function=_FUSED_GELU,
                add_cross_attention=cross_attention,
                # A narrower layer sums fewer inputs: with 0.02, attention would be even over all tokens for epochs.
                initializer_range=0.02 * (768 / width) ** 0.5,
                bos_token_id=bos_id,
                eos_token_id=eos_id,
                pad_token_id=pad_id,
            )
            self.decoder = transformers.GPT2LMHeadModel(config)
        else:
            config = transformers.GPT2Config.from_pretrained(
                pretrained,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                resid_pdrop=dropout,
                add_cross_attention=cross_attention,
            )
            if config.activation_function == "gelu_new":
                config.activation_function = _FUSED_GELU
            self.decoder = transformers.GPT2LMHeadModel.from_pretrained(pretrained, config=config)
            if self.decoder.config.vocab_size != vocab_size:
                raise UserError(
                    f"the pretrained GPT-2 {pretrained!r} has {self.decoder.config.vocab_size} tokens, the tokenizer "
                    f"has {vocab_size}; use tokenizer=dict(kind='gpt2') in the synthesis config"
                )
        if lora is not None:
            adapt(self.decoder, lora)
        self.cross_attention = cross_attention
        self.context_map = nn.Identity()
        if cross_attention and context_dim not in (None, self.width):
            self.context_map = nn.Linear(context_dim, self.width)
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.label_smoothing = label_smoothing
        self.generation = {"num_beams": 5, **(generation or {})}
        if unknown := {*self.generation} - {*transformers.GenerationConfig().to_dict()}:
            raise UserError(f"GPT2CaptionHead.generation takes no option {min(unknown)!r}")
        self.synced_gpus = False

    @property
    def width(self) -> int:
        """Width of the embeddings, which the prefix must have."""
        return self.decoder.config.n_embd

    @property
    def positions(self) -> int:
        """Longest sequence."""
        return self.decoder.config.n_positions

    def _embed(self, prefix: Tensor, input_ids: Tensor) -> Tensor:
        length = prefix.shape[1] + input_ids.shape[1]
        if length > self.positions:
            raise ValueError(f"a sequence of {length} is longer than the decoder's {self.positions} positions")
        tokens = self.decoder.get_input_embeddings()(input_ids)
        return torch.cat([prefix.to(tokens.dtype), tokens], dim=1)

    def _attended(self, context: Tensor | None) -> dict[str, Tensor]:
        """What the decoder's blocks attend to, as their argument; none without cross-attention."""
        if self.cross_attention != (context is not None):
            raise UserError(
                "the head has cross_attention=True, and no neck or dataset gives it a context (RetrievedCaptions, or "
                "grids=True of the captioner and its datasets; features alone have no grid)"
                if self.cross_attention
                else "there is a context, and the head does not attend to it: set head.cross_attention=True"
            )
        if context is None:
            return {}
        return {"encoder_hidden_states": self.context_map(context.to(self.decoder.get_input_embeddings().weight.dtype))}

    def merge_lora(self) -> None:
        """Add the adapters of ``lora`` to the weights that they adapt, once and for all."""
        merge(self.decoder)

    def forward(self, prefix: Tensor, input_ids: Tensor, lengths: Tensor, context: Tensor | None = None) -> Tensor:
        """Hidden states.

        Args:
            prefix: ``(B, L, W)``.
            input_ids: ``(B, T)``, padded on the right.
            lengths: ``(B,)`` tokens that count in each row.
            context: ``(B, N, C)``, with ``cross_attention``. Default ``None``.

        Returns:
            ``(B, T, W)``: at ``t`` the state from which token ``t`` is predicted.
        """
        embeds = self._embed(prefix, input_ids)
        soft = prefix.shape[1]
        place = torch.arange(embeds.shape[1], device=embeds.device)
        mask = (place < (lengths + soft)[:, None]).long()
        hidden = self.decoder.transformer(
            inputs_embeds=embeds, attention_mask=mask, use_cache=False, **self._attended(context)
        ).last_hidden_state
        return hidden[:, soft - 1 : -1]

    def logits(self, prefix: Tensor, input_ids: Tensor, lengths: Tensor, context: Tensor | None = None) -> Tensor:
        """``(B, T, V)``: at ``t`` the logits of token ``t``; arguments as of :meth:`forward`."""
        return self.decoder.lm_head(self(prefix, input_ids, lengths, context))

    def loss(
        self,
        prefix: Tensor,
        input_ids: Tensor,
        lengths: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        context: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy on the captions' tokens, prompt and prefix left out.

        Args:
            prefix: ``(B, L, W)``.
            input_ids: ``(B, T)``.
            lengths: ``(B,)``.
            labels: ``(B, T)``, -100 where nothing is learnt.
            weights: ``(B,)`` weights of the rows. Default: all 1.
            context: ``(B, N, C)``, with ``cross_attention``. Default ``None``.

        Returns:
            ``loss_caption``: mean over tokens, weighted.
        """
        hidden = self(prefix, input_ids, lengths, context)
        learnt = labels != IGNORE
        # Only tokens that are learnt are multiplied with the vocabulary's matrix.
        logits = self.decoder.lm_head(hidden[learnt]).float()
        if weights is None:
            return {"loss_caption": F.cross_entropy(logits, labels[learnt], label_smoothing=self.label_smoothing)}
        each = F.cross_entropy(logits, labels[learnt], label_smoothing=self.label_smoothing, reduction="none")
        weight = weights[:, None].expand_as(labels)[learnt]
        return {"loss_caption": (each * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)}

    @torch.no_grad()
    def logprobs(
        self, prefix: Tensor, input_ids: Tensor, lengths: Tensor, labels: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities of captions, summed over their tokens.

        Args:
            prefix: ``(B, L, W)``.
            input_ids: ``(B, T)``.
            lengths: ``(B,)``.
            labels: ``(B, T)``, -100 where nothing counts.
            context: ``(B, N, C)``, with ``cross_attention``. Default ``None``.

        Returns:
            ``(B,)`` float32.
        """
        hidden = self(prefix, input_ids, lengths, context)
        counted = labels != IGNORE
        each = self.decoder.lm_head(hidden[counted]).float().log_softmax(-1).gather(1, labels[counted][:, None])[:, 0]
        return each.new_zeros(labels.shape).masked_scatter(counted, each).sum(1)

    @torch.no_grad()
    def generate(
        self,
        prefix: Tensor,
        input_ids: Tensor,
        lengths: Tensor,
        max_new_tokens: int = 40,
        context: Tensor | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """Decode the whole batch at once, with cache.

        Args:
            prefix: ``(B, L, W)``.
            input_ids: ``(B, T)`` prompts, padded on the right.
            lengths: ``(B,)``.
            max_new_tokens: most tokens of a caption. Default 40. One in the config's
                ``generation`` counts if it is smaller.
            context: ``(B, N, C)``, with ``cross_attention``. Default ``None``.
            **options: of transformers' ``generate`` (``num_beams``, ``num_return_sequences``,
                ``length_penalty``, ``min_new_tokens``, ``no_repeat_ngram_size``, ``use_cache``, …), over
                the config's ``generation``. With ``do_sample`` captions are drawn by
                :class:`~synthcap_mm.models.heads.nucleus.NucleusSampling`: options ``top_p``,
                ``temperature``, and ``seeds``, one integer an image; one beam.

        Returns:
            ``ids`` ``(B, N, T')`` new tokens of the N best, ``logprobs`` ``(B, N)`` the
            summed log-probability of each one's tokens (end token included) as the decoder gives it,
            whatever rules or temperature they were chosen under, and ``scores`` ``(B, N)`` what they were
            ranked by: of beams length-normalised, else the same as ``logprobs``.

        Raises:
            UserError: if captions are to be drawn without ``seeds``, or by beams.
        """
        batch = prefix.shape[0]
        options = {**self.generation, **options}
        copies = options.get("num_return_sequences", 1)
        attended = self._attended(context)
        sampling = None
        if options.pop("do_sample", False):
            sampling = NucleusSampling.of(options, copies, max_new_tokens, prefix.device)
            # Each copy of an image is a row that draws for itself; transformers then takes the drawn token greedily.
            prefix, input_ids, lengths = (x.repeat_interleave(copies, 0) for x in (prefix, input_ids, lengths))
            attended = {name: x.repeat_interleave(copies, 0) for name, x in attended.items()}
            options.update(num_return_sequences=1, logits_processor=[sampling])
        by_beams = options["num_beams"] > 1
        embeds = self._embed(prefix, input_ids)
        total = embeds.shape[1]
        max_new_tokens = min(max_new_tokens, options.pop("max_new_tokens", max_new_tokens), self.positions - total)
        # Padding goes to the left, in front of the soft prefix, so that all rows end together.
        shift = (input_ids.shape[1] - lengths)[:, None]
        place = torch.arange(total, device=embeds.device)[None]
        source = (place - shift) % total
        embeds = embeds.gather(1, source[..., None].expand_as(embeds))
        mask = (place >= shift).long()
        # Our beam search knows these options only; transformers' does the rest. Ours also stops when this rank's
        # captions are done, but ranks that share a sharded decoder must go on until the last rank is.
        ours = by_beams and not self.synced_gpus and options.keys() <= BEAM_OPTIONS
        if ours and self.decoder.config.vocab_size >= 2 * options["num_beams"]:
            limits = (max_new_tokens, self.eos_id, self.pad_id)
            return beam_search(self.decoder, embeds, mask, *limits, attended=attended, **options)
        cache = {}
        if options.get("use_cache", True):
            cache = self._read_prompts(embeds, mask, options["num_beams"], attended)
        result = self.decoder.generate(
            inputs_embeds=embeds,
            **cache,
            **attended,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            bos_token_id=self.bos_id,
            eos_token_id=self.eos_id,
            pad_token_id=self.pad_id,
            return_dict_in_generate=True,
            output_scores=by_beams,
            output_logits=not by_beams,
            do_sample=False,
            synced_gpus=self.synced_gpus,
            **{"use_cache": True, **options},
        )
        ids = result.sequences.view(batch, -1, result.sequences.shape[1])
        logprobs = self._logprobs(result, by_beams).view(batch, -1)
        scores = result.sequences_scores.view(batch, -1) if by_beams else logprobs
        if sampling is not None:  # drawn in no order
            order = scores.argsort(dim=1, descending=True, stable=True)
            ids = ids.gather(1, order[..., None].expand_as(ids))
            logprobs, scores = logprobs.gather(1, order), scores.gather(1, order)
        return {"ids": ids, "logprobs": logprobs, "scores": scores}

    def _read_prompts(self, embeds: Tensor, mask: Tensor, beams: int, attended: dict[str, Tensor]) -> dict[str, Any]:
        """Run prefix and prompt once an image, where transformers would run them once a beam.

        What is left for transformers is each prompt's last embedding. It gets no ids of the prompt: rules on repeated
        tokens would count them.
        """
        cache = self.decoder.transformer(
            inputs_embeds=embeds[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask[:, :-1].cumsum(1) - 1).clamp_min(0),
            use_cache=True,
            **attended,
        ).past_key_values
        if beams > 1:
            cache.batch_repeat_interleave(beams)
        return {"past_key_values": cache}

    def _logprobs(self, result: Any, by_beams: bool) -> Tensor:
        """``(rows,)`` summed log-probabilities of generated tokens, as the decoder gave them before any rules."""
        ids = result.sequences
        if by_beams:
            steps = self.decoder.compute_transition_scores(ids, result.scores, result.beam_indices)
        else:
            each = (
                logits.float().log_softmax(-1).gather(1, ids[:, step : step + 1])[:, 0]
                for step, logits in enumerate(result.logits)
            )
            steps = torch.stack(list(each), dim=1)
        # Tokens after the first end token are padding.
        at_end = (ids[:, : steps.shape[1]] == self.eos_id).long()
        ended = at_end.cumsum(1) - at_end
        return steps.masked_fill((ended > 0) | ~steps.isfinite(), 0.0).sum(1)
