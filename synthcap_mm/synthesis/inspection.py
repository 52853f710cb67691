"""What there is to see in a store's pairs: a sample, the scores, the modality gap, the flagged images.

Figures over all pairs come from columns of numbers; features are read of a sample
only, so that half a million pairs cost no more memory than a few thousand.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.store import Store, StoreError
from synthcap_mm.store.store import view_file

#: Flagged images that are listed by name; all are counted.
MOST_FLAGGED = 200


@dataclasses.dataclass
class SeenPair:
    """One pair to look at.

    Attributes:
        row: its row in the pairs table.
        image: row of its image.
        caption: its text.
        caption_id: the caption's id.
        score: its CLIP score.
        tags: detected objects with their scores.
        split: ``'train'`` or ``'heldout'``.
    """

    row: int
    image: int
    caption: str
    caption_id: str
    score: float
    tags: list[tuple[str, float]]
    split: str


@dataclasses.dataclass
class Findings:
    """What :func:`inspect_store` found.

    Attributes:
        table: name of the pairs table.
        images: what its images are: ``'drawings'`` or ``'retrieved photos'``.
        counts: captions, images, pairs, usable pairs, distinct images used.
        groups: title → pairs to look at: a random sample, and of the captions' first pairs
            those with the lowest and the highest scores.
        scores: name of a table → edges and counts of its usable pairs' scores, and their mean.
        gap: figures of the modality gap; see :func:`modality_gap`.
        points: name of a set → ``(M, 2)`` places in the plane of the two first principal components.
        explained: share of the variance on each of the two.
        flags: flag → number of images.
        flagged: key, flags and captions of flagged images, at most :data:`MOST_FLAGGED`.
    """

    table: str
    images: str
    counts: dict[str, int]
    groups: dict[str, list[SeenPair]]
    scores: dict[str, dict[str, Any]]
    gap: dict[str, Any]
    points: dict[str, np.ndarray]
    explained: tuple[float, float]
    flags: dict[str, int]
    flagged: list[tuple[str, list[str], list[str]]]


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def modality_gap(sets: dict[str, np.ndarray]) -> dict[str, Any]:
    """How far sets of features lie from the first one, the captions'.

    Args:
        sets: name → ``(M, D)`` unit features; the captions first. Sets of as many rows as
            the captions are theirs row by row, unless named ``'real photos'``.

    Returns:
        dict: for each other set ``centres`` (distance between the means: Liang et al.,
        "Mind the Gap", 2022), ``own`` (mean cosine with the own caption; ``None`` for
        photos), ``others`` (mean cosine with the captions of other rows) and ``spread``
        (mean cosine within the set, 1: all the same), and the captions' ``spread``.
    """
    names = list(sets)
    captions = sets[names[0]]
    centre = captions.mean(0)

    def spread(x: np.ndarray) -> float | None:
        n = len(x)
        return float((np.square(x.sum(0)).sum() - n) / (n * (n - 1))) if n > 1 else None

    figures: dict[str, Any] = {names[0]: {"rows": len(captions), "spread": spread(captions)}}
    for name in names[1:]:
        x = sets[name]
        paired = name != "real photos"
        own = float((x * captions).sum(1).mean()) if paired else None
        everyone = float(x.mean(0) @ centre)
        n = len(x)
        others = (everyone * n - own) / (n - 1) if paired and n > 1 else everyone
        figures[name] = {
            "rows": n,
            "centres": float(np.linalg.norm(x.mean(0) - centre)),
            "own": own,
            "others": float(others),
            "spread": spread(x),
        }
    return figures


def principal_plane(sets: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """All sets in the plane of the two first principal components of their union.

    Args:
        sets: name → ``(M, D)``.

    Returns:
        tuple: name → ``(M, 2)``, and the share of the variance on each of the two. The
        signs are fixed: each component's largest weight is positive.
    """
    everything = np.concatenate(list(sets.values()))
    centre = everything.mean(0)
    values, vectors = np.linalg.eigh(np.cov(everything.T, bias=True).reshape(everything.shape[1], -1))
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    total = max(float(values.sum()), 1e-12)
    places = {name: (x - centre) @ axes for name, x in sets.items()}
    shares = [max(float(v), 0.0) / total for v in values[::-1][:2]] + [0.0]
    return places, (shares[0], shares[1])


def _score_histograms(store: Store, names: list[str], flagged: np.ndarray, bins: int) -> dict[str, dict[str, Any]]:
    """Histograms of the usable pairs' scores, all over the same range so that tables can be compared."""
    scores = {}
    for name in names:
        table = store.pairs(name)
        scores[name] = table.numbers("score")[~flagged[table.numbers("image")]]
    some = [s for s in scores.values() if len(s)]
    low, high = min(float(s.min()) for s in some), max(float(s.max()) for s in some)
    edges = np.linspace(low, high if high > low else low + 1e-3, bins + 1)
    return {
        name: {
            "edges": edges.tolist(),
            "counts": np.histogram(s, edges)[0].tolist(),
            "mean": float(s.mean(dtype=np.float64)) if len(s) else None,
            "percentiles": {str(p): float(np.percentile(s, p)) for p in (1, 10, 50, 90, 99)} if len(s) else {},
            "pairs": len(s),
        }
        for name, s in scores.items()
    }


