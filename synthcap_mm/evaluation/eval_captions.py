"""Scores of one file of predictions against references, or a comparison of two."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from synthcap_mm.errors import UserError, listed
from synthcap_mm.evaluation.bootstrap import paired_bootstrap
from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.clip_scorers import text_encoder
from synthcap_mm.evaluation.image_names import find_images
from synthcap_mm.evaluation.prediction_files import References, join, read_predictions, read_references
from synthcap_mm.evaluation.reporting import metrics_table
from synthcap_mm.evaluation.scored_captions import ScoredCaptions, score_set, write_scored
from synthcap_mm.evaluation.scorer import DEFAULT_METRICS, build_scorers
from synthcap_mm.evaluation.tokenizer import Tokenize
from synthcap_mm.files import write_json
from synthcap_mm.store import Store


def _say(message: str, level: int = logging.INFO) -> None:
    print_log(message, logger="current", level=level)


def _features(store: Store, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Features of images, from a store of photos."""
    rows = {key: row for row, key in enumerate(store.images.strings("key"))}
    stored = find_images(keys, {key: [key] for key in rows}, str(store.path))
    missing = [key for key in keys if key not in stored]
    if missing:
        raise UserError(f"the store {store.path} lacks {len(missing)} of {len(keys)} images: {listed(missing)}")
    feats = store.images.features(np.array([rows[stored[key]] for key in keys])).astype(np.float32)
    return dict(zip(keys, feats, strict=True))


def _log_single_references(truth: References) -> None:
    single = [key for key, texts in truth.captions.items() if len(texts) == 1]
    if single:
        _say(
            f"{len(single)} of {len(truth.captions)} images of {truth.path} have one reference only: "
            f"{listed(single)}. The metrics take it, but their figures do not compare with those on five references",
            logging.WARNING,
        )


def eval_captions(
    predictions: Sequence[str],
    references: str,
    metrics: Sequence[str | Mapping[str, Any]] = DEFAULT_METRICS,
    split: str | None = None,
    out: str | None = None,
    store: str | None = None,
    encoder: Mapping[str, Any] | None = None,
    samples: int = 10000,
    seed: int = 0,
    tokenize: Tokenize = "ptb",
) -> dict[str, Any]:
    """Score one file of predictions, or compare two by a paired bootstrap over the images.

    Args:
        predictions: one or two files; see :func:`~synthcap_mm.evaluation.prediction_files.read_predictions`.
        references: file; see :func:`~synthcap_mm.evaluation.prediction_files.read_references`.
        metrics: see :func:`~synthcap_mm.evaluation.scorer.build_scorers`. Default: without Java.
        split: of the references. Default: Karpathy's test split.
        out: json to write: of one file, averages and every image's scores; of two, the comparison. Default: none.
        store: store of the photos, for CLIPScore. Default ``None``.
        encoder: config of the encoder that made it. Default ``None``.
        samples: resamples of the bootstrap. Default 10000.
        seed: of the bootstrap. Default 0.
        tokenize: see :class:`~synthcap_mm.evaluation.CaptionMetric`. Default ``'ptb'``.

    Returns:
        The averages of one file, or of two the comparison: for each metric ``a``, ``b``, ``difference``, and where
        images have scores of their own, ``low`` and ``high`` of its 95 % interval, ``p`` and ``verdict``.

    Raises:
        UserError: if a file is missing or does not fit, with file and entry; see the readers. If the store lacks
            images, or the encoder is another one than made it.
    """
    scorers = build_scorers(metrics)
    truth = read_references(references, split)
    _log_single_references(truth)
    feats = encode = None
    if store is not None:
        opened = Store.open(store)
        feats = _features(opened, list(truth.captions))
        encode = None if encoder is None else text_encoder(encoder, opened.encoder)
    scored: list[ScoredCaptions] = []
    for file in predictions:
        captions = CaptionSet(join(read_predictions(file), truth), truth.captions, feats, encode, tokenize)
        if captions.empty:
            count = f"{len(captions.empty)} of {len(captions)} captions of {file}"
            _say(f"{count} are empty, and count as such: {listed(captions.empty)}")
        scored.append(score_set(captions, scorers))
        if out is not None and len(predictions) == 1:
            write_scored(out, captions, scored[0])
    if len(scored) == 1:
        table = metrics_table(scored[0].averages, scored[0].skipped, scored[0].notes, scored[0].warnings)
        _say(
            f"{predictions[0]}, {len(truth.captions)} images of {references}:\n{table}"
            + (f"\nwritten to {out}" if out else "")
        )
        return scored[0].averages
    compared = compare(*scored, samples=samples, seed=seed)
    by = ", by characters" if tokenize == "char" else ""
    table = comparison_table(compared, predictions, scored[0].skipped, scored[0].warnings)
    _say(f"{len(truth.captions)} images of {references}{by}\n{table}")
    if out is not None:
        settings = {
            "a": predictions[0],
            "b": predictions[1],
            "references": references,
            "images": len(truth.captions),
            "tokenize": tokenize,
        }
        write_json(out, {**settings, "samples": samples, "seed": seed, "metrics": compared})
        _say(f"written to {out}")
    return compared


