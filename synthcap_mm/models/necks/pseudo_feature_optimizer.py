"""Moving pseudo image features toward where real image features lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import data
from synthcap_mm.options import Count, NotNegative, Positive, Range, Size, check_options
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import PrefixBatch

from .base import BaseNeck, check_finite
from .rank_gathering import gather_rows, world_size

#: Above this cosine two caption features are taken for those of the same words (storing in float16 costs under 1e-6).
SAME_CAPTION = 1 - 1e-5

#: Negatives of each pair, where they are drawn once for all (assumed).
BANK_SIZE = 4096


def check_settings(
    temperature: Positive = 0.01,
    steps: Annotated[int, Range("[0, 1e6]")] = 10,
    lr: Positive = 1e-3,
    pull: NotNegative = 1.0,
    target_cosine: Annotated[float, Range("(-1, 1]")] | None = None,
    bank_size: Count = BANK_SIZE,
) -> None:
    """Refuse settings of :func:`refine`, and of a bank of negatives for it, that cannot work; see there what they are.

    Raises:
        UserError: for a value of another kind or out of range; the option is named.
    """
    check_options("refine", check_settings, (), locals())


def _no_negatives(
    text: Tensor, groups: Tensor, other_text: Tensor, other_groups: Tensor, first_own: int | None
) -> Tensor:
    """``(B, K)`` bool: which of the others are no negatives of a row.

    Those are captions of the same known group, captions of the same words
    (whatever their group), and, where row i is itself the other ``first_own + i``, itself.
    """
    blocked = (groups[:, None] == other_groups) & (groups[:, None] >= 0)
    blocked |= F.normalize(text, dim=1) @ F.normalize(other_text, dim=1).T > SAME_CAPTION
    if first_own is not None:
        blocked.diagonal(first_own).fill_(True)
    return blocked


def _log_sum(anchors: Tensor, others: Tensor, blocked: Tensor, temperature: float) -> Tensor:
    """``(B,)`` log of the sum of exp(similarity / temperature) over a row's negatives; -inf without any."""
    return (anchors @ others.T / temperature).masked_fill(blocked, float("-inf")).logsumexp(dim=1)


def _contrast(feats: Tensor, text: Tensor, from_texts: Tensor, from_images: Tensor, temperature: float) -> Tensor:
    """``(B,)`` symmetric InfoNCE, given the negatives' log-sums in both directions."""
    own = (feats * text).sum(dim=1) / temperature
    return (torch.logaddexp(own, from_texts) + torch.logaddexp(own, from_images)) / 2 - own


def _distance(feats: Tensor, start: Tensor) -> Tensor:
    """``(B,)`` one minus the cosine to where a feature started."""
    return 1 - F.cosine_similarity(feats, start, dim=1)


def _share_to_level(before: Tensor, after: Tensor, text: Tensor, level: float) -> Tensor:
    """``(B,)`` share of the way from ``before`` to ``after`` at which the cosine with ``text`` is ``level``.

    For unit vectors whose cosines lie below and at or above the level. All in
    three inner products a row, so that bisection costs nothing.
    """
    text = F.normalize(text.double(), dim=1)
    before, after = before.double(), after.double()
    low_cos, high_cos, between = (before * text).sum(1), (after * text).sum(1), (before * after).sum(1)
    low, high = torch.zeros_like(between), torch.ones_like(between)
    for _ in range(40):
        share = (low + high) / 2
        rest = 1 - share
        norm = (rest**2 + share**2 + 2 * rest * share * between).clamp_min(1e-12).sqrt()
        short = (rest * low_cos + share * high_cos) / norm < level
        low, high = torch.where(short, share, low), torch.where(short, high, share)
    return high


