"""What a captioner's projector gets, and how near it is to the caption, in training and at inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from synthcap_mm.registry import DATASETS
from synthcap_mm.structures import CaptionSample

#: Training samples looked at.
SOME = 2000
BATCH = 200


@torch.no_grad()
def prefix_of(model: Any, samples: Sequence[CaptionSample], phase: str) -> torch.Tensor:
    """The feature that the projector gets.

    Args:
        model: a captioner; its necks but the last make the feature.
        samples: what it is made from.
        phase: ``'train'`` or ``'predict'``.

    Returns:
        ``(N, D)`` float32, L2-normalised.
    """
    prefix = model.data_preprocessor(list(samples), training=phase == "train")["prefix"]
    seen = []
    handle = model.necks[-1].register_forward_pre_hook(lambda neck, inputs: seen.append(inputs[0].feats))
    model.run_necks(prefix, phase)
    handle.remove()
    return F.normalize(seen[0].float(), dim=1)


def prefix_cosines(
    model: Any,
    train: dict[str, Any],
    heldout: dict[str, Any],
    photos: Mapping[str, Sequence[CaptionSample]],
    references: Mapping[str, torch.Tensor],
) -> dict[str, float]:
    """Mean cosine of the prefix with the own caption.

    Args:
        model: a captioner that is set to evaluate.
        train: config of its training dataset.
        heldout: config of the held-out pairs' dataset.
        photos: set → its photos.
        references: photo's key → features of its captions ``(R, D)``, L2-normalised.

    Returns:
        ``train`` (:data:`SOME` samples, as training has them), ``heldout`` (pseudo images of held-out captions, as at
        inference), and each set of photos (mean over a photo's captions).
    """
    torch.manual_seed(0)  # CapDec's noise
    result = {}
    for name, config, phase in (("train", train, "train"), ("heldout", heldout, "predict")):
        dataset = DATASETS.build(config)
        rows = np.random.default_rng(0).permutation(len(dataset))[:SOME].tolist()
        cosines = []
        for start in range(0, len(rows), BATCH):
            samples = [dataset[i] for i in rows[start : start + BATCH]]
            own = torch.stack([sample.text_feat for sample in samples])
            cosines.append((prefix_of(model, samples, phase) * own).sum(1))
        result[name] = float(torch.cat(cosines).mean())
    for name, samples in photos.items():
        feats = prefix_of(model, samples, "predict")
        result[name] = float(np.mean([float((references[s.key] @ f).mean()) for s, f in zip(samples, feats)]))
    return result
