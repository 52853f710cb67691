"""What the mini-world's table comes from: python -m research.miniscenes.diagnose_features [--runs FOLDER].

Four findings of logs/results.md are looked for in the features, tags and pairs, and printed as Markdown (logs/findings.md):

- what a linear probe reads from each method's prefix, learnt from training prefixes and asked about photos;
- what the finished captioners write (``--runs``: the folder of ``research.run mini``, for its test captions);
- pairs before and after curation, by tags, by what was really drawn, and by the scenes' photos;
- entities of hard prompts, right and wrong, and captions that are retrieved, in training and at inference.

No captioner is trained. Nothing of it chooses a setting: users have no such photos. The stores are made if they are not
there; curated tables are made in a copy. A few minutes on one core.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor

from research.miniscenes.same_scenes import CONFIGS, Scenes, make_stores
from synthcap_mm.datasets.tagging import tags_by_features
from synthcap_mm.engine.shared_encoder import share_encoder
from synthcap_mm.miniscenes.language import coloured_name, kinds_named, parse
from synthcap_mm.miniscenes.scenes import COLOURS, KINDS, PLACES, Scene
from synthcap_mm.miniscenes.sources import scene_named
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.necks import NoiseInjection, RetrievalFusion, TextMemoryProjection
from synthcap_mm.models.necks.pseudo_feature_optimizer import refine
from synthcap_mm.models.tag_prompt import TagPrompt
from synthcap_mm.models.tag_providers import CaptionEntities
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import PrefixBatch, Tag
from synthcap_mm.synthesis.curation import Curation

#: Steps of optimisation that reach any of the levels asked for here.
STEPS = 60
#: Of a ridge regression; that which serves unseen scenes of the training side best is taken.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
#: What a probe is asked for, and the columns of each.
ASPECTS = {"kinds": list(KINDS), "colours": list(COLOURS), "place": list(PLACES)}
_ENDS = np.cumsum([0, *map(len, ASPECTS.values())])
SPANS = {name: slice(a, b) for name, a, b in zip(ASPECTS, _ENDS, _ENDS[1:])}


def table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> None:
    """Print a Markdown table; shares as per cent, ``None`` as a dash."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, cells in rows:
        shown = ["–" if c is None else c if isinstance(c, str) else f"{c:,}" if isinstance(c, int) else f"{100 * c:.1f}"
                 for c in cells]  # fmt: skip
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


# ---- probes
def labels(scene: Scene) -> Tensor:
    """``(49,)`` of 0 and 1: kinds, colours and place of a scene, or of what a caption says."""
    has = {
        "kinds": {g.kind for g in scene.groups},
        "colours": {g.colour for g in scene.groups},
        "place": {scene.place},
    }
    return torch.tensor([float(value in has[name]) for name, values in ASPECTS.items() for value in values])


def found(answers: Tensor, truth: Tensor) -> list[float]:
    """For each aspect the share of what is there that is among as many best answers as there are things."""
    shares = []
    for span in SPANS.values():
        given, true = answers[:, span], truth[:, span]
        rank = given.argsort(1, descending=True).argsort(1)
        hit = (rank < true.sum(1, keepdim=True)) & (true > 0)
        shares.append(float(hit.sum() / true.sum()))
    return shares


def ridge(feats: Tensor, target: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
    """A linear regression on standardised features, in closed form (float64)."""
    x, y = feats.double(), target.double()
    centre, spread, mean = x.mean(0), x.std(0) + 1e-9, y.mean(0)
    x = (x - centre) / spread
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ (y - mean) / len(x))
    return lambda new: ((new.double() - centre) / spread) @ weight + mean