def refine(
    feats: Tensor,
    text_feats: Tensor,
    group_ids: Tensor | None = None,
    *,
    steps: int = 10,
    lr: float = 1e-3,
    temperature: float = 0.01,
    pull: float = 1.0,
    target_cosine: float | None = None,
    negative_text: Tensor | None = None,
    negative_image: Tensor | None = None,
    negative_groups: Tensor | None = None,
    gather: bool = True,
) -> Tensor:
    """Move each feature by gradient steps on the unit sphere, the feature itself being the parameter.

    A row v with its caption's feature t, start v0 and negatives (n_text, n_image) has the loss

        1/2 [ -log softmax(v . {t, n_text} / T)[t] - log softmax(t . {v, n_image} / T)[v] ] + pull * (1 - cos(v, v0)).

    The losses of rows are summed, never averaged, and the negatives stay where
    they are: a row's steps depend on that row and the negatives only. With a fixed
    bank (``negative_text``, ``negative_image``) the result is therefore that of
    the row alone; without one the negatives are the other rows of the batch
    at their start, those of all ranks in a distributed run.

    No negatives of a row are captions of the same group, captions of the same
    words (cosine above 0.99999) and, without a bank, itself.

    Args:
        feats (Tensor): pseudo image features, ``(B, D)``, L2-normalised.
        text_feats (Tensor): their captions' features, ``(B, D)``, L2-normalised.
        group_ids (Tensor, optional): ``(B,)`` long; -1 is unknown and never the same.
            Defaults to ``None``: all unknown.
        steps (int): gradient steps. Defaults to 10: assumed.
        lr (float): step width on the tangent of the sphere; gradients are up to
            1 / ``temperature`` long. Defaults to 1e-3: assumed.
        temperature (float): T, the encoder's. Defaults to 0.01: CLIP's own.
        pull (float): weight of the pull to the start. Defaults to 1.0: assumed.
        target_cosine (float, optional): a level, not a minimum: a row stops where its
            cosine with its caption reaches it, the last step cut to end there. A row
            that starts there or above is returned as it is. Defaults to ``None``: no level.
        negative_text (Tensor, optional): bank of captions' features, ``(K, D)``.
            Defaults to ``None``.
        negative_image (Tensor, optional): bank of images' features, ``(K, D)``,
            row by row those of the same samples. Defaults to ``None``.
        negative_groups (Tensor, optional): ``(K,)`` long. Defaults to ``None``: all unknown.
        gather (bool): take the other ranks' rows as negatives too; without a bank
            all ranks must call then. Defaults to ``True``.

    Returns:
        Tensor: ``(B, D)``, L2-normalised, of the dtype of ``feats``, without gradient.

    Raises:
        UserError: if a setting is out of range.
        ValueError: if shapes do not fit, features are not finite, or only one half of a bank is given.
    """
    check_settings(temperature, steps, lr, pull, target_cosine)
    if feats.dim() != 2 or feats.shape != text_feats.shape:
        raise ValueError(
            f"refine: feats and text_feats must both be (B, D), got {tuple(feats.shape)} and {tuple(text_feats.shape)}."
        )
    if (negative_text is None) != (negative_image is None):
        raise ValueError("refine: a bank needs both negative_text and negative_image, or neither.")
    if group_ids is None:
        group_ids = torch.full((len(feats),), -1, dtype=torch.long, device=feats.device)
    dtype = torch.float64 if feats.dtype == torch.float64 else torch.float32
    device_type = feats.device.type
    # Gradients are needed even where the caller has switched them off.
    with torch.inference_mode(False), torch.enable_grad(), torch.amp.autocast(device_type, enabled=False):
        start = feats.detach().to(dtype, copy=True)
        text = text_feats.detach().to(dtype, copy=True)
        check_finite("refine", start, "pseudo features")
        check_finite("refine", text, "caption features")
        first_own: int | None = None
        if negative_text is not None:
            negative_text, negative_image = _read_bank(negative_text, negative_image, start)
            if negative_groups is None:
                negative_groups = torch.full((len(negative_text),), -1, dtype=torch.long, device=feats.device)
        elif gather:
            negative_text, first_own = gather_rows(text)
            negative_image, _ = gather_rows(start)
            negative_groups, _ = gather_rows(group_ids)
        else:
            negative_text, negative_image, negative_groups, first_own = text, start, group_ids, 0
        blocked = _no_negatives(text, group_ids, negative_text, negative_groups, first_own)
        # In the loss from text to images, only the row's own feature changes from step to step.
        from_images = _log_sum(text, negative_image, blocked, temperature)

        active = torch.ones(len(start), dtype=torch.bool, device=start.device)
        if target_cosine is not None:
            active = F.cosine_similarity(start, text, dim=1) < target_cosine
        untouched = ~active
        current = F.normalize(start, dim=1)
        for _ in range(steps):
            if not active.any():
                break
            current.requires_grad_()
            from_texts = _log_sum(current, negative_text, blocked, temperature)
            loss = _contrast(current, text, from_texts, from_images, temperature) + pull * _distance(current, start)
            (gradient,) = torch.autograd.grad(loss.sum(), current)
            current = current.detach()
            gradient -= (gradient * current).sum(dim=1, keepdim=True) * current
            moved = F.normalize(current - lr * gradient, dim=1)
            arrived = torch.zeros_like(active)
            if target_cosine is not None:
                arrived = active & (F.cosine_similarity(moved, text, dim=1) >= target_cosine)
                share = _share_to_level(current, moved, text, target_cosine).to(dtype)
                stopped = F.normalize(torch.lerp(current, moved, share.unsqueeze(1)), dim=1)
                moved = torch.where(arrived.unsqueeze(1), stopped, moved)
            current = torch.where(active.unsqueeze(1), moved, current)
            active = active & ~arrived
        current = current.detach().to(feats.dtype)
        if steps == 0:
            untouched = torch.ones_like(untouched)
        return torch.where(untouched.unsqueeze(1), feats.detach(), current)


