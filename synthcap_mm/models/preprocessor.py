"""Samples to batches: tags, prompt, tokens, padding; the same for training and inference."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Annotated

import torch
from mmengine.model import BaseDataPreprocessor

from synthcap_mm.exportable import Options, data
from synthcap_mm.models.tag_prompt import TagPrompt
from synthcap_mm.options import GivenTo, Name, Range, Size
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import CaptionSample, PrefixBatch
from synthcap_mm.tokenization import CaptionTokenizer

#: Label of positions that are not learnt, as in torch's cross-entropy.
IGNORE = -100


@MODELS.register_module()
class CaptionPreprocessor(BaseDataPreprocessor):
    """Makes of a list of samples what the captioner's ``forward`` takes.

    Tokens of a row are ``prompt <bos> caption <eos>``; the caption's part is there
    in training only. Rows are padded on the right to the longest of the batch.
    Random drops use torch's generator, which the engine seeds anew in each
    iteration: they depend on seed, iteration, rank and place in the batch only.

    Args:
        tokenizer: path of a ``tokenizer.json``.
        prompt: settings of :class:`~synthcap_mm.models.tag_prompt.TagPrompt`, or
            ``None`` for a captioner without tags. Default ``None``.
        max_length: most tokens of a caption, the end token included. A longer
            caption loses its last words, never the end token. Default 40 (assumed).
        max_prompt_length: most tokens of a prompt; tags are left out, last first,
            until it fits. Default 32.
        non_blocking: passed on to MMEngine. Default ``True``.
    """

    exportable = {"prompt": Options(TagPrompt), **data("max_length", "max_prompt_length", "non_blocking")}

    def __init__(
        self,
        tokenizer: Name,
        prompt: Annotated[dict, GivenTo(TagPrompt)] | None = None,
        max_length: Annotated[int, Range("[2, 65536]")] = 40,
        max_prompt_length: Size = 32,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        self.tokenizer = CaptionTokenizer(tokenizer)
        self.prompt = None if prompt is None else TagPrompt(**prompt)
        self.max_length = max_length
        self.max_prompt_length = max_prompt_length

    def _prompts(self, samples: Sequence[CaptionSample], training: bool) -> tuple[list[list[str]], list[list[int]]]:
        if self.prompt is None:
            return [[] for _ in samples], [[] for _ in samples]
        names = [self.prompt.choose(s.tags) for s in samples]
        if training:
            chances = torch.rand(len(samples), 1 + self.prompt.max_tags).tolist()
            names = [self.prompt.thin(n, c) for n, c in zip(names, chances)]
        ids = self.tokenizer.encode([self.prompt.word(n) for n in names])
        for row in range(len(samples)):
            if len(ids[row]) > self.max_prompt_length:
                names[row], ids[row] = self._fitting(names[row])
        return names, ids

    def _fitting(self, names: list[str]) -> tuple[list[str], list[int]]:
        """The longest beginning of ``names`` that fits as a prompt, and its token ids."""

        def ids(count: int) -> list[int]:
            return self.tokenizer.encode([self.prompt.word(names[:count])])[0]

        # By bisection: a prompt's length grows with its names.
        count = bisect(range(len(names)), self.max_prompt_length, key=lambda n: len(ids(n))) - 1
        return names[:count], ids(count)

    def forward(self, data: Sequence[CaptionSample] | dict, training: bool = False) -> dict:
        """Collate.

        Args:
            data: the samples (or ``dict(samples=...)``), all of one source.
            training: whether the captions are to be learnt.

        Returns:
            ``prefix`` (:class:`PrefixBatch`, or ``None`` when the samples hold
            images), ``images`` (list of PIL images, or ``None``), ``input_ids``
            ``(B, T)``, ``lengths`` ``(B,)``, ``labels`` ``(B, T)`` (``labels[:, t]`` is
            ``input_ids[:, t]`` where that token is learnt, -100 elsewhere;
            ``None`` unless training), ``samples``.

        Raises:
            ValueError: for mixed sources, or training samples without a caption.
        """
        samples: list[CaptionSample] = list(data["samples"] if isinstance(data, dict) else data)
        sources = {s.source for s in samples}
        if len(sources) != 1:
            raise ValueError(f"a batch has one source, this one has {sorted(sources)}")
        names, rows = self._prompts(samples, training)
        rows = [[*row, self.tokenizer.bos_id] for row in rows]
        captions = None
        if training:
            without = [s.key for s in samples if s.caption is None]
            if without:
                raise ValueError(f"training samples without a caption: {without[:5]}")
            captions = [s.caption for s in samples]
        tokens = self.tokens(rows, captions)
        for sample, chosen in zip(samples, names):
            sample.pred_tags = chosen

        source = sources.pop()
        has_images = samples[0].image is not None
        images = [s.image for s in samples] if has_images else None
        prefix = None if has_images else self._prefix(samples, source)
        return {"prefix": prefix, "images": images, "source": source, "samples": samples, **tokens}

    def tokens(self, prompts: Sequence[Sequence[int]], captions: Sequence[str] | None = None) -> dict:
        """Pad prompts, with the captions behind them.

        Args:
            prompts: B lists of ids, the begin token included.
            captions: B sentences that are to be learnt, or scored. Default ``None``: prompts alone.

        Returns:
            ``input_ids``, ``lengths`` and ``labels`` as :meth:`forward` has them, on the model's device.
        """
        ends: list[list[int]] = [[] for _ in prompts]
        if captions is not None:
            ends = [[*ids[: self.max_length - 1], self.tokenizer.eos_id] for ids in self.tokenizer.encode(captions)]
        rows = [[*prompt, *end] for prompt, end in zip(prompts, ends)]
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = torch.full((len(rows), int(lengths.max())), self.tokenizer.pad_id)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = torch.tensor(row)
        labels = None
        if captions is not None:
            starts = torch.tensor([len(prompt) for prompt in prompts])
            place = torch.arange(input_ids.shape[1])
            learnt = (place >= starts[:, None]) & (place < lengths[:, None])
            labels = torch.where(learnt, input_ids, IGNORE)
        return self.cast_data({"input_ids": input_ids, "lengths": lengths, "labels": labels})

    def _prefix(self, samples: Sequence[CaptionSample], source: str) -> PrefixBatch:
        """The samples' features and what belongs to them, on the model's device."""
        has_text = all(s.text_feat is not None for s in samples)
        tensors = {
            "feats": torch.stack([s.feat if s.feat is not None else s.text_feat for s in samples]).float(),
            "text_feats": torch.stack([s.text_feat for s in samples]).float() if has_text else None,
            "memory_rows": torch.tensor([s.memory_row for s in samples]),
            "group_ids": torch.tensor([s.group for s in samples]),
            "weights": torch.tensor([s.weight for s in samples], dtype=torch.float32),
            "other_feats": _stacked([s.other_feats for s in samples]),
            "other_text_feats": _stacked([s.other_text_feats for s in samples]),
        }
        return PrefixBatch(source=source, **self.cast_data(tensors))


def _stacked(features: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Features by the encoders that all samples have them of."""
    names = [name for name in features[0] if all(name in one for one in features)]
    return {name: torch.stack([one[name] for one in features]).float() for name in names}
