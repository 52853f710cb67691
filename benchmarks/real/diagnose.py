"""Why methods differ: python benchmarks/real/diagnose.py DATA_ROOT --work-dir WORK [--methods ...].

Reads the finished runs of run.py (first seeds) and prints, as Markdown, for each method

- held-out CIDEr over several draws of the pseudo image, and the paired difference from the first method named
  (groups resampled): what settings may be chosen by;
- of the captions of the evaluation photos: cosine with the prefix that the decoder got, with the photo's feature and
  with the references; distinct captions and words; how often a prompt's tag is named, right (a reference has it) or wrong;
- CIDEr on the photos with the tags as found, without, and with the right ones only.

The last two look at the evaluation photos: for diagnosis, never for choosing. Before them: how the tags of images agree
with their captions, in training and on the photos.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import numpy as np  # noqa: E402
import run  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from methods import METHODS, VARIANTS  # noqa: E402

from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset  # noqa: E402
from synthcap_mm.evaluation import paired_bootstrap, score_captions  # noqa: E402
from synthcap_mm.models.tag_prompt import TagPrompt  # noqa: E402
from synthcap_mm.registry import MODELS  # noqa: E402
from synthcap_mm.structures import CaptionSample  # noqa: E402

#: Words for a person; other classes are looked for by their name, singular or plural.
PERSON = (
    "person|people|man|men|woman|women|boys?|girls?|child|children|kids?|lady|guy|players?|surfer|skier|rider|someone|"
    "couple|group|crowd|toddler|baby|skateboarder|snowboarder|adult"
)
BATCH = 200


def mentions(tag: str, text: str) -> bool:
    """Whether a caption names a detector's class; by words, so roughly."""
    return re.search(rf"\b({PERSON if tag == 'person' else re.escape(tag) + 'e?s?'})\b", text.lower()) is not None


def agreement(prompt: TagPrompt, samples: Sequence[CaptionSample], captions: Sequence[Sequence[str]]) -> dict:
    """Tags an image, and the share of them that one of its captions names: of all, and of all but persons."""
    chosen = [prompt.choose(sample.tags) for sample in samples]
    named = [(tag, any(mentions(tag, text) for text in texts)) for tags, texts in zip(chosen, captions) for tag in tags]
    objects = [right for tag, right in named if tag != "person"]
    return {
        "tags": np.mean([len(tags) for tags in chosen]),
        "named": np.mean([right for _, right in named]),
        "objects named": np.mean(objects) if objects else float("nan"),
    }


def right_only(sample: CaptionSample) -> CaptionSample:
    """The sample with those tags only that a reference names."""
    tags = [tag for tag in sample.tags if any(mentions(tag.name, text) for text in sample.references or [])]
    return dataclasses.replace(sample, tags=tags)


def captions_of(model: Any, samples: Sequence[CaptionSample]) -> dict[str, str]:
    """Captions by key."""
    written = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(samples), BATCH):
            data = model.data_preprocessor(list(samples[start : start + BATCH]), training=False)
            written.update({s.key: s.pred_caption for s in model(**data, mode="predict")})
    return written


def cider(model: Any, samples: Sequence[CaptionSample]) -> tuple[float, dict[str, float]]:
    """CIDEr on the samples' references: the average, and by key."""
    metrics, each = score_captions(captions_of(model, samples), {s.key: s.references for s in samples})
    return metrics["CIDEr"], {k: v["CIDEr"] for k, v in each.items()}