def probe(
    feats: Tensor, said: Tensor, learn: slice, unseen: slice, photos: Tensor, shown: Tensor
) -> tuple[list[float], list[float]]:
    """What is read from unseen scenes' training prefixes, of their captions; and from photos, of their scenes."""
    fits = [ridge(feats[learn], said[learn], penalty) for penalty in PENALTIES]
    best = max(fits, key=lambda fit: sum(found(fit(feats[unseen]), said[unseen])))
    return found(best(feats[unseen]), said[unseen]), found(best(photos), shown)


def told_apart(drawn: Tensor, real: Tensor, learn: slice, unseen: slice) -> float:
    """How often a linear probe tells the training side from the inference side, on scenes that it did not see."""
    sides = torch.cat([torch.ones(len(drawn[learn]), 1), -torch.ones(len(real[learn]), 1)])
    fit = ridge(torch.cat([drawn[learn], real[learn]]), sides, PENALTIES[0])
    right = torch.cat([fit(drawn[unseen]) > 0, fit(real[unseen]) < 0])
    return float(right.float().mean())


def probe_rows(scenes: Scenes, config: Config, photos: Tensor, shown: Tensor) -> Iterable[tuple[str, list]]:
    """The rows of the first table: training prefix and inference prefix of each method or variant."""
    torch.manual_seed(0)
    store = Store.open(scenes.store)
    said = torch.stack([labels(parse(store.captions.value("text", int(row)))) for row in scenes.rows])
    unseen, learn = scenes.here, slice(scenes.count, None)
    bank = {
        "negative_text": scenes.text[scenes.bank],
        "negative_image": scenes.drawing[scenes.bank],
        "negative_groups": scenes.groups[scenes.bank],
    }

    def to(level: float) -> Tensor:
        settings = {**config.synthesis.refine, "steps": STEPS, "target_cosine": level}
        settings.pop("bank_size", None)
        return refine(scenes.drawing, scenes.text, scenes.groups, **bank, **settings)

    def projection(temperature: float) -> Callable[[Tensor], Tensor]:
        neck = TextMemoryProjection(temperature=temperature)
        neck.bind(CaptionMemory.from_store(Store.open(scenes.store)))
        return neck.project

    def raw(feats: Tensor) -> Tensor:
        return feats

    own = config.model.necks.memory.temperature
    project = projection(own)
    noise = NoiseInjection(variance=Config.fromfile(CONFIGS / "capdec/capdec_mini.py").model.necks.noise.variance)
    noisy = noise(PrefixBatch(scenes.text, "text", scenes.text), "train")[0].feats
    half, far = to(config.synthesis.refine.target_cosine), to(0.6)
    ways: list[tuple[str, Tensor, Callable, Callable]] = [
        ("drawings (no optimisation, no memory)", scenes.drawing, raw, raw),
        ("optimised to 0.50 (SynTIC without memory)", half, raw, raw),
        ("optimised to 0.60, no memory", far, raw, raw),
        ("drawings, projected (SynTIC without optimisation)", scenes.drawing, project, project),
        (f"optimised to 0.50, projected, temperature {own} (SynTIC)", half, project, project),
    ]
    for temperature in (0.005, 0.02, 0.05):
        other = projection(temperature)
        ways.append((f"the same, temperature {temperature}", half, other, other))
    ways.append(("optimised to 0.60, projected", far, project, project))

    def mix(feats: Tensor) -> Tensor:
        return F.normalize(feats + project(feats), dim=1)

    ways += [
        ("optimised to 0.50, sum with its projection", half, mix, mix),
        ("captions (training) and projected photos (DeCap)", scenes.text, raw, project),
        ("noisy captions (training) and photos (CapDec)", noisy, raw, raw),
        ("*nothing: what is usual*", torch.zeros_like(scenes.text), raw, torch.zeros_like),
        ("*photos of the scenes*", scenes.photo, raw, raw),
        ("*photos of the scenes, projected*", scenes.photo, project, project),
    ]
    for name, feats, training, inference in ways:
        drawn, real = training(feats), inference(scenes.photo)
        apart = None if name.startswith("*") else told_apart(drawn, real, learn, unseen)
        there, asked = probe(drawn, said, learn, unseen, inference(photos), shown)
        yield name, [apart, *there, *asked]