def real_photo_features(path: str, store: Store, encoder: dict | None, most: int, device: str = "cpu") -> np.ndarray:
    """Features of real photos by the encoder that made a store.

    Args:
        path: a store of photos (tools/encode_images.py), or a folder of pictures, which are encoded.
        store: the store that they are to be compared with.
        encoder: config of its encoder, for a folder.
        most: photos that are read; a sample, evenly spaced.
        device: torch device of the encoder. Default ``'cpu'``.

    Returns:
        np.ndarray: ``(M, D)``; flagged and undecodable photos are left out.

    Raises:
        StoreError: if the photos' encoder is another than the store's.
        FileNotFoundError: if there is no such folder.
        ValueError: if no photo can be read.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(f"--real-photos: no store of photos and no folder at {path}")
    if view_file(path).is_file():
        photos = Store.open(path)
        store.check_encoder(photos.encoder, f"the photos' store {path}")
        rows = np.flatnonzero(~photos.is_flagged)
        if not len(rows):
            raise ValueError(f"--real-photos: all photos of {path} are flagged")
        return photos.images.features(rows[_spread(len(rows), most)])
    if encoder is None:
        raise ValueError("--real-photos: a folder needs the config's synthesis.encoder; or give a store of photos")
    backbone = MODELS.build(encoder).to(device)
    store.check_encoder(backbone.fingerprint())
    source = DATASETS.build({"type": "PhotoFolder", "root": path})
    found = []
    for i in _spread(len(source), most).tolist():
        try:
            found.append(backbone.encode_pil([source.load(i)]).float().cpu().numpy())
        except (OSError, ValueError) as error:
            print_log(f"{source.keys[i]} is left out: {error}", logger="current", level=30)
    if not found:
        raise ValueError(f"--real-photos: no photo of {path} can be read")
    return np.concatenate(found)


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def inspect_store(
    store: Store,
    pairs: str = "default",
    sample: int = 48,
    extremes: int = 8,
    points: int = 1000,
    photos: np.ndarray | None = None,
    bins: int = 40,
    seed: int = 0,
) -> Findings:
    """Look at a store's pairs.

    Args:
        store: a store of pairs.
        pairs: name of the pairs table. Default ``'default'``.
        sample: pairs in the random sample. Default 48.
        extremes: pairs of the lowest and of the highest score. Default 8.
        points: training pairs whose features are read for the modality gap. Default 1000.
        photos: ``(M, D)`` features of real photos by the same encoder. Default ``None``.
        bins: of the histograms. Default 40.
        seed: of the sample. Default 0.

    Raises:
        StoreError: if the store holds photos or captions only, has no such table, or the table was curated before
            its captions, images or pairs were made anew.
        ValueError: if it has no usable pair.
    """
    if store.kind == "photos":
        raise StoreError(f"the store {store.path} holds photos, not pairs")
    if not store.has("images"):
        raise StoreError(f"the store {store.path} holds captions only; there are no pairs to look at")
    table = store.pairs(pairs)
    caption, image, score = (table.numbers(c) for c in ("caption", "image", "score"))
    has_flag = store.is_flagged
    heldout = np.zeros(len(store.captions), bool)
    heldout[store.caption_rows("heldout")] = True
    usable = np.flatnonzero(~has_flag[image])
    if not len(usable):
        raise ValueError(f"pairs/{pairs} of the store {store.path} has no usable pair: all images are flagged")
    rng = np.random.default_rng(seed)

    def seen(row: int) -> SeenPair:
        c, i = int(caption[row]), int(image[row])
        return SeenPair(
            row=int(row),
            image=i,
            caption=store.captions.value("text", c),
            caption_id=store.captions.value("id", c),
            score=float(score[row]),
            tags=[(tag.name, tag.score) for tag in store.tags(i)],
            split="heldout" if heldout[c] else "train",
        )

    # One pair a caption, the first: otherwise one bad caption of many images would fill the list.
    first = usable[np.unique(caption[usable], return_index=True)[1]]
    order = first[np.argsort(score[first], kind="stable")]
    groups = {
        "A random sample": np.sort(rng.choice(usable, min(sample, len(usable)), replace=False)),
        "The lowest scores": order[:extremes],
        "The highest scores": order[::-1][:extremes],
    }
    training = usable[~heldout[caption[usable]]]
    training = training if len(training) > 1 else usable
    images = "retrieved photos" if store.recipe("images").get("of") == "photos" else "drawings"
    sets = _feature_sets(store, pairs, images, np.sort(rng.choice(training, min(points, len(training)), replace=False)))
    if photos is not None:
        sets["real photos"] = _unit(photos[np.sort(rng.permutation(len(photos))[:points])])
    places, explained = principal_plane(sets)
    flagged = store.flagged()
    tables = [t.split("/", 1)[1] for t in store.tables if t.startswith("pairs/")]
    return Findings(
        table=pairs,
        images=images,
        counts={
            "captions": len(store.captions),
            "held out": int(heldout.sum()),
            "images": len(store.images),
            "flagged images": int(has_flag.sum()),
            "pairs": len(table),
            "usable pairs": len(usable),
            "captions with a pair": len(np.unique(caption[usable])),
            "distinct images used": len(np.unique(image[usable])),
        },
        groups={title: [seen(row) for row in rows_] for title, rows_ in groups.items() if len(rows_)},
        scores=_score_histograms(store, [pairs, *(t for t in tables if t != pairs)], has_flag, bins),
        gap=modality_gap(sets),
        points={name: p[:500] for name, p in places.items()},
        explained=explained,
        flags=dict(Counter(flag for flags in flagged.values() for flag in flags)),
        flagged=_flagged_with_captions(store, flagged, caption, image),
    )


def _feature_sets(store: Store, pairs: str, images: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Features of some pairs' captions and images, and their optimised ones if there are any."""
    table = store.pairs(pairs)
    sets = {
        "captions": _unit(store.captions.features(table.numbers("caption")[rows])),
        images: _unit(store.images.features(table.numbers("image")[rows])),
    }
    if store.has(f"refined/{pairs}"):
        sets[f"optimised {images}"] = _unit(store.refined(pairs).features(rows))
    return sets


def _flagged_with_captions(
    store: Store, flagged: dict[str, list[str]], caption: np.ndarray, image: np.ndarray
) -> list[tuple[str, list[str], list[str]]]:
    """Key, flags and up to three captions of the first :data:`MOST_FLAGGED` flagged images."""
    found = []
    for row in np.flatnonzero(store.is_flagged)[:MOST_FLAGGED].tolist():
        texts = [store.captions.value("text", int(caption[pair])) for pair in np.flatnonzero(image == row)[:3]]
        key = store.images.value("key", row)
        found.append((key, flagged[key], texts))
    return found