def _read_bank(negative_text: Tensor, negative_image: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of a bank's features, in the dtype of ``start``."""
    bank = [half.detach().to(start.dtype, copy=True) for half in (negative_text, negative_image)]
    if bank[0].shape != bank[1].shape or bank[0].shape[1:] != start.shape[1:]:
        raise ValueError(
            f"refine: the bank's features must both be (K, {start.shape[1]}), got "
            f"{tuple(negative_text.shape)} and {tuple(negative_image.shape)}."
        )
    check_finite("refine", bank[0], "the bank's caption features")
    check_finite("refine", bank[1], "the bank's image features")
    return bank[0], bank[1]


@MODELS.register_module()
class PseudoFeatureOptimizer(BaseNeck):
    """Moves pseudo image features toward where real image features lie.

    `SynTIC <https://arxiv.org/abs/2312.08865>`_ optimises "the pseudo features of
    generated images toward the real ones in the CLIP embedding space"; its loss and
    settings are not known. Here the anchor is the caption, since no real images exist
    in training: real pairs score high under CLIP's own contrastive loss, so that
    loss is lowered, with a pull to the start. All of this is assumed (the project's
    design, section 5), and so is every default below.

    - ``'per_sample'``: :func:`refine` in the forward, a switch for what is better
      done once over the store. No weights.
    - ``'amortised'``: a residual adapter that sees the image's feature only, starts
      as the identity and learns by the same loss (``loss_refine``). Its image negatives are the
      adapter's outputs for the batch of all ranks, with their gradient, so that under
      DDP's averaging the ranks together have the gradient of one batch.

    The feature that goes on carries no gradient of the caption loss unless
    ``backprop_caption_loss``. All ranks must see a source on which the neck acts in the same
    iterations.

    Args:
        mode (str): ``'per_sample'`` or ``'amortised'``. Defaults to ``'per_sample'``.
        embed_dim (int, optional): width of the features, needed by ``'amortised'``.
            Defaults to ``None``: the captioner fills in its store's.
        temperature (float): of InfoNCE. Defaults to 0.01: CLIP's own.
        steps (int): gradient steps of ``'per_sample'``. Defaults to 10: assumed.
        lr (float): their width. Defaults to 1e-3: assumed.
        pull (float): weight of the pull to the start, ``1 - cos(v, v0)``. Defaults to
            1.0: assumed.
        target_cosine (float, optional): level of the cosine with the caption at which a
            sample stops: exactly, per sample; amortised, a sample at or above it
            gives no InfoNCE gradient, neither as anchor nor as negative. Defaults to ``None``: assumed.
        negatives (str): ``'all_ranks'`` or ``'rank'``: whose samples are each other's
            negatives. Defaults to ``'all_ranks'``, as CLIP was trained.
        hidden_dim (int, optional): hidden width of the adapter. Defaults to ``None``:
            ``embed_dim``, assumed.
        loss_weight (float): weight of ``loss_refine``. Defaults to 1.0: assumed.
        backprop_caption_loss (bool): let the caption loss reach the adapter.
            Defaults to ``False``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('train',)``.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('pseudo',)``.

    Shape:
        ``feats`` (B, D) → (B, D), L2-normalised.

    Raises:
        UserError: if ``embed_dim`` is missing, or ``'per_sample'`` is to act in phase ``'predict'``, where the caption
            is what is asked for.
        ValueError: in use, if a batch lacks ``text_feats`` or features are not finite.
    """

    exportable = data(
        "mode", "embed_dim", "temperature", "steps", "lr", "pull", "target_cosine", "negatives", "hidden_dim",
        "loss_weight", "backprop_caption_loss", "phases", "sources",
    )  # fmt: skip

    def __init__(
        self,
        mode: Literal["per_sample", "amortised"] = "per_sample",
        embed_dim: Size | None = None,
        temperature: Positive = 0.01,
        steps: Annotated[int, Range("[0, 1e6]")] = 10,
        lr: Positive = 1e-3,
        pull: NotNegative = 1.0,
        target_cosine: Annotated[float, Range("(-1, 1]")] | None = None,
        negatives: Literal["all_ranks", "rank"] = "all_ranks",
        hidden_dim: Size | None = None,
        loss_weight: float = 1.0,
        backprop_caption_loss: bool = False,
        phases: Sequence[str] = ("train",),
        sources: Sequence[str] = ("pseudo",),
    ) -> None:
        super().__init__(phases, sources)
        if mode == "per_sample" and "predict" in self.phases:
            raise UserError(
                "PseudoFeatureOptimizer: mode='per_sample' needs the caption and cannot act in phase 'predict'; use "
                "mode='amortised', or phases=['train']."
            )
        self.mode = mode
        self.temperature = float(temperature)
        self.steps = steps
        self.lr = float(lr)
        self.pull = float(pull)
        self.target_cosine = target_cosine
        self.negatives = negatives
        self.loss_weight = float(loss_weight)
        self.backprop_caption_loss = backprop_caption_loss
        if mode == "amortised":
            if embed_dim is None:
                raise UserError("PseudoFeatureOptimizer: mode='amortised' needs embed_dim, the width of the features")
            last = nn.Linear(hidden_dim or embed_dim, embed_dim)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.adapter = nn.Sequential(nn.Linear(embed_dim, hidden_dim or embed_dim), nn.GELU(), last)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Refine the features and, when amortised and training, give ``loss_refine``."""
        if self.mode == "per_sample":
            refined = refine(
                batch.feats,
                self._need_text_feats(batch),
                batch.group_ids,
                steps=self.steps,
                lr=self.lr,
                temperature=self.temperature,
                pull=self.pull,
                target_cosine=self.target_cosine,
                gather=self.negatives == "all_ranks",
            )
            return batch.replace(feats=refined), {}
        with torch.amp.autocast(batch.feats.device.type, enabled=False):
            adapted = self.adapt(batch.feats)
            losses = {"loss_refine": self._loss(adapted, batch)} if phase == "train" else {}
        return batch.replace(feats=adapted if self.backprop_caption_loss else adapted.detach()), losses

    def adapt(self, feats: Tensor) -> Tensor:
        """Pass features through the adapter of ``'amortised'``.

        Args:
            feats (Tensor): ``(B, D)``, L2-normalised.

        Returns:
            Tensor: ``(B, D)`` float32 (float64 for a float64 adapter), of the same length as ``feats``.

        Raises:
            ValueError: if features are not finite.
        """
        dtype = self.adapter[0].weight.dtype
        feats = feats if feats.dtype == torch.float64 else feats.float()
        check_finite("PseudoFeatureOptimizer", feats, "pseudo features")
        moved = feats + self.adapter(feats.to(dtype)).to(feats.dtype)
        # While the adapter gives 0 the ratio of norms is exactly 1, so that it starts as the identity, to the bit.
        norm = feats.norm(dim=1, keepdim=True)
        return moved * (norm / moved.norm(dim=1, keepdim=True).clamp_min(1e-12))

    def _loss(self, adapted: Tensor, batch: PrefixBatch) -> Tensor:
        dtype = adapted.dtype
        start, text = batch.feats.detach().to(dtype), self._need_text_feats(batch).detach().to(dtype)
        check_finite("PseudoFeatureOptimizer", text, "caption features")
        groups = batch.group_ids
        if groups is None:
            groups = torch.full((len(start),), -1, dtype=torch.long, device=start.device)
        everyone, ranks = adapted, 1
        if self.negatives == "all_ranks" and world_size() > 1:
            ranks = world_size()
            others, first = gather_rows(adapted)
            # This rank's rows keep their gradient; the other ranks bring theirs.
            everyone = torch.cat([others[:first], adapted, others[first + len(adapted) :]])
            start, text, groups = (gather_rows(rows)[0] for rows in (start, text, groups))
        pushed = torch.ones(len(everyone), dtype=torch.bool, device=everyone.device)
        if self.target_cosine is not None:
            pushed = F.cosine_similarity(everyone.detach(), text, dim=1) < self.target_cosine
        # Without the level's samples as negatives with a gradient, nothing pushes these any more.
        images = torch.where(pushed.unsqueeze(1), everyone, everyone.detach())
        blocked = _no_negatives(text, groups, text, groups, first_own=0)
        from_texts = _log_sum(images, text, blocked, self.temperature)
        from_images = _log_sum(text, images, blocked, self.temperature)
        contrast = _contrast(images, text, from_texts, from_images, self.temperature)
        # A sample at the level counts in the value no more than in the gradient.
        loss = (contrast * pushed + self.pull * _distance(everyone, start)).mean() * self.loss_weight
        # Each rank has the gradient by its own rows of the loss of all; DDP will divide the sum by the number of ranks.
        return loss + (ranks - 1) * (loss - loss.detach())

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (
            f"mode={self.mode!r}, temperature={self.temperature}, steps={self.steps}, lr={self.lr}, pull={self.pull}, "
            f"target_cosine={self.target_cosine}, negatives={self.negatives!r}, {super().extra_repr()}"
        )
