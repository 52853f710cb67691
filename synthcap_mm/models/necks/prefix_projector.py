"""From a feature to the prefix that the decoder reads."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import data
from synthcap_mm.options import Part, Positive, Range, Size
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import PrefixBatch

from .base import BaseNeck


@MODELS.register_module()
class PrefixProjector(BaseNeck):
    """Maps a feature to a few embeddings of the decoder's width; the last neck.

    It acts in every phase and for every source.

    Args:
        in_dim (int): width of the features; the captioner fills in its store's.
        width (int): width of the decoder's embeddings; the captioner fills in its head's.
        prefix_length (int): embeddings made of one feature. Defaults to 10:
            assumed, ClipCap's choice; DeCap's public code has 1.
        hidden_dim (int, optional): hidden width of the MLP. Defaults to ``None``:
            half of its output, ClipCap's choice, assumed.
        kind (str): ``'mlp'``, two layers with tanh between, ClipCap's choice and
            assumed; or ``'linear'``, DeCap's. Defaults to ``'mlp'``.
        hidden_layers (int): of the MLP; SaCap has 2. Defaults to 1.
        activation (str): behind each of them, ``'tanh'`` or ``'relu'``, SaCap's. Defaults to ``'tanh'``.
        input_scale (float): what features are multiplied by first. Defaults to 1.0. The entries of an L2-normalised
            feature are about 1/√D, while layers are initialised for entries of about 1: a decoder trained from
            scratch on few captions learns far faster with √D (assumed; measured on the mini-world).
        dropout (float): dropout on the MLP's last hidden layer, or on the feature
            before ``'linear'``, in phase ``'train'``. Defaults to 0.0, as in both.

    Shape:
        ``feats`` (B, D) → (B, ``prefix_length``, ``width``), in the layer's dtype
        (autocast's under autocast).

    Raises:
        ValueError: in use, if features are not ``(B, in_dim)``.
    """

    exportable = data(
        "in_dim",
        "width",
        "prefix_length",
        "hidden_dim",
        "kind",
        "hidden_layers",
        "activation",
        "input_scale",
        "dropout",
    )

    def __init__(
        self,
        in_dim: Size,
        width: Size,
        prefix_length: Size = 10,
        hidden_dim: Size | None = None,
        kind: Literal["mlp", "linear"] = "mlp",
        hidden_layers: Annotated[int, Range("[1, 100]")] = 1,
        activation: Literal["tanh", "relu"] = "tanh",
        input_scale: Positive = 1.0,
        dropout: Part = 0.0,
    ) -> None:
        super().__init__()
        if kind == "linear" and (hidden_dim is not None or hidden_layers > 1):
            raise UserError("PrefixProjector.hidden_dim and hidden_layers are for kind='mlp'")
        self.in_dim, self.width, self.prefix_length, self.dropout = in_dim, width, prefix_length, dropout
        self.input_scale, self.activation = input_scale, getattr(torch, activation)
        out_dim = width * prefix_length
        self.hidden: nn.Linear | None = None
        if kind == "mlp":
            hidden_dim = hidden_dim or max(out_dim // 2, 1)
            self.hidden = nn.Linear(in_dim, hidden_dim)
        self.further = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(hidden_layers - 1))
        self.output = nn.Linear(hidden_dim or in_dim, out_dim)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Make the prefix."""
        feats = batch.feats
        if feats.dim() != 2 or feats.shape[1] != self.in_dim:
            raise ValueError(
                f"PrefixProjector: features must be (B, {self.in_dim}), got {tuple(feats.shape)}; leave 'in_dim' out, "
                "so that it is the store's, and let the projector be the last neck."
            )
        feats = (feats * self.input_scale).to(self.output.weight.dtype)
        if self.hidden is not None:
            feats = self.activation(self.hidden(feats))
        for layer in self.further:
            feats = self.activation(layer(feats))
        # The phase decides, not self.training: see BaseNeck.
        feats = F.dropout(feats, self.dropout, training=phase == "train")
        return batch.replace(feats=self.output(feats).unflatten(1, (self.prefix_length, self.width))), {}
