"""Sentences into a space of their own: what says how much alike two of them are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from synthcap_mm.hub import pinned
from synthcap_mm.options import Name, Size
from synthcap_mm.registry import MODELS
from synthcap_mm.requirements import require


@MODELS.register_module()
class SentenceEncoder(nn.Module):
    """A model of sentence-transformers whose features are the mean of its tokens' last hidden states.

    It has no image side: it is ``curation.sentence_encoder``. Models of sentence-transformers that take the first
    token, or have a layer behind the mean, are others.

    Args:
        model (str): name on the Hugging Face hub, or a local folder. Defaults to
            'sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2': SynC's, as its public code has it.
        revision (str, optional): of the hub's repository. Defaults to None.
        context (int): most tokens of a sentence, the special ones included; longer ones are cut. Defaults to 128, as
            the default model's own settings have it.

    Shape:
        B sentences → (B, D), float32, L2-normalised.

    Raises:
        OSError: if the model is neither a folder nor can be got from the hub.
    """

    def __init__(
        self,
        model: Name = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        revision: str | None = None,
        context: Size = 128,
    ) -> None:
        super().__init__()
        transformers = require("transformers")
        self.context = context
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision)
        self.model = transformers.AutoModel.from_pretrained(model, revision=revision).float().eval()

    @classmethod
    def pin(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """See :func:`~synthcap_mm.hub.pinned`."""
        return pinned(cls, arguments, "config.json")

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Features of sentences.

        Args:
            texts: B sentences.

        Returns:
            torch.Tensor: ``(B, D)`` float32, L2-normalised, on the model's device.
        """
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        hidden = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