# ---- what was written
def sentence_rows(runs: Path, encoder: Any, photos: Store, names: dict[str, str]) -> Iterable[tuple[str, list]]:
    """Test captions of finished runs: how varied, and how near to the photo and to the references."""
    keys = photos.images.strings("key")
    image = dict(zip(keys, F.normalize(torch.from_numpy(photos.images.features()).float(), dim=1)))
    references: dict[str, list[str]] = {}
    for run, title in names.items():
        figures = []
        for file in sorted(runs.glob(f"{run}-*/seed*/test/images.json")):
            images = json.loads(file.read_text("utf-8"))["images"]
            references = {key: v["references"] for key, v in images.items()}
            written = [v["hypothesis"] for v in images.values()]
            figures.append(_of_sentences(written, list(references.values()), list(images), encoder, image))
        if figures:
            yield title, [len(figures), *np.mean(figures, axis=0).tolist()]
    first, rest = [r[0] for r in references.values()], [r[1:] for r in references.values()]
    yield "*a reference of each photo*", ["–", *_of_sentences(first, rest, list(references), encoder, image)]


def _of_sentences(
    written: list[str], references: list[list[str]], keys: list[str], encoder: Any, image: dict[str, Tensor]
) -> list[float]:
    """The columns of a sentence's table: variety, right kinds and places, and the two cosines."""
    text = encoder.encode_text(written)
    near = torch.stack([F.normalize(encoder.encode_text(r).mean(0), dim=0) for r in references])
    scenes = [scene_named(key) for key in keys]
    named, there = [kinds_named(w) for w in written], [{g.kind for g in scene.groups} for scene in scenes]
    right = sum(len(a & b) for a, b in zip(named, there))
    places = [parse(w).place if kinds else None for w, kinds in zip(written, named)]
    told = [place == scene.place for place, scene in zip(places, scenes) if place]
    return [
        len(set(written)) / len(written),
        right / max(1, sum(map(len, named))),
        right / sum(map(len, there)),
        len(told) / len(written),
        sum(told) / max(1, len(told)),
        float((text * torch.stack([image[k] for k in keys])).sum(1).mean()),
        float((text * near).sum(1).mean()),
    ]


