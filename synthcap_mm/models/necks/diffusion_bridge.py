"""Bringing an image's feature to where captions' features lie, by a diffusion model of captions' features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthcap_mm.exportable import data
from synthcap_mm.options import Name, Positive, Range, Size
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import SOURCES, PrefixBatch

from .base import PHASES
from .moments import MomentsNeck

#: Steps in which a feature becomes noise: the paper's.
STEPS = 1000
#: Largest weight of a time step in the loss: min-SNR's (Hang et al. 2023).
_LARGEST_WEIGHT = 5.0
#: Frequencies of the time step's encoding.
_WAVES = 32


def cosine_schedule(steps: int = STEPS) -> Tensor:
    """What is left of a feature's variance after 0, 1, … ``steps`` steps of noise, by Nichol and Dhariwal (2021).

    Args:
        steps (int): Defaults to 1000.

    Returns:
        Tensor: ``(steps + 1,)`` float64, from 1 downwards.
    """
    left = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    kept = (left[1:] / left[:-1]).clamp_min(0.001)  # of the variance in one step; the last one would keep nothing
    return torch.cat([torch.ones(1, dtype=torch.float64), kept.cumprod(0)])


def add_noise(clean: Tensor, left: Tensor, noise: Tensor) -> Tensor:
    """The forward process in one go: √left · clean + √(1 − left) · noise.

    Args:
        clean (Tensor): ``(B, D)``.
        left (Tensor): share of the variance that is left, a scalar or ``(B, 1)``.
        noise (Tensor): ``(B, D)``.

    Returns:
        Tensor: ``(B, D)``.
    """
    return left.sqrt() * clean + (1 - left).sqrt() * noise


def ddim_step(noisy: Tensor, clean: Tensor, left: Tensor, left_next: Tensor) -> Tensor:
    """One step back by `DDIM <https://arxiv.org/abs/2010.02502>`_ without randomness (η = 0).

    Args:
        noisy (Tensor): ``(B, D)``.
        clean (Tensor): what the denoiser takes for the clean feature, ``(B, D)``.
        left (Tensor): share of the variance that is left in ``noisy``, a scalar below 1.
        left_next (Tensor): that after the step; at 1 the result is ``clean``.

    Returns:
        Tensor: ``(B, D)``.
    """
    noise = (noisy - left.sqrt() * clean) / (1 - left).sqrt()
    return add_noise(clean, left_next, noise)


class Denoiser(nn.Module):
    """Predicts the clean feature from a noisy one: a residual MLP that knows the time step.

    Assumed: the public code has a 1-D U-Net, which takes the feature's dimensions for places in a row.

    Args:
        dim (int): width of the features.
        hidden (int): width of the network.
        blocks (int): residual blocks.
    """

    def __init__(self, dim: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(_WAVES * 2, hidden), nn.SiLU())
        self.first = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(hidden, elementwise_affine=False),
                    "time": nn.Linear(hidden, 2 * hidden),
                    "mlp": nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)),
                }
            )
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, dim))

    def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
        """The clean feature, ``(B, D)``, of a noisy one, ``(B, D)``, at steps ``(B,)``."""
        time = self.time(_waves(step))
        hidden = self.first(noisy)
        for block in self.blocks:
            scale, shift = block["time"](time).chunk(2, dim=1)
            hidden = hidden + block["mlp"](block["norm"](hidden) * (1 + scale) + shift)
        return self.last(hidden)


def _waves(step: Tensor) -> Tensor:
    """Sines and cosines of a step, as Transformers encode places, ``(B, 2 * _WAVES)``."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(_WAVES, device=step.device) / _WAVES)
    angles = step.unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@MODELS.register_module()
