"""Why methods differ: python -m research.real.diagnose [TABLE] [--runs RUN ...].

Reads finished runs of `research.run` (the table `real`, or another such as `variants`) and prints,
as Markdown,

- how the tags of images agree with their captions, in training and on the photos;
- the floor, each photo's nearest training caption, and how far the runs are above it;
- how near the feature that a decoder gets is to the caption, in training and at inference;
- held-out CIDEr over several draws of the pseudo image, and the paired difference from the first run named (groups
  resampled): what settings may be chosen by;
- of the captions of the photos: cosine with the prefix that the decoder got, with the photo's feature and with the
  references; distinct captions and words; how often a prompt's tag is named, right (a reference has it) or wrong;
- CIDEr on the photos with the tags as found, without, and with the right ones only;
- the captions of ten photos.

What looks at the evaluation photos is for diagnosis, never for choosing.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from research.ledger import Ledger
from research.page import mean_sd
from research.real.prefixes import BATCH, SOME, prefix_cosines, prefix_of
from research.runner import POOLED, Experiments
from research.tables import config_of, read_table
from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import nearest_captions, paired_bootstrap, score_captions
from synthcap_mm.models.tag_prompt import TagPrompt
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import CaptionSample
from synthcap_mm.weights_files import read_checkpoint

#: Words for a person; other classes are looked for by their name, singular or plural.
PERSON = (
    "person|people|man|men|woman|women|boys?|girls?|child|children|kids?|lady|guy|players?|surfer|skier|rider|someone|"
    "couple|group|crowd|toddler|baby|skateboarder|snowboarder|adult"
)
RESAMPLES = 10_000
#: What the tags of a photo are replaced by, by column.
TAGS = ("as found", "no tags", "right tags only")


def score_by_place(
    captions: Mapping[str, str], photos: Mapping[str, Sequence[CaptionSample]]
) -> dict[str, tuple[dict[str, float], dict[str, dict[str, float]]]]:
    """Scores on each set of photos, and on all together as one set.

    Args:
        captions: photo's key → caption.
        photos: set → its photos, with references.

    Returns:
        Set (and :data:`POOLED`) → see :func:`score_captions`.
    """
    places = {**photos, POOLED: [photo for own in photos.values() for photo in own]}
    return {
        place: score_captions({p.key: captions[p.key] for p in own}, {p.key: p.references for p in own})
        for place, own in places.items()
    }


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
        "named": np.mean([right for _, right in named]) if named else float("nan"),
        "objects named": np.mean(objects) if objects else float("nan"),
    }


def right_only(sample: CaptionSample) -> CaptionSample:
    """The sample with those tags only that a reference names."""
    tags = [tag for tag in sample.tags if any(mentions(tag.name, text) for text in sample.references or [])]
    return dataclasses.replace(sample, tags=tags)


@torch.no_grad()
def captions_of(model: Any, samples: Sequence[CaptionSample]) -> dict[str, str]:
    """Captions by key, written as tools/test.py writes them."""
    written = {}
    for start in range(0, len(samples), BATCH):
        data = model.data_preprocessor(list(samples[start : start + BATCH]), training=False)
        written.update({s.key: s.pred_caption for s in model(**data, mode="predict")})
    return written


def cider(captions: Mapping[str, str], samples: Sequence[CaptionSample]) -> tuple[float, list[float]]:
    """CIDEr on the samples' references: the average, and of each sample."""
    metrics, each = score_captions(dict(captions), {s.key: s.references for s in samples})
    return metrics["CIDEr"], [each[s.key]["CIDEr"] for s in samples]


def interval(scores_a: Any, scores_b: Any) -> str:
    """Mean difference and its interval, of scores ``(S, N)``."""
    found = paired_bootstrap(np.asarray(scores_a), np.asarray(scores_b), samples=RESAMPLES)
    return f"{found['mean_difference']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