# ---- curation
def pair_rows(config: Config, scenes: Scenes, photos: str) -> Iterable[tuple[str, list]]:
    """Pairs before and after curation."""
    from synthcap_mm.miniscenes.painting import MiniScenesPainter

    painter = MiniScenesPainter(
        **{k: v for k, v in config.synthesis.generator.items() if k in ("drop", "recolour", "miscount")}
    )
    prompt = prompt_of(config)
    by_tags = Config.fromfile(CONFIGS / "sync/sync_tags_mini.py").curation.steps[0]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "pairs")
        shutil.copytree(config.store, path)
        steps = {"reassigned (SynC)": config.curation.steps[0]}
        for weight in (0.1, 0.5, 1.0, 2.0):
            agreement = {**by_tags.agreement, "weight": weight}
            steps[f"reassigned by encoder and tags, weight {weight}"] = {**by_tags, "agreement": agreement}
        names = dict(by_tags.agreement.entities)
        names["vocabulary"] = [*names["vocabulary"], *COLOURS]
        steps["the same, weight 1.0, colours as names too"] = {**by_tags, "agreement": {"entities": names}}
        for number, step in enumerate(steps.values()):
            Curation(path, [dict(step)], name=f"made{number}", recall=False, device="cpu").run()
        store, real = Store.open(path), Store.open(photos)
        captions = [parse(text) for text in store.captions.strings("text")]
        tags = [set(prompt.choose(store.tags(image))) for image in range(len(store.images))]
        first = store.pairs()
        of_image = {
            int(i): (int(c), int(s)) for c, i, s in zip(*(first.numbers(n) for n in ("caption", "image", "seed")))
        }
        shown = [
            painter.plan(store.captions.value("text", caption), seed)[1]
            for caption, seed in (of_image[i] for i in range(len(store.images)))
        ]
        pictures = F.normalize(torch.from_numpy(store.images.features()).float(), dim=1)
        texts = F.normalize(torch.from_numpy(store.captions.features()).float(), dim=1)
        photo = torch.zeros_like(texts)
        photo[real.pairs().numbers("caption")] = F.normalize(
            torch.from_numpy(real.images.features(real.pairs().numbers("image"))).float(), dim=1
        )
        train = set(store.caption_rows("train").tolist())

        def chosen(name: str) -> dict[int, int]:
            pairs = store.pairs(name)
            return {int(c): int(i) for c, i in zip(pairs.numbers("caption"), pairs.numbers("image")) if c in train}

        before = chosen("default")
        made = {title: chosen(f"made{number}") for number, title in enumerate(steps)}
        kept = {caption: before[caption] for caption in next(iter(made.values()))}
        tables = {"as drawn": before, "as drawn, of the captions that SynC keeps": kept, **made}
        for title, pairs in tables.items():
            rows, images = list(pairs), list(pairs.values())
            said = [{g.kind for g in captions[c].groups} for c in rows]
            named = [{kind for tag in tags[i] for kind in kinds_named(tag)} for i in images]
            drawn = [{g.kind for g in shown[i].groups} for i in images]
            coloured = [{coloured_name(g.kind, g.colour) for g in captions[c].groups if g.colour} for c in rows]
            yield (
                title,
                [
                    len(rows),
                    len(set(images)),
                    float(np.mean([before[c] != pairs[c] for c in rows])),
                    _share(named, said),
                    _share(said, named),
                    _share(coloured, [tags[i] for i in images]),
                    _share(said, drawn),
                    _share(coloured, [{coloured_name(g.kind, g.colour) for g in shown[i].groups} for i in images]),
                    f"{float((texts[rows] * pictures[images]).sum(1).mean()):.3f}",
                    f"{float((photo[rows] * pictures[images]).sum(1).mean()):.3f}",
                ],
            )


def _share(of: Sequence[set], among: Sequence[set]) -> float:
    """Of all members of the first sets, the share that the second ones have."""
    return sum(len(a & b) for a, b in zip(of, among)) / max(1, sum(map(len, of)))


# ---- hard prompts
def prompt_of(config: Config, **changed: Any) -> TagPrompt:
    """The tag prompt of a config."""
    return TagPrompt(**{**config.model.data_preprocessor.prompt, **changed})