def inference_prefix(model: Any, samples: Sequence[CaptionSample]) -> torch.Tensor:
    """What the projector gets for these samples."""
    prefix = model.data_preprocessor(list(samples), training=False)["prefix"]
    with torch.no_grad():
        for neck in model.necks[:-1]:
            prefix, _ = neck(prefix, "predict")
    return F.normalize(prefix.feats.float(), dim=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/real"))
    parser.add_argument("--methods", nargs="+", default=["synthcap", "decap"], choices=[*METHODS, *VARIANTS])
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each method (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=4, help="images drawn for each held-out caption (default: 4)")
    args = parser.parse_args(argv)
    bench = run.Benchmark(run.parse_args([str(args.data_root), "--work-dir", str(args.work_dir)]))
    known = {**METHODS, **VARIANTS}
    tags_cfg = bench.config(METHODS["synthcap"]).model.data_preprocessor.prompt
    prompt = TagPrompt(**tags_cfg)
    sets = {name: CaptionEvalDataset(store) for name, store in bench.photos.items()}
    photos = [(name, data[i]) for name, data in sets.items() for i in range(len(data))]
    samples = [sample for _, sample in photos]
    heldout = []
    for draw in range(args.draws):
        data = SynthPairDataset(bench.pairs, split="heldout", image_choice="random", seed=draw)
        heldout.append([data[i] for i in range(len(data))])
    train = SynthPairDataset(bench.pairs)
    some = [train[i] for i in np.random.default_rng(0).permutation(len(train))[:2000].tolist()]

    print(
        "| tags against captions | tags an image | named by its caption(s) | objects (not person) named |\n|---|---|---|---|"
    )
    for title, found in [
        ("training pairs", agreement(prompt, some, [[s.caption] for s in some])),
        ("held-out pairs", agreement(prompt, heldout[0], [s.references[:1] for s in heldout[0]])),
        *(
            (f"{name}, {count} caption(s)", agreement(prompt, own, [s.references[:count] for s in own]))
            for name in sets
            for own in [[s for place, s in photos if place == name]]
            for count in (1, 5)
        ),
    ]:
        print(f"| {title} | {' | '.join(f'{value:.2f}' for value in found.values())} |")

    encoder = MODELS.build(bench.config(METHODS["synthcap"]).synthesis.encoder)
    texts = bench._texts()
    references = [F.normalize(texts[name][s.key].float(), dim=1) for name, s in photos]
    image = torch.stack([s.feat for s in samples])
    groups = np.array([s.group for s in heldout[0]])
    rows, first = [], None
    for name in args.methods:
        held, cells, with_tags = [], [], {"as found": [], "none": [], "right only": []}
        for seed in range(args.seeds):
            folder = bench.work / "runs" / name / f"seed{seed}"
            model = MODELS.build(bench.config(known[name]).model)
            state = torch.load(bench._best(folder), map_location="cpu", weights_only=False)["state_dict"]
            model.load_state_dict(state)
            model.eval()
            scored = [cider(model, draw) for draw in heldout]
            held.append(
                (np.mean([average for average, _ in scored]), [[e[s.key] for s in heldout[0]] for _, e in scored])
            )
            written = captions_of(model, samples)
            captions = [written[s.key] for s in samples]
            feats = F.normalize(encoder.encode_text(captions).float(), dim=1)
            prefix = inference_prefix(model, samples)
            said: dict[bool, list[bool]] = {True: [], False: []}
            for sample, caption in zip(samples, captions):
                for tag in prompt.choose(sample.tags):
                    if tag != "person":
                        right = any(mentions(tag, text) for text in sample.references)
                        said[right].append(mentions(tag, caption))
            cells.append(
                [
                    float((feats * prefix).sum(1).mean()),
                    float((feats * image).sum(1).mean()),
                    float(np.mean([float((r @ f).mean()) for r, f in zip(references, feats)])),
                    len(set(captions)),
                    len({word for caption in captions for word in caption.split()}),
                    np.mean(said[True]),
                    np.mean(said[False]),
                ]
            )
            if model.data_preprocessor.prompt is not None:
                variants = {
                    "as found": samples,
                    "none": [dataclasses.replace(s, tags=[]) for s in samples],
                    "right only": [right_only(s) for s in samples],
                }
                for kind, own in variants.items():
                    with_tags[kind].append(cider(model, own))
        each = np.mean([scores for _, scores in held], axis=(0, 1))
        by_group = np.array([each[groups == group].mean() for group in np.unique(groups)])
        first = by_group if first is None else first
        rows.append((known[name].title, np.mean([h for h, _ in held]), by_group, np.mean(cells, axis=0), with_tags))

    print("\n| method | held-out CIDEr | difference [95 %] |\n|---|---|---|")
    for title, average, by_group, _, _ in rows:
        d = paired_bootstrap(by_group[None], first[None], samples=10000)
        print(f"| {title} | {average:.1f} | {d['mean_difference']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}] |")
    print(
        "\n| captions of the photos | cosine with the prefix | with the photo | with the references | distinct | words "
        "| right objects named | wrong objects named |\n|---|---|---|---|---|---|---|---|"
    )
    for title, _, _, cell, _ in rows:
        print(f"| {title} | {' | '.join(f'{v:.2f}' if v < 1.5 else f'{v:.0f}' for v in cell)} |")
    print(
        "\n| CIDEr on the photos | as found | no tags | right tags only | as found − no tags [95 %] |\n|---|---|---|---|---|"
    )
    for title, _, _, _, kinds in rows:
        if not kinds["none"]:
            continue
        each = {kind: np.array([[e[s.key] for s in samples] for _, e in runs]) for kind, runs in kinds.items()}
        d = paired_bootstrap(each["as found"], each["none"], samples=10000)
        averages = " | ".join(f"{np.mean([average for average, _ in runs]):.1f}" for runs in kinds.values())
        print(f"| {title} | {averages} | {d['mean_difference']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}] |")


if __name__ == "__main__":
    main()