class Diagnosis:
    """Finished runs, and what they are held against.

    Args:
        experiments: with the runs.
        runs: their names.
        draws: images drawn for each held-out caption.

    Raises:
        UserError: if a run is not finished in the experiments' work folder.
    """

    def __init__(self, experiments: Experiments, runs: Sequence[str], draws: int) -> None:
        self.experiments, self.names, self.seeds = experiments, list(runs), list(experiments.seeds)
        self.captions = {(name, seed): self._captions(name, seed) for name in self.names for seed in self.seeds}
        self.cfgs = {name: config_of(experiments.runs[name]) for name in self.names}
        cfg = self.cfgs[self.names[0]]
        init_default_scope(cfg.default_scope)
        import_modules_from_strings(**cfg.custom_imports)
        self.pairs = cfg.synthesis.store
        stores = {Path(entry.store).name: entry.store for entry in cfg.photo_stores}
        self.photos = {place: self._read(place, stores[place]) for place in experiments.table.tests}
        self.samples = [photo for own in self.photos.values() for photo in own]
        self.heldout = []
        for draw in range(draws):
            data = SynthPairDataset(self.pairs, split="heldout", image_choice="random", seed=draw)
            self.heldout.append([data[i] for i in range(len(data))])
        self.encoder = MODELS.build(cfg.synthesis.encoder)
        self.references = {s.key: self._encode(s.references) for s in self.samples}
        self.floor = nearest_captions(self.pairs, self.samples)
        # Tags are chosen as the reference has them, for runs without a prompt too.
        reference = config_of(experiments.runs[experiments.table.reference])
        self.prompt = TagPrompt(**reference.model.data_preprocessor.prompt)

    def _captions(self, name: str, seed: int) -> dict[str, str]:
        """A run's captions; keys are those of pooled sets, ``'set/photo'``."""
        there = {place: self.experiments.images(name, seed, place) for place in self.experiments.table.tests}
        if not all(there.values()) or not (self.experiments.trained_folder(name, seed) / "trained.json").is_file():
            raise UserError(
                f"run {name}, seed {seed}, of the table {self.experiments.table.name} is not trained and tested below "
                f"{self.experiments.work}; research.run makes it, with --only {name} --seeds {seed + 1}, "
                "and --out FOLDER if research/logs has the run already"
            )
        return {f"{place}/{key}": e["hypothesis"] for place, own in there.items() for key, e in own.items()}

    @staticmethod
    def _read(place: str, store: str) -> list[CaptionSample]:
        dataset = CaptionEvalDataset(store)
        samples = (dataset[i] for i in range(len(dataset)))
        return [dataclasses.replace(sample, key=f"{place}/{sample.key}") for sample in samples]

    def _encode(self, texts: list[str]) -> torch.Tensor:
        return F.normalize(self.encoder.encode_text(texts).float(), dim=1)

    def title(self, name: str) -> str:
        """A run's, for people."""
        return self.experiments.runs[name].title

    def model(self, name: str, seed: int) -> Any:
        """A run's captioner, set to evaluate."""
        model = MODELS.build(self.cfgs[name].model)
        model.load_state_dict(read_checkpoint(self.experiments.checkpoint(name, seed))["state_dict"])
        return model.eval()

    # ---- what needs no captioner
    def tags_against_captions(self) -> str:
        """How often a tag is named by the caption that its image goes with."""
        train = SynthPairDataset(self.pairs)
        some = [train[i] for i in np.random.default_rng(0).permutation(len(train))[:SOME].tolist()]
        rows = [("training pairs", some, [[s.caption] for s in some])]
        if self.heldout:
            rows.append(("held-out pairs", self.heldout[0], [s.references[:1] for s in self.heldout[0]]))
        for place, own in self.photos.items():
            rows += [(f"{place}, {n} caption(s)", own, [s.references[:n] for s in own]) for n in (1, 5)]
        return table(
            ["tags against captions", "tags an image", "named by its caption(s)", "objects (not person) named"],
            [[title, *(f"{v:.2f}" for v in agreement(self.prompt, *found).values())] for title, *found in rows],
        )

    def against_the_floor(self) -> str:
        """Scores of the floor, and how far above it the runs are."""
        metrics = self.experiments.table.metrics
        floor = score_by_place(self.floor, self.photos)
        runs = {name: [score_by_place(self.captions[name, seed], self.photos) for seed in self.seeds]
                for name in self.names}  # fmt: skip

        def row(title: str, scored: Sequence[dict[str, Any]]) -> list[str]:
            return [title, *(mean_sd([s[place][0][m] for s in scored]) for place in floor for m in metrics)]

        def first(scored: Sequence[dict[str, Any]], place: str) -> list[list[float]]:
            return [[s[place][1][key][metrics[0]] for key in sorted(s[place][1])] for s in scored]

        scores = table(
            ["run", *(f"{place} {m}" for place in floor for m in metrics)],
            [row("nearest caption", [floor]), *(row(self.title(name), runs[name]) for name in self.names)],
        )
        above = table(
            [f"{metrics[0]}, above the nearest caption [95 %]", *floor],
            [
                [self.title(name), *(interval(first(runs[name], place), first([floor], place)) for place in floor)]
                for name in self.names
            ],
        )
        return f"{scores}\n{above}"

    def ten_photos(self) -> str:
        """Captions of the first seed; ten photos over all sets, evenly spaced by name: not chosen."""
        each = max(1, 10 // len(self.photos))
        rows = []
        for own in self.photos.values():
            ordered = sorted(own, key=lambda s: s.key)
            for sample in ordered[:: max(1, len(ordered) // each)][:each]:
                written = [self.captions[name, self.seeds[0]][sample.key] for name in self.names]
                rows.append([sample.key, *written, self.floor[sample.key], sample.references[0]])
        return table(["photo", *map(self.title, self.names), "nearest caption", "one of its references"], rows)

    # ---- what needs the captioners
    def captioners(self) -> Iterable[str]:
        """The tables that need the runs' captioners, each of which is made once."""
        cosines: dict[str, list[dict[str, float]]] = {name: [] for name in self.names}
        held: dict[str, list[list[tuple[float, list[float]]]]] = {name: [] for name in self.names}
        figures: dict[str, list[list[float]]] = {name: [] for name in self.names}
        tags: dict[str, list[list[tuple[float, list[float]]]]] = {name: [] for name in self.names}
        for name in self.names:
            cfg = self.cfgs[name]
            datasets = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
            for seed in self.seeds:
                model = self.model(name, seed)
                cosines[name].append(prefix_cosines(model, *datasets, self.photos, self.references))
                held[name].append([cider(captions_of(model, draw), draw) for draw in self.heldout])
                figures[name].append(self._figures(model, self.captions[name, seed]))
                if model.data_preprocessor.prompt is not None:
                    tags[name].append(self._with_tags(model, self.captions[name, seed]))
        places = list(cosines[self.names[0]][0])
        yield table(
            ["cosine of the prefix with its own caption", *places],
            [
                [self.title(n), *(f"{np.mean([c[p] for c in found]):.2f}" for p in places)]
                for n, found in cosines.items()
            ],
        )
        if self.heldout:
            yield self._held_out(held)
        yield table(
            ["captions of the photos", "cosine with the prefix", "with the photo", "with the references", "distinct",
             "words", "right objects named", "wrong objects named"],
            [[self.title(n), *(f"{v:.2f}" if v < 1.5 else f"{v:.0f}" for v in np.mean(found, axis=0))]
             for n, found in figures.items()],
        )  # fmt: skip
        if any(tags.values()):
            rows = []
            for name, found in tags.items():
                if found:
                    averages = [f"{np.mean([kinds[i][0] for kinds in found]):.1f}" for i in range(len(TAGS))]
                    as_found, none = ([kinds[i][1] for kinds in found] for i in (0, 1))
                    rows.append([self.title(name), *averages, interval(as_found, none)])
            yield table([f"CIDEr on the photos, {POOLED}", *TAGS, "as found − no tags [95 %]"], rows)

    def _held_out(self, held: Mapping[str, list[list[tuple[float, list[float]]]]]) -> str:
        groups = np.array([s.group for s in self.heldout[0]])
        by_group = {}
        for name, runs in held.items():
            each = np.mean([scores for draws in runs for _, scores in draws], axis=0)
            by_group[name] = [[each[groups == group].mean() for group in np.unique(groups)]]
        first = by_group[self.names[0]]
        return table(
            ["run", "held-out CIDEr", "difference [95 %]"],
            [
                [
                    self.title(name),
                    f"{np.mean([average for draws in runs for average, _ in draws]):.1f}",
                    "–" if name == self.names[0] else interval(by_group[name], first),
                ]
                for name, runs in held.items()
            ],
        )

    def _figures(self, model: Any, captions: Mapping[str, str]) -> list[float]:
        written = [captions[s.key] for s in self.samples]
        feats = self._encode(written)
        said: dict[bool, list[bool]] = {True: [], False: []}
        for sample, caption in zip(self.samples, written):
            for tag in self.prompt.choose(sample.tags):
                if tag != "person":
                    said[any(mentions(tag, text) for text in sample.references)].append(mentions(tag, caption))
        return [
            float((feats * prefix_of(model, self.samples, "predict")).sum(1).mean()),
            float((feats * torch.stack([s.feat for s in self.samples])).sum(1).mean()),
            float(np.mean([float((self.references[s.key] @ f).mean()) for s, f in zip(self.samples, feats)])),
            len(set(written)),
            len({word for caption in written for word in caption.split()}),
            *(np.mean(said[right]) if said[right] else float("nan") for right in (True, False)),
        ]

    def _with_tags(self, model: Any, captions: Mapping[str, str]) -> list[tuple[float, list[float]]]:
        none = [dataclasses.replace(s, tags=[]) for s in self.samples]
        right = [right_only(s) for s in self.samples]
        written = (captions, captions_of(model, none), captions_of(model, right))
        return [cider(own, self.samples) for own in written]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="real", help="table of experiments (default: %(default)s)")
    parser.add_argument(
        "--runs", nargs="+", default=["synthcap", "decap"], metavar="RUN", help="default: synthcap decap"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each run, from 0 (default: %(default)s)")
    parser.add_argument(
        "--draws", type=int, default=4, help="images drawn for each held-out caption (default: %(default)s)"
    )
    parser.add_argument("--work-dir", default="work_dirs/experiments", help="of the experiments (default: %(default)s)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="as the experiments had them",
    )
    args = parser.parse_args(argv)
    logger = MMLogger.get_instance("diagnose", logger_name="diagnose", log_level="WARNING")
    logger.handlers[0].setStream(sys.stderr)  # stdout has the tables only
    try:
        found = read_table(args.table)
        # Finished runs are known by what they left in the work folder; the ledger's figures are not needed.
        ledger = Ledger(Path(args.work_dir) / found.name / "none.csv")
        experiments = Experiments(found, args.work_dir, ledger, args.seeds, only=args.runs, options=args.cfg_options)
        diagnosis = Diagnosis(experiments, args.runs, args.draws)
    except UserError as error:
        raise SystemExit(str(error)) from error
    print(diagnosis.tags_against_captions())
    print(diagnosis.against_the_floor())
    for part in diagnosis.captioners():
        print(part)
    print(diagnosis.ten_photos())


if __name__ == "__main__":
    main()