class DiffusionBridge(MomentsNeck):
    r"""Lets a small diffusion model of captions' features denoise an image's feature into a caption's.

    From Diffusion Bridge (Lee et al., CVPR 2025; `code <https://github.com/mongeoroo/diffusion-bridge>`_). Captions'
    features lose their mean and get one length, and a denoiser learns to take noise off them (``loss_denoise``). An
    image's feature loses the images' mean, is taken for a caption's after ``enter`` of 1,000 steps of noise, and is
    denoised by DDIM; no noise is added to it, so that the result depends on the feature alone. A caption's feature gets
    that much noise and is denoised, too: so the decoder learns from what it will see of images.

    As in the public code: the cosine schedule, features of length ``scale``, which the denoiser gets at that length at
    every step, the clean feature as its target, and no mean added at the end. Other than there, the denoiser learns
    beside the decoder, not before it, and its loss is weighted by the ratio of signal and noise up to 5 only (there up
    to 24,000, at the first step, which would fill the clipped gradient that all parts share).

    The denoiser learns by ``loss_denoise`` alone, and nothing else learns by it. Features before this neck get no
    gradient through it.

    Args:
        embed_dim (int): width of the features. The captioner fills in its store's.
        enter (int): the step at which a feature enters, in [0, 1000]; 0 is no denoising. Defaults to 600: the paper's
            for COCO (for Flickr30k 400).
        steps (int): DDIM steps from there. Defaults to 12: the paper's (its public code: 5).
        scale (float): length of the features. Defaults to 5.0: the paper's.
        hidden_dim (int): width of the denoiser. Defaults to 512: assumed.
        blocks (int): residual blocks of the denoiser. Defaults to 3: assumed.
        start (str): whose mean an image's feature loses: ``'images'`` of the captioner's store (those that its training
            captions have, flagged ones left out), or the path of a store of photos that nobody has described, as the
            public code has it. Defaults to ``'images'``.
        store (str, optional): path of the store that ``'images'`` and the captions are of. Defaults to ``None``: the
            captioner's.
        pairs (str): the pairs table whose images ``'images'`` means. Defaults to ``'default'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to both.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to all.

    Shape:
        ``feats`` (B, D) in any float dtype → (B, D) float32, L2-normalised.

    Raises:
        UserError: see :class:`MomentsNeck`.
        ValueError: in use, if a batch to learn from has no ``text_feats``, or features are not finite or of another
            width.
        StoreError: if there is no store.
    """

    exportable = data("embed_dim", "enter", "steps", "scale", "hidden_dim", "blocks", "phases", "sources")

    def __init__(
        self,
        embed_dim: Size,
        enter: Annotated[int, Range(f"[0, {STEPS}]")] = 600,
        steps: Annotated[int, Range(f"[1, {STEPS}]")] = 12,
        scale: Positive = 5.0,
        hidden_dim: Size = 512,
        blocks: Annotated[int, Range("[0, 64]")] = 3,
        start: Name = "images",
        store: Name | None = None,
        pairs: Name = "default",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
    ) -> None:
        super().__init__(start, "captions", store, pairs, phases, sources)
        self.enter, self.steps, self.scale = enter, steps, scale
        self.denoiser = Denoiser(embed_dim, hidden_dim, blocks)
        self.register_buffer("left", cosine_schedule().float(), persistent=False)

    def centred(self, feats: Tensor, source: str) -> Tensor:
        """Features without the mean of their kind.

        Args:
            feats (Tensor): ``(B, D)``.
            source (str): where they are from; captions (``'text'``) have one mean, images another.

        Returns:
            Tensor: ``(B, D)`` float32 of length ``scale``.
        """
        feats = self.checked(feats).float()
        mean = self.moments[2 if source == "text" else 0]
        return self._rescaled(feats - mean)

    def predict_clean(self, noisy: Tensor, step: Tensor) -> Tensor:
        """What the denoiser takes for the clean features.

        Args:
            noisy (Tensor): ``(B, D)``.
            step (Tensor): ``(B,)`` long, how many steps of noise they have.

        Returns:
            Tensor: ``(B, D)``.
        """
        return self.denoiser(self._rescaled(noisy), step)

    def noised(self, clean: Tensor, step: Tensor) -> Tensor:
        """Features ``(B, D)`` after ``(B,)`` steps of noise, which is drawn from torch's global generator."""
        return add_noise(clean, self.left[step].unsqueeze(1), torch.randn_like(clean))

    @torch.no_grad()
    def denoised(self, feats: Tensor) -> Tensor:
        """Features from step ``enter`` back to step 0.

        Args:
            feats (Tensor): ``(B, D)``.

        Returns:
            Tensor: ``(B, D)``, L2-normalised.
        """
        times = torch.linspace(self.enter, 0, self.steps + 1).int().unique().tolist()[::-1]
        for now, then in itertools.pairwise(times):
            feats = self._rescaled(feats)
            clean = self.predict_clean(feats, torch.full((len(feats),), now, device=feats.device))
            feats = ddim_step(feats, clean, self.left[now], self.left[then])
        return F.normalize(feats, dim=1)

    def loss(self, text_feats: Tensor) -> Tensor:
        """The weighted squared error of the denoiser, for captions' features ``(B, D)`` and steps drawn for each."""
        clean = self.centred(text_feats.detach(), "text")
        step = torch.randint(1, STEPS + 1, (len(clean),), device=clean.device)
        error = (self.predict_clean(self.noised(clean, step), step) - clean).square().mean(dim=1)
        left = self.left[step]
        return (error * (left / (1 - left)).clamp_max(_LARGEST_WEIGHT)).mean()

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Denoise the features; in training, give ``loss_denoise``."""
        with torch.amp.autocast(batch.feats.device.type, enabled=False):
            losses = {"loss_denoise": self.loss(self._need_text_feats(batch))} if phase == "train" else {}
            feats = self.centred(batch.feats.detach(), batch.source)
            if batch.source == "text":
                feats = self.noised(feats, torch.full((len(feats),), self.enter, device=feats.device))
            return batch.replace(feats=self.denoised(feats)), losses

    def _rescaled(self, feats: Tensor) -> Tensor:
        return F.normalize(feats, dim=1) * self.scale

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"enter={self.enter}, steps={self.steps}, scale={self.scale}, {super().extra_repr()}"
