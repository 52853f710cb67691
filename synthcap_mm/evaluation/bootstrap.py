"""How sure is a difference between two methods on the same images?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def _by_image(scores: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 2:
        array = array.mean(axis=0)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"{name} has the shape {np.shape(scores)}; expected (images,) or (seeds, images), at least 2 images"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{name} is not finite at {len(bad)} images, the first at index {bad[0]}")
    return array


def paired_bootstrap(
    scores_a: ArrayLike, scores_b: ArrayLike, samples: int = 1000, seed: int = 0
) -> dict[str, float | int]:
    """Bootstrap the mean difference ``a - b`` over images, paired.

    The interval is about the choice of images; several seeds are averaged
    first, so that the spread between them is not in it.

    Args:
        scores_a (array): per-image scores, ``(N,)``, or ``(S, N)`` for S seeds;
            e.g. CIDEr from :func:`~synthcap_mm.evaluation.scored_captions.score_captions`.
        scores_b (array): those of the other method, the same images in the same
            order; its number of seeds may differ.
        samples (int): resamples. Defaults to 1000.
        seed (int): of the resampling. Defaults to 0.

    Returns:
        dict: ``mean_difference``; ``low`` and ``high``, the 95 % percentile
        interval; ``p``, two-sided, of the resamples on the other side of zero
        (at least ``2 / (samples + 1)``, at most 1); ``images`` and ``samples``.

    Raises:
        ValueError: for shapes that do not fit, less than two images, scores
            that are not finite, or ``samples`` below 1.
    """
    a, b = _by_image(scores_a, "scores_a"), _by_image(scores_b, "scores_b")
    if samples < 1:
        raise ValueError(f"samples={samples}; at least 1 is needed")
    difference = a - b
    generator = np.random.default_rng(seed)
    means = np.array(
        [difference[generator.integers(len(difference), size=len(difference))].mean() for _ in range(samples)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    other_side = min((means <= 0).sum(), (means >= 0).sum())
    return {
        "mean_difference": float(difference.mean()),
        "low": float(low),
        "high": float(high),
        "p": float(min(1.0, 2 * (other_side + 1) / (samples + 1))),
        "images": len(difference),
        "samples": samples,
    }