def entity_rows(photos: Store, mini: Config, viecap: Config, ifcap: Config, runs: Path | None) -> Iterable:
    """Names in the prompts of test photos: how many, how often right, and whether captions repeat them."""
    keys = photos.images.strings("key")
    there = [{g.kind for g in scene_named(key).groups} for key in keys]
    rows = np.arange(len(keys))

    def row(title: str, tags: list[list[Tag]], prompt: TagPrompt, run: str | None = None) -> tuple[str, list]:
        chosen = [{k for name in prompt.choose(t) for k in kinds_named(name)} for t in tags]
        repeated: list[float | None] = [None, None]
        if run and runs:
            files = sorted(runs.glob(f"{run}-*/seed*/test/images.json"))
            said = [
                {k: kinds_named(v["hypothesis"]) for k, v in json.loads(f.read_text("utf-8"))["images"].items()}
                for f in files
            ]
            if said:
                repeated = [
                    _share([c & t if right else c - t for _ in said for c, t in zip(chosen, there)],
                           [one[key] for one in said for key in keys])
                    for right in (True, False)
                ]  # fmt: skip
        return title, [
            f"{np.mean([len(c) for c in chosen]):.2f}",
            float(np.mean([not c for c in chosen])),
            _share(chosen, there),
            _share(there, chosen),
            *repeated,
        ]

    named = CaptionEntities(viecap.vocabulary)
    train = Store.open(mini.store)
    texts = [train.captions.value("text", int(row)) for row in train.caption_rows("train")]
    yield "ViECap- and IFCap-style in training: the caption's, masked", masked(texts, named, prompt_of(viecap))
    detected = [photos.tags(int(r)) for r in rows]
    yield row("the detector's (SynTIC)", detected, prompt_of(mini), "synthcap")
    yield row("the detector's (SynTIC with curation)", detected, prompt_of(mini), "sync")
    by_clip = viecap.test_dataloader.dataset.tags
    temperature = 1.0 / MODELS.build(dict(by_clip.encoder)).logit_scale
    for factor in (1, 0.5, 2):
        tags = tags_by_features({**by_clip, "temperature": factor * temperature}, photos, rows)
        least = viecap.model.data_preprocessor.prompt.min_score
        for score in (least, 0.05, 0.4, 0.6) if factor == 1 else (least, 0.05):
            same = factor == 1 and score == least
            title = "ViECap-style, its config" if same else f"ViECap-style, from {score}, temperature × {factor}"
            yield row(title, tags, prompt_of(viecap, min_score=score), "viecap" if same else None)
    tags = tags_by_features(ifcap.test_dataloader.dataset.tags, photos, rows)
    least = ifcap.model.data_preprocessor.prompt.min_score
    for score in (least, 0.2, 0.4, 0.75):
        same = score == least
        yield row(
            "IFCap-style, its config" if same else f"IFCap-style, from {score}",
            tags,
            prompt_of(ifcap, min_score=score),
            "ifcap" if same else None,
        )


def masked(texts: Sequence[str], entities: CaptionEntities, prompt: TagPrompt) -> list:
    """The same figures for prompts of training captions, of which names are left out at random."""
    rng = np.random.default_rng(0)
    kinds = [kinds_named(text) for text in texts]
    chosen = [
        {
            k
            for name in prompt.thin(prompt.choose(tags), rng.random(1 + prompt.max_tags).tolist())
            for k in kinds_named(name)
        }
        for tags in entities.tag_captions(texts)
    ]
    empty = float(np.mean([not c for c in chosen]))
    return [f"{np.mean([len(c) for c in chosen]):.2f}", empty, _share(chosen, kinds), _share(kinds, chosen), 1.0, None]


