"""From captions to tables: the floor, scores over seeds, paired intervals, and how clean a prefix is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from synthcap_mm.apis.results_page import mean_sd
from synthcap_mm.datasets import CaptionEvalDataset
from synthcap_mm.evaluation import paired_bootstrap, score_captions
from synthcap_mm.registry import DATASETS
from synthcap_mm.stores import Store

#: Metrics of the tables.
SHOWN = ("CIDEr", "BLEU-4", "ROUGE_L")
#: Name of both evaluation sets together.
POOLED = "both"


def references_of(store: str) -> dict[str, list[str]]:
    """Reference captions of an evaluation store's photos, by key."""
    return {sample.key: sample.references for sample in map(CaptionEvalDataset(store).__getitem__, _rows(store))}


def _rows(store: str) -> range:
    return range(len(CaptionEvalDataset(store)))


def nearest_captions(pairs: str, photos: str) -> dict[str, str]:
    """The floor: for each photo the training caption whose feature is nearest to the photo's."""
    store = Store.open(pairs)
    rows = store.caption_rows("train")
    memory = F.normalize(torch.from_numpy(store.caption_features(rows)).float(), dim=1)
    dataset = CaptionEvalDataset(photos)
    samples = [dataset[i] for i in range(len(dataset))]
    nearest = (torch.stack([sample.feat for sample in samples]) @ memory.T).argmax(1)
    return {s.key: store.captions.value("text", int(rows[n])) for s, n in zip(samples, nearest.tolist())}


def score_sets(
    captions: Mapping[str, Mapping[str, str]], references: Mapping[str, Mapping[str, list[str]]]
) -> dict[str, dict[str, Any]]:
    """Scores on each set and on all together.

    Args:
        captions: set → photo → caption.
        references: set → photo → captions of people.

    Returns:
        set → ``{'metrics': averages, 'per_image': {photo: CIDEr}}``.
    """
    everything = {k: v for part in captions.values() for k, v in part.items()}
    all_references = {k: v for part in references.values() for k, v in part.items()}
    result = {}
    for name, own, truth in [
        *((n, captions[n], references[n]) for n in captions),
        (POOLED, everything, all_references),
    ]:
        averages, per_image = score_captions(own, truth)
        result[name] = {"metrics": averages, "per_image": {k: v["CIDEr"] for k, v in sorted(per_image.items())}}
    return result


def compare(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Paired bootstrap of CIDEr over photos, ``a - b``, seeds averaged; by set.

    Args:
        a: results of :func:`score_sets`, one a seed.
        b: those of the other method.
    """
    found = {}
    for name in a[0]:
        keys = sorted(a[0][name]["per_image"])
        scores = [np.array([[run[name]["per_image"][k] for k in keys] for run in runs]) for runs in (a, b)]
        found[name] = paired_bootstrap(*scores, samples=10000)
    return found


@torch.no_grad()
def prefix_cosines(
    model: Any, photos: Mapping[str, str], texts: Mapping[str, Any], train_set: dict, heldout_set: dict
) -> dict:
    """Mean cosine of the feature that the projector gets with its own caption, in training and at inference.

    Args:
        model: a captioner; its necks but the last make the feature.
        photos: evaluation stores by name.
        texts: for each of them photo → features of its captions ``(5, D)``.
        train_set: config of the training dataset.
        heldout_set: config of the held-out pairs' dataset.

    Returns:
        ``train`` (2,000 training samples), ``heldout`` (pseudo images of held-out captions), and each
        evaluation set (mean over a photo's captions).
    """

    def feature(samples: list[Any], phase: str) -> torch.Tensor:
        prefix = model.data_preprocessor(samples, training=phase == "train")["prefix"]
        for neck in model.necks[:-1]:
            prefix, _ = neck(prefix, phase)
        return F.normalize(prefix.feats, dim=1)

    model.eval()
    train, heldout = DATASETS.build(train_set), DATASETS.build(heldout_set)
    chosen = np.random.default_rng(0).permutation(len(train))[:2000].tolist()
    result = {}
    for name, dataset, rows, phase in (
        ("train", train, chosen, "train"),
        ("heldout", heldout, range(len(heldout)), "predict"),
    ):
        cosines = []
        for start in range(0, len(rows), 200):
            samples = [dataset[i] for i in rows[start : start + 200]]
            own = torch.stack([sample.text_feat for sample in samples])
            cosines.append((feature(samples, phase) * own).sum(1))
        result[name] = float(torch.cat(cosines).mean())
    for name, store in photos.items():
        dataset = CaptionEvalDataset(store)
        samples = [dataset[i] for i in range(len(dataset))]
        feats = feature(samples, "predict")
        result[name] = float(np.mean([float((texts[name][s.key] @ f).mean()) for s, f in zip(samples, feats)]))
    return result


def ten_photos(results: dict[str, Any], references: Mapping[str, Mapping[str, list[str]]]) -> str:
    """Captions of the first seed for ten photos, as Markdown; five of each set, evenly spaced by name: not chosen.

    Args:
        results: as in ``results.json``.
        references: set → photo → captions of people; the first is shown.
    """
    entries = [entry for name, entry in results["methods"].items() if "-" not in name]
    lines = [f"| photo | {' | '.join(e['title'] for e in entries)} | one of its references |"]
    lines.append(f"|---|{'---|' * len(entries)}---|")
    for place, truth in references.items():
        keys = sorted(truth)
        for key in keys[:: max(1, len(keys) // 5)][:5]:
            cells = [entry["runs"][0]["captions"][place][key] for entry in entries]
            lines.append(f"| {key} | {' | '.join(cells)} | {truth[key][0]} |")
    return "\n".join(lines) + "\n"


def markdown(results: dict[str, Any]) -> str:
    """The tables of a run's ``results.json``, as Markdown."""
    sets = list(results["sets"])
    head = ["method", "seeds", *(f"{s} {m}" for s in sets for m in SHOWN), "held-out CIDEr"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in results["methods"].values():
        cells = [mean_sd([run["scores"][s]["metrics"][m] for run in entry["runs"]]) for s in sets for m in SHOWN]
        chosen = [run["heldout_CIDEr"] for run in entry["runs"] if run.get("heldout_CIDEr") is not None]
        lines.append(f"| {entry['title']} | {len(entry['runs'])} | {' | '.join(cells)} | {mean_sd(chosen)} |")
    if results["comparisons"]:
        lines += ["", f"| CIDEr, difference [95 %] | {' | '.join(sets)} |", f"|---|{'---|' * len(sets)}"]
        for name, found in results["comparisons"].items():
            cells = [f"{f['mean_difference']:+.1f} [{f['low']:+.1f}, {f['high']:+.1f}]" for f in found.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    with_prefix = {n: e for n, e in results["methods"].items() if e["runs"][0].get("prefix_cosine")}
    if with_prefix:
        places = list(next(iter(with_prefix.values()))["runs"][0]["prefix_cosine"])
        lines += ["", f"| cosine of the prefix with its own caption | {' | '.join(places)} |"]
        lines.append(f"|---|{'---|' * len(places)}")
        for entry in with_prefix.values():
            cells = [f"{np.mean([r['prefix_cosine'][p] for r in entry['runs']]):.2f}" for p in places]
            lines.append(f"| {entry['title']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
