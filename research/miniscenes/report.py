"""The figures and pictures of ``docs/miniscenes.md`` and ``research/logs/miniscenes.md``.

Run ``python -m research.miniscenes.report --sheet miniscenes_sheet.png``.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from synthcap_mm.miniscenes import measures
from synthcap_mm.miniscenes.detector import MiniScenesTagger
from synthcap_mm.miniscenes.language import VOCABULARY
from synthcap_mm.miniscenes.painting import MiniScenesPainter, photograph
from synthcap_mm.miniscenes.scenes import KINDS, Scene, held_out, scene_of
from synthcap_mm.miniscenes.sources import MiniScenesCaptions, MiniScenesPhotos

_ASPECTS: dict[str, Callable[[Scene], object]] = {
    "place": lambda s: s.place,
    "light": lambda s: s.light,
    "one group or two": lambda s: s.other is None,
    "relation or none": lambda s: s.relation,
}
#: Asked of scenes with one group only: of two, either may be the main one.
_GROUP_ASPECTS: dict[str, Callable[[Scene], object]] = {
    "kind": lambda s: s.main.kind,
    "colour": lambda s: s.main.colour,
    "count": lambda s: s.main.count,
    "size": lambda s: s.main.size,
}


def _zero_shot(feats: Tensor, names: Tensor, scenes: list[Scene]) -> str:
    kinds = list(KINDS)
    hits = []
    for row, scene in zip((feats @ names.T).topk(3, 1).indices.tolist(), scenes):
        present = {g.kind for g in scene.groups}
        hits.append(([kinds[j] in present for j in row], len(present)))
    first = np.mean([h[0] for h, _ in hits])
    both = np.mean([np.mean(h[:2]) for h, n in hits if n == 2])
    three = np.mean([np.mean(h) for h, _ in hits])
    found = np.mean([sum(h) / n for h, n in hits])
    return (
        f"precision@1 {first:.3f}, precision@2 where there are two kinds {both:.3f}, "
        f"precision@3 {three:.3f}, recall@3 {found:.3f}"
    )


def report() -> list[str]:
    """All figures, a line each (a minute or two on one core)."""
    model, tokenizer = measures.load_miniclip()
    lines = [f"1 / temperature: {float(model.logit_scale.detach().exp()):.1f}"]
    captions = MiniScenesCaptions().read()
    painter = MiniScenesPainter()
    train, test, val = MiniScenesPhotos("train", 4000), MiniScenesPhotos("test"), MiniScenesPhotos("val")

    def photo_features(source: MiniScenesPhotos) -> Tensor:
        return measures.image_features(model, [source.load(i) for i in range(len(source))])

    feats = {"val": photo_features(val), "test": photo_features(test), "train": photo_features(train)}
    texts = measures.text_features(model, tokenizer, [c.text for c in captions])
    drawn = measures.image_features(model, painter.generate([c.text for c in captions], list(range(len(captions)))))
    for name, source in (("val", val), ("test", test)):
        first = measures.text_features(model, tokenizer, [source.references(i)[0] for i in range(200)])
        there, back = measures.recall_at_1(feats[name][:200], first), measures.recall_at_1(first, feats[name][:200])
        lines.append(f"recall@1 among 200 {name} photos: photo to caption {there:.3f}, caption to photo {back:.3f}")
    some = slice(0, 4000, 20)
    there, back = measures.recall_at_1(drawn[some], texts[some]), measures.recall_at_1(texts[some], drawn[some])
    lines.append(f"recall@1 among 200 drawings: drawing to caption {there:.3f}, caption to drawing {back:.3f}")
    lines.append(
        f"cosine with the own caption: photos {float((feats['train'] * texts).sum(1).mean()):.3f}, "
        f"drawings {float((drawn * texts).sum(1).mean()):.3f}"
    )
    looks = torch.cat([feats["train"], drawn])
    labels = (torch.arange(len(looks)) >= len(feats["train"])).long()
    order = torch.randperm(len(looks), generator=torch.Generator().manual_seed(0))
    fit, check = order[:6000], order[6000:]
    probe = measures.linear_probe(looks[fit], labels[fit], looks[check], labels[check], steps=2000, decay=0.0)
    means = {"photos": feats["train"].mean(0), "drawings": drawn.mean(0), "captions": texts.mean(0)}
    lines.append(f"linear probe, photo or drawing: {probe:.3f}")
    for a, b in (("photos", "drawings"), ("photos", "captions"), ("drawings", "captions")):
        lines.append(f"distance of the means, {a} to {b}: {float((means[a] - means[b]).norm()):.3f}")
    scenes = {
        "train": [scene_of("train", 0, i) for i in range(len(train))],
        "test": [scene_of("test", 0, i) for i in range(300)],
    }
    for aspect, look in _ASPECTS.items():
        names = sorted({str(look(s)) for group in scenes.values() for s in group})
        label = {k: torch.tensor([names.index(str(look(s))) for s in group]) for k, group in scenes.items()}
        accuracy = measures.linear_probe(feats["train"], label["train"], feats["test"], label["test"])
        most = float(torch.bincount(label["test"]).max()) / 300
        lines.append(f"linear probe on photos, {aspect}: {accuracy:.3f} (most frequent answer {most:.3f})")
    # More scenes of one group than the splits have: those of another seed.
    alone = {
        split: [s for s in (scene_of(split, 1, i) for i in range(number)) if s.other is None]
        for split, number in (("train", 6000), ("val", 1200))
    }
    alone_feats = {
        split: measures.image_features(model, [photograph(s) for s in group]) for split, group in alone.items()
    }
    for aspect, look in _GROUP_ASPECTS.items():
        names = sorted({str(look(s)) for group in alone.values() for s in group})
        label = {k: torch.tensor([names.index(str(look(s))) for s in group]) for k, group in alone.items()}
        accuracy = measures.linear_probe(alone_feats["train"], label["train"], alone_feats["val"], label["val"])
        most = float(torch.bincount(label["val"]).max()) / len(label["val"])
        lines.append(f"linear probe on photos of one group, {aspect}: {accuracy:.3f} (most frequent answer {most:.3f})")
    names = measures.text_features(model, tokenizer, [f"a photo of a {v}" for v in VOCABULARY])
    plans = [painter.plan(c.text, i)[1] for i, c in enumerate(captions[:600])]
    lines.append(f"zero-shot names of test photos: {_zero_shot(feats['test'], names, scenes['test'])}")
    lines.append(f"zero-shot names of drawings: {_zero_shot(drawn[:600], names, plans)}")
    tagger = MiniScenesTagger()
    photos, drawings = (
        [test.load(i) for i in range(300)],
        painter.generate([c.text for c in captions[:600]], list(range(600))),
    )
    lines.append(f"detector on test photos: {measures.names_found(tagger, photos, scenes['test'])}")
    lines.append(f"detector on drawings: {measures.names_found(tagger, drawings, plans)}")
    scenes_of_all = [scene_of("test", 0, i) for i in range(1000)]
    rare = [(s, g) for s in scenes_of_all for g in s.groups if held_out(g.kind, g.colour)]
    only = [replace(s, main=g, other=None, relation=None) for s, g in rare]
    shown = [photograph(s) for s, _ in rare]
    lines.append(f"detector on held-out kinds in colours ({len(only)}): {measures.names_found(tagger, shown, only)}")
    return lines


def sheet(path: str | Path, columns: int = 8, rows: int = 2, seed: int = 4) -> None:
    """Photos of training scenes, a caption of each, and what the painter draws from that caption."""
    from PIL import Image, ImageDraw

    cell, gap, lines = 104, 6, 5
    height = 2 * cell + lines * 11 + 2 * gap
    image = Image.new("RGB", (columns * (cell + gap) + gap, rows * height + gap), "white")
    pen = ImageDraw.Draw(image)
    source = MiniScenesPhotos("train", columns * rows, seed)
    painter = MiniScenesPainter()
    for i in range(columns * rows):
        x, y = gap + i % columns * (cell + gap), gap + i // columns * height
        caption = source.references(i)[0]
        image.paste(source.load(i).resize((cell, cell), Image.Resampling.LANCZOS), (x, y))
        for n, text in enumerate(textwrap.wrap(caption, 19)[:lines]):
            pen.text((x, y + cell + 11 * n), text, fill="black", font_size=10)
        drawing = painter.generate([caption], [i])[0].resize((cell, cell), Image.Resampling.LANCZOS)
        image.paste(drawing, (x, y + cell + lines * 11 + 2))
    image.quantize(192).save(path, optimize=True)


def main() -> None:
    """Log the figures, and write the sheet if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="write the sheet of photos and drawings to this png")
    args = parser.parse_args()
    if args.sheet:
        sheet(args.sheet)
    for line in report():
        print_log(line, logger="current")


if __name__ == "__main__":
    main()