def retrieved_rows(scenes: Scenes, ifcap: Config, photos: Store) -> Iterable[tuple[str, list]]:
    """Captions that IFCap-style retrieves in training and at inference, against what it should write."""
    torch.manual_seed(0)
    store = Store.open(scenes.store)
    texts = [store.captions.value("text", int(row)) for row in store.caption_rows("train")]
    kinds = [kinds_named(text) for text in texts]
    settings = {k: v for k, v in ifcap.model.necks.fusion.items() if k != "type"}
    neck = RetrievalFusion(store.embed_dim, **settings)
    neck.bind(CaptionMemory.from_store(store))
    own = torch.from_numpy(np.searchsorted(store.caption_rows("train"), scenes.rows[scenes.here].numpy()))
    text, groups = scenes.text[scenes.here], scenes.groups[scenes.here]
    said = [kinds[row] for row in own]
    feats = F.normalize(torch.from_numpy(photos.images.features()).float(), dim=1)
    scene = [{g.kind for g in scene_named(key).groups} for key in photos.images.strings("key")]
    variance = settings["noise_variance"]
    cases: list[tuple[str, Tensor, list[set]]] = []
    for noise in (variance, variance / 4, 0.0):
        query = F.normalize(text + torch.randn_like(text) * noise**0.5, dim=1)
        name = f"training, noise {noise:g}" + (" (its config)" if noise == variance else "")
        cases.append((name, neck.retrieve(query, own, groups, text), said))
    cases.append(("training scenes' photos as queries", neck.retrieve(scenes.photo[scenes.here], own, groups), said))
    cases.append(("test photos", neck.retrieve(feats), scene))
    for name, rows, truth in cases:
        of = [[kinds[r] for r in row] for row in rows.tolist()]
        yield (
            name,
            [
                float(np.mean([len(k & t) / len(k) for row, t in zip(of, truth) for k in row if k])),
                _share(truth, [set().union(*row) for row in of]),
                float(np.mean([sum(k in one for one in row) >= 5 for row, t in zip(of, truth) for k in t])),
                float(np.mean([row[0] == t for row, t in zip(of, truth)])),
            ],
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000, help="training scenes asked about (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=4000, help="captions of the stores (default: %(default)s)")
    parser.add_argument("--runs", type=Path, help="folder of finished runs, as work_dirs/experiments/mini")
    args = parser.parse_args()
    if args.runs is not None and not any(any(args.runs.glob(f"{n}-*/seed*/test/images.json")) for n in TITLES):
        parser.error(
            f"--runs: {args.runs} has no NAME-HASH/seedN/test/images.json of {', '.join(TITLES)}; "
            "research.run mini makes them"
        )
    mini, upper = make_stores(args.captions)
    viecap, ifcap = (Config.fromfile(CONFIGS / name) for name in ("viecap/viecap_mini.py", "ifcap/ifcap_mini.py"))
    for cfg in (viecap, ifcap):
        share_encoder(cfg)
    scenes = Scenes(mini.store, upper.store, args.scenes)
    test, val = Store.open(mini.test_photos), Store.open(mini.val_photos)
    photos = torch.cat([F.normalize(torch.from_numpy(s.images.features()).float(), dim=1) for s in (test, val)])
    shown = torch.stack([labels(scene_named(key)) for s in (test, val) for key in s.images.strings("key")])
    aspects = list(ASPECTS)
    table(
        ["prefix", "told apart, %"] + [f"unseen training prefixes: {a}, %" for a in aspects]
        + [f"photos: {a}, %" for a in aspects],
        probe_rows(scenes, mini, photos, shown),
    )  # fmt: skip
    if args.runs is not None:
        table(
            ["captions of", "seeds", "distinct, %", "kinds named: there, %", "kinds there: named, %", "place told, %",
             "told place: right, %", "cosine with the photo, × 100", "with the references, × 100"],
            sentence_rows(args.runs, MODELS.build(dict(mini.synthesis.encoder)), test, TITLES),
        )  # fmt: skip
    table(
        ["pairs", "captions", "distinct images", "another image, %", "tags that the caption names, %",
         "the caption's kinds among tags, %", "its coloured things among tags, %", "its kinds really drawn, %", "its coloured things really drawn, %",
         "cosine with the caption", "with the scene's photo"],
        pair_rows(mini, scenes, upper.store),
    )  # fmt: skip
    table(
        ["prompts of the test photos", "kinds named", "none, %", "named: there, %", "there: named, %",
         "right ones in the caption, %", "wrong ones in the caption, %"],
        entity_rows(test, mini, viecap, ifcap, args.runs),
    )  # fmt: skip
    table(
        ["retrieved captions", "their kinds: in the truth, %", "truth's kinds in any, %", "in five or more, %",
         "the first names just the truth's, %"],
        retrieved_rows(scenes, ifcap, test),
    )  # fmt: skip


#: Runs of tables/mini.json whose captions are looked at.
TITLES = {
    "capdec": "CapDec",
    "decap": "DeCap",
    "viecap": "ViECap-style",
    "ifcap": "IFCap-style",
    "no_tags": "SynTIC without tags",
    "sync": "SynTIC with curation",
    "synthcap": "SynTIC",
    "no_memory": "SynTIC without memory",
}

if __name__ == "__main__":
    main()