def compare(a: ScoredCaptions, b: ScoredCaptions, samples: int = 10000, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Compare two methods on the same images, metric by metric.

    Where the average is no mean of the images' scores (BLEU, METEOR: of the whole
    set), difference and interval are of the mean of the images' scores, ``'of'`` says so.

    Args:
        a: the scores of one.
        b: those of the other.
        samples: see :func:`paired_bootstrap`. Default 10000.
        seed: see there. Default 0.

    Returns:
        By metric; see :func:`eval_captions`. ``verdict`` is ``'a'`` or ``'b'`` for the one with the higher score, or
        ``'tie'`` where the interval contains 0.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, average in a.averages.items():
        row: dict[str, Any] = {"a": average, "b": b.averages[name], "difference": average - b.averages[name]}
        keys = [key for key in a.per_image if name in a.per_image[key] and name in b.per_image[key]]
        if len(keys) >= 2:
            columns = [np.array([one.per_image[key][name] for key in keys]) for one in (a, b)]
            test = paired_bootstrap(*columns, samples=samples, seed=seed)
            means = all(np.isclose(c.mean(), v, atol=1e-6) for c, v in zip(columns, (row["a"], row["b"])))
            tie = test["low"] <= 0 <= test["high"]
            row |= {
                "of": "the average" if means else "the mean of the images' scores",
                "difference": test["mean_difference"],
                **{key: test[key] for key in ("low", "high", "p", "images")},
                "verdict": "tie" if tie else "a" if test["mean_difference"] > 0 else "b",
            }
        found[name] = row
    return found


def comparison_table(
    compared: Mapping[str, Mapping[str, Any]],
    files: Sequence[str],
    skipped: Mapping[str, str],
    warnings: Mapping[str, str],
) -> str:
    """The comparison as text, one metric a line; then skipped metrics with the reason, and warnings."""
    lines = [f"A: {files[0]}", f"B: {files[1]}"]
    width = max([len(name) for name in [*compared, *skipped]], default=0)
    lines.append(f"  {'':<{width}}  {'A':>8}  {'B':>8}  {'A − B':>8}  95 % interval")
    starred = False
    for name, row in compared.items():
        line = f"  {name:<{width}}  {row['a']:8.2f}  {row['b']:8.2f}  {row['difference']:+8.2f}"
        if "low" in row:
            verdict = "tie" if row["verdict"] == "tie" else f"{row['verdict'].upper()} is higher"
            star = "" if row["of"] == "the average" else " *"
            starred |= bool(star)
            line += f"  [{row['low']:+.2f}, {row['high']:+.2f}]  {verdict}{star}"
        else:
            line += "  none: a figure of the whole set"
        lines.append(line)
    lines += [f"  {name:<{width}}  skipped: {why}" for name, why in skipped.items()]
    lines += [f"  {name}: {why}" for name, why in warnings.items()]
    if starred:
        lines.append("* A and B are of the whole set; difference and interval are of the mean of the images' scores")
    return "\n".join(lines)
