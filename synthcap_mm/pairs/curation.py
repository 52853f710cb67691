"""Curation: another pairs table over the captions and images that a store has.

What serves badly is left out, and captions may get images that were drawn (or
found) for others. Only cached features are looked at, in blocks with top-k: no
N × N matrix. Work is cut into parts, shared out over ranks; a stopped run goes on
where it was, and the table does not depend on ranks or interruptions.

Held-out captions choose the epoch, so the same of them must stay for any table:
their pairs are taken over unchanged, they are no one's neighbours, and an image
that only they have is never given to a training caption.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import print_log

from synthcap_mm.pairs.agreement import TagAgreement
from synthcap_mm.pairs.curation_steps import DECIMALS, Pairs, Reassign, at_least_one, make_steps, settings_of
from synthcap_mm.pairs.factory import only_job
from synthcap_mm.pairs.neighbours import UnitRows, make_search, row_cosines
from synthcap_mm.pairs.progress import meet
from synthcap_mm.pairs.refining import BANK_SIZE, check_refine, refine_options
from synthcap_mm.registry import MODELS
from synthcap_mm.stores import Store, StoreError
from synthcap_mm.stores.additions import (
    Parts,
    add_tables,
    check_up_to_date,
    fingerprint_of,
    made_of,
    open_apart_from,
)
from synthcap_mm.stores.errors import explained
from synthcap_mm.stores.schema import pairs_table, refined_table
from synthcap_mm.stores.shards import portable, shard_problem
from synthcap_mm.structures import group_id

#: Text→image recall is reported at these ranks.
RECALL_AT = (1, 5, 10)
#: Raised when a table of the same settings would come out differently.
_VERSION = 1


class Curation:
    """Makes the pairs table that a config's ``curation`` describes.

    Args:
        store: folder of a finished store of pairs.
        steps: list of steps, applied one after another: ``dict(type=...)`` with
            ``'clip_score'``, ``'reassign'`` or ``'merge_duplicates'`` and the arguments of the
            classes of :mod:`~synthcap_mm.pairs.curation_steps`.
        name: the table is ``pairs/NAME``. Default ``'curated'``.
        source: name of the pairs table to begin with. Default ``'default'``.
        sentence_encoder: config of what scores how much alike two sentences are: of
            the MODELS registry, with ``encode_text(list[str]) -> (B, D)``. Default
            ``None``: the store's own text features.
        search: ``'exact'``, ``'faiss'`` or ``dict(type='faiss', …)``; see
            :class:`~synthcap_mm.pairs.neighbours.FaissSearch`. Default ``'exact'``.
        refine: optimised pseudo features for the new table, beside it: settings as
            ``synthesis.refine`` has them, ``True`` for those of the store, ``None`` for
            none. Default ``None``.
        recall: report text→image recall, which costs a search of all images for
            all captions (``reassign`` makes it anyway). Default ``True``.
        part_size: captions (or images) looked up at once, and between two points
            that a stopped run goes on from. Default 4096.
        block: rows of a table scored at a time. Default 8192.
        text_batch: sentences encoded at once by ``sentence_encoder``. Default 256.
        device: torch device. Default: the current GPU, or the CPU.

    Raises:
        ValueError: if a setting is out of range; the message names it.
    """

    def __init__(
        self,
        store: str,
        steps: Sequence[dict],
        name: str = "curated",
        source: str = "default",
        sentence_encoder: dict | None = None,
        search: str | dict = "exact",
        refine: dict | bool | None = None,
        recall: bool = True,
        part_size: int = 4096,
        block: int = 8192,
        text_batch: int = 256,
        device: str | torch.device | None = None,
    ) -> None:
        self.steps = make_steps(steps)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", str(name)):
            raise ValueError(f"curation.name is made of letters, digits, - and _; got {name!r}")
        if name in ("default", source):
            raise ValueError(
                f"curation.name={name!r}: the table it is made from must stay as it is, and 'default' is what "
                "tools/synthesize.py makes; choose another name"
            )
        for setting, value in (("part_size", part_size), ("block", block), ("text_batch", text_batch)):
            at_least_one(setting, value)
        if device is None:
            device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        if refine not in (None, True, False):
            check_refine(refine, "curation.refine")
        self.path, self.name, self.source = Path(store), name, source
        self.sentence_encoder_cfg, self.refine_cfg = sentence_encoder, refine or None
        self.recall, self.part_size, self.text_batch = recall, part_size, text_batch
        self.device = torch.device(device)
        self.search_cfg = search
        self.search = make_search(search, block, self.device)
        self.rank, self.world = get_dist_info()

    # ---- the run
    def run(self, replace: bool = False) -> dict[str, Any]:
        """Make the table, or find that it is there.

        Args:
            replace: replace a table of this name that was made with other settings. Default ``False``.

        Returns:
            dict: the report, of json types: ``before``, ``after`` and ``before_of_kept``
            (``captions``, ``pairs``, ``images``, ``mean_score``, ``recall``), ``kept`` (fraction
            of the captions), ``steps``, ``heldout`` and ``flagged``; see docs/curation.md.

        Raises:
            StoreMissingError: if there is no finished store.
            StoreError: if it is damaged, has no images or no such source, another job
                works on it, or the table is there with other settings.
            ValueError: if no usable pair of a training caption is there.
        """
        if not (self.path / "manifest.json").is_file():
            Store.open(self.path)  # says so; the lock would make the folder
        with only_job(self.path):
            return self._run(replace)

    def _run(self, replace: bool) -> dict[str, Any]:
        table, note = f"pairs/{self.name}", f"pairs/{self.name}/curation.json"
        self.store = open_apart_from(self.path, (table, f"refined/{self.name}"))
        if self.store.manifest.get("kind") == "photos":
            raise StoreError(f"the store {self.path} holds photos, not pairs; there is nothing to curate")
        if not self.store.has(f"pairs/{self.source}"):
            there = [t.split("/")[1] for t in self.store.manifest["tables"] if t.startswith("pairs/")]
            raise StoreError(
                f"the store {self.path} has no table pairs/{self.source} to curate; "
                + (f"it has {', '.join(there)}" if there else "it holds captions only (synthesis.generator is None)")
            )
        check_up_to_date(self.store, self.source)
        settings = self._settings()
        key = fingerprint_of(settings)
        made = self._made(table, note, settings, key, replace)
        meet()  # all have looked before any writes
        if made is not None:
            print_log(f"pairs/{self.name} of {self.path} is there, made with these settings", logger="current")
            return made
        self.parts = Parts(self.path, self.name, key)
        if self.rank == 0:
            self.parts.sweep()

        self._load()
        before = pairs = self._pairs
        told = []
        for i, step in enumerate(self.steps):
            captions, count = len(np.unique(pairs.caption)), len(pairs)
            pairs, extra = step.apply(pairs, self, f"{i}-{step.type}")
            told.append(
                {
                    **settings_of(step),
                    **{"captions_before": captions, "captions": len(np.unique(pairs.caption))},
                    **{"pairs_before": count, "pairs": len(pairs), **extra},
                }
            )
        kept = before.first()
        kept = kept.take(np.isin(kept.caption, pairs.caption))
        report = {
            "name": self.name,
            "source": self.source,
            "kept": len(kept) / len(np.unique(before.caption)),
            "before": self._figures(before),
            "before_of_kept": self._figures(kept),
            "after": self._figures(pairs),
            "steps": told,
            "gallery": len(self._candidates),
            "heldout": {"captions": len(np.unique(self._heldout.caption)), "pairs": len(self._heldout)},
            "flagged": self._flagged,
        }
        report = json.loads(json.dumps(report))
        tables = {table: self._shards(pairs)}
        if self.refine_cfg is not None:
            tables[f"refined/{self.name}"] = self._refined(pairs, tables[table])
        meet()
        if self.rank == 0:
            add_tables(self.path, tables, {note: {"settings": settings, "report": report}}, curation=key)
            self.parts.remove()
        meet()
        return report

    def _settings(self) -> dict[str, Any]:
        """All that the table depends on."""
        refine = self.refine_cfg
        if refine is True:
            refine = self.store.manifest.get("refine")
            if not refine:
                raise StoreError(
                    f"curation.refine=True takes the settings of the store {self.path}, which has none: it was made "
                    "with synthesis.refine=None; give curation.refine=dict(...)"
                )
        self.refine_cfg = dict(refine) if refine else None
        return json.loads(
            json.dumps(
                {
                    "version": _VERSION,
                    "source": self.source,
                    "steps": [settings_of(step) for step in self.steps],
                    "sentence_encoder": portable(self.sentence_encoder_cfg),
                    "search": self.search_cfg,
                    "refine": self.refine_cfg,
                    "recall": self.recall,
                    "part_size": self.part_size,  # decides what a part is
                    "made_of": made_of(self.store, ("captions", "images", f"pairs/{self.source}")),
                }
            )
        )

    def _made(self, table: str, note: str, settings: dict[str, Any], key: str, replace: bool) -> dict[str, Any] | None:
        """The report of the table, if it is there and whole.

        Raises:
            StoreError: if it was made with other settings.
        """
        names = [name for name in (table, f"refined/{self.name}") if self.store.has(name)]
        records = [r for name in names for r in self.store.manifest["tables"][name]["shards"]]
        if not records:
            return None
        try:
            old = json.loads((self.path / note).read_text("utf-8"))
        except (OSError, ValueError):
            old = None
        if records[0].get("curation") == key:
            whole = not any(shard_problem(self.path, r, full=True) for r in records)
            return old["report"] if old and whole else None
        if replace:
            return None
        was = (old or {}).get("settings", {})
        differing = [k for k in sorted({*was, *settings}) if was.get(k) != settings.get(k)]
        lines = [f"  {k}: the table has {was.get(k)!r}, now {settings.get(k)!r}" for k in differing]
        raise StoreError(
            f"the store {self.path} has a table {table} of other settings or of other captions and images, and it is "
            "not replaced silently:\n" + "\n".join(lines) + "\nChoose another curation.name, or give --replace."
        )

    def _load(self) -> None:
        """The source's usable pairs, and which images a training caption may get."""
        source, store = self.store.pairs(self.source), self.store
        pairs = Pairs(*(source.numbers(f.name) for f in dataclasses.fields(Pairs)))
        pairs = pairs.take(np.argsort(pairs.caption, kind="stable"))
        flagged = store.images.is_set("flags")
        heldout = np.zeros(len(store.captions), bool)
        heldout[store.caption_rows("heldout")] = True
        usable, held = ~flagged[pairs.image], heldout[pairs.caption]
        self._pairs, self._heldout = pairs.take(usable & ~held), pairs.take(usable & held)
        self._flagged = {"images": int(flagged.sum()), "pairs": int((~usable).sum())}
        if not len(self._pairs):
            raise ValueError(
                f"pairs/{self.source} of the store {self.path} has no usable pair of a training caption: "
                f"{self._flagged['pairs']} of {len(pairs)} pairs have flagged images"
            )
        allowed = ~flagged
        allowed[np.setdiff1d(pairs.image[held], pairs.image[~held])] = False
        self._candidates = np.flatnonzero(allowed)
        self._all_captions = np.unique(self._pairs.caption)
        # An image has one seed, whichever caption it goes to; one of a pool that no caption had has none.
        self._seeds = np.zeros(len(store.images), np.int64)
        self._seeds[pairs.image[::-1]] = pairs.seed[::-1]
        self._image_lists: tuple[np.ndarray, np.ndarray] | None = None
        self._sentence_rows: tuple[UnitRows, np.ndarray] | None = None

    # ---- what the steps ask for
    def scores(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """CLIP scores of pairs, ``(N,)`` float32."""
        cosines = row_cosines(UnitRows(self.store.captions), captions, UnitRows(self.store.images), images)
        return cosines.astype(np.float32)

    def make_pairs(self, captions: np.ndarray, images: np.ndarray) -> Pairs:
        """Pairs of these rows, captions ascending."""
        return Pairs(captions, images, self._seeds[images], self.scores(captions, images))

    def images_of(self, captions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most similar images of captions: image rows and cosines, ``(N, k)`` each, best first.

        There are fewer columns where there are fewer images.
        """
        if self._image_lists is None:  # one search serves recall and all steps
            wanted = max([s.images for s in self.steps if isinstance(s, Reassign)] + [max(RECALL_AT) * self.recall])
            database = UnitRows(self.store.images, self._candidates)
            queries = UnitRows(self.store.captions, self._all_captions)
            rows, scores = self._nearest("images_of_captions", queries, database, min(wanted, len(database)))
            self._image_lists = self._candidates[rows], scores
        at = np.searchsorted(self._all_captions, captions)
        return self._image_lists[0][at, :k], self._image_lists[1][at, :k]

    def captions_of(self, stage: str, images: np.ndarray, captions: np.ndarray, k: int) -> np.ndarray:
        """The ``k`` of ``captions`` most similar to each image: caption rows ``(M, k)``, best first."""
        queries, database = UnitRows(self.store.images, images), UnitRows(self.store.captions, captions)
        return captions[self._nearest(stage, queries, database, min(k, len(database)))[0]]

    def similar_captions(self, stage: str, captions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` of ``captions`` most similar to each of them: their numbers in ``captions``, and cosines."""
        features, at = self._sentences()
        rows = UnitRows(features._table, features.rows[at[captions]])
        return self._nearest(stage, rows, rows, min(k, len(rows)))

    def cycle(
        self,
        stage: str,
        captions: np.ndarray,
        images: np.ndarray,
        looked_at: np.ndarray,
        back: np.ndarray,
        agreement: TagAgreement | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each caption's choice among its images, by the sentences that the images lead back to.

        Args:
            stage: name of the intermediate table.
            captions: N caption rows.
            images: ``(N, K)`` image rows, best first.
            looked_at: M image rows, ascending.
            back: ``(M, C)`` caption rows of those.
            agreement: of tags with captions, added to the score by its weight. Default ``None``: none.

        Returns:
            tuple: the chosen column of ``images`` ``(N,)``, its score ``(N,)`` float64, and
            whether the caption itself was among the image's ``(N,)`` bool.
        """
        features, at = self._sentences()
        for i, part in self._missing(stage, len(captions)):
            found = []
            for start in range(part.start, part.stop, 256):  # 256 × 30 sentences of 512 numbers: 32 MB of float32
                some = slice(start, min(start + 256, part.stop))
                leads_to = back[np.searchsorted(looked_at, images[some])]
                rows, inverse = np.unique(leads_to, return_inverse=True)
                sentences = features[at[rows]][inverse.reshape(leads_to.shape)]
                query = features[at[captions[some]]]
                similarity = (sentences * query[:, None, None]).sum(3, dtype=np.float64).max(2)
                if agreement is not None:
                    similarity += agreement.weight * agreement.of(self.store, captions[some], images[some])
                similarity = similarity.round(DECIMALS)
                choice = similarity.argmax(1)  # the first of equal ones, which is the most similar to the caption
                own = (leads_to == captions[some, None, None]).any(2)
                each = np.arange(len(choice))
                found.append((choice, similarity[each, choice], own[each, choice]))
            columns = [np.concatenate(column) for column in zip(*found)]
            self.parts.write(stage, i, pa.table(dict(zip(("choice", "score", "own"), columns))))
        table = self._read(stage, len(captions))
        return table.numbers("choice"), table.numbers("score"), table.numbers("own")

    # ---- the work
    def _spans(self, count: int) -> list[range]:
        return [range(a, min(a + self.part_size, count)) for a in range(0, count, self.part_size)]

    def _missing(self, stage: str, count: int) -> Any:
        """This rank's missing parts of a stage with their rows; the ranks meet before and after."""
        from tqdm import tqdm

        spans = self._spans(count)
        missing = self.parts.missing(stage, len(spans))
        meet()
        mine = missing[self.rank :: self.world]
        for i in tqdm(mine, desc=stage, unit="part", disable=None if self.rank == 0 else True):
            yield i, spans[i]
        print_log(f"{stage}: {len(missing)} parts made, {len(spans) - len(missing)} reused", logger="current")
        meet()

    def _read(self, stage: str, count: int) -> Any:
        return self.parts.read(stage, len(self._spans(count)))

    def _nearest(self, stage: str, queries: UnitRows, database: UnitRows, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the nearest rows of ``database`` and their cosines, ``(Q, k)`` each."""
        search = None
        index = self.parts.root / f"{stage}.index"
        whole = not self.parts.missing(stage, len(self._spans(len(queries))))
        meet()
        if not whole:
            if self.rank == 0 and not index.is_file():
                with explained(self.path, self.parts.inside(index.name)):
                    self.search.prepare(database, index)
            meet()
            search = self.search.over(database, index)
        for i, part in self._missing(stage, len(queries)):
            scores, rows = search(queries[part.start : part.stop], k)
            self.parts.write(stage, i, pa.table({"row": rows.reshape(-1), "score": scores.reshape(-1)}))
        table = self._read(stage, len(queries))
        return table.numbers("row").reshape(-1, k), table.numbers("score").reshape(-1, k)

    def _sentences(self) -> tuple[UnitRows, np.ndarray]:
        """Sentence features, and each caption's row among them."""
        if self._sentence_rows is None:
            at = np.full(len(self.store.captions), -1)
            if self.sentence_encoder_cfg is None:
                self._sentence_rows = UnitRows(self.store.captions), np.arange(len(at))
            else:
                at[self._all_captions] = np.arange(len(self._all_captions))
                self._sentence_rows = UnitRows(self._encode_sentences()), at
        return self._sentence_rows

    def _encode_sentences(self) -> Any:
        stage, encoder = "sentences", None
        for i, part in self._missing(stage, len(self._all_captions)):
            if encoder is None:
                encoder = MODELS.build(self.sentence_encoder_cfg)
                encoder = encoder.to(self.device) if hasattr(encoder, "to") else encoder
            texts = [self.store.captions.value("text", int(r)) for r in self._all_captions[part.start : part.stop]]
            with torch.no_grad():
                feats = [encoder.encode_text(texts[a : a + self.text_batch]).float().cpu().numpy()
                         for a in range(0, len(texts), self.text_batch)]  # fmt: skip
            feats = np.concatenate(feats)
            bad = np.flatnonzero(~np.isfinite(feats).all(1))
            if len(bad):
                raise ValueError(
                    f"curation.sentence_encoder gives features that are not finite for {len(bad)} captions, the first: "
                    f"{texts[bad[0]]!r}"
                )
            # float16 as all features; not all encoders normalise
            feats /= np.maximum(np.linalg.norm(feats, axis=1, keepdims=True), 1e-12)
            self.parts.write(stage, i, refined_table(feats))
        return self._read(stage, len(self._all_captions))

    # ---- what comes out
    def _figures(self, pairs: Pairs) -> dict[str, Any]:
        """Figures of a table's training captions, each with its first pair."""
        served = pairs.first()
        figures = {
            "captions": len(served),
            "pairs": len(pairs),
            "images": len(np.unique(served.image)),
            "mean_score": float(served.score.mean(dtype=np.float64)),
        }
        if self.recall:
            images, _ = self.images_of(served.caption, max(RECALL_AT))
            hit = images == served.image[:, None]
            figures["recall"] = {str(k): float(hit[:, :k].any(1).mean()) for k in RECALL_AT}
        return figures

    def _shards(self, pairs: Pairs) -> list[pa.Table]:
        """The table with the held-out captions' pairs, cut where the source's shards are."""
        whole = Pairs(*(np.concatenate([getattr(p, f.name) for p in (pairs, self._heldout)])
                        for f in dataclasses.fields(Pairs)))  # fmt: skip
        whole = whole.take(np.argsort(whole.caption, kind="stable"))
        size = int(self.store.manifest["shard_size"])
        count = math.ceil(len(self.store.captions) / size)
        cuts = np.searchsorted(whole.caption, np.arange(count + 1) * size)
        return [
            pairs_table(*(getattr(whole, f.name)[a:b] for f in dataclasses.fields(Pairs)))
            for a, b in itertools.pairwise(cuts)
        ]

    def _refined(self, pairs: Pairs, shards: Sequence[pa.Table]) -> list[pa.Table]:
        """Optimised features of the table's pairs, against negatives from its training pairs."""
        from synthcap_mm.models.necks.pseudo_feature_optimizer import refine

        options = refine_options(self.refine_cfg)
        texts, images = UnitRows(self.store.captions), UnitRows(self.store.images)

        def load(captions: np.ndarray, image: np.ndarray) -> list[torch.Tensor]:
            groups = [
                group_id(self.store.captions.value("group", int(c)) or self.store.captions.value("id", int(c)))
                for c in captions
            ]
            features = (torch.from_numpy(images[image]), torch.from_numpy(texts[captions]), torch.tensor(groups))
            return [t.to(self.device) for t in features]

        rng = np.random.default_rng(int(self.store.manifest["seed"]))
        chosen = np.sort(rng.permutation(len(pairs))[: self.refine_cfg.get("bank_size", BANK_SIZE)])
        bank = dict(
            zip(
                ("negative_image", "negative_text", "negative_groups"),
                load(pairs.caption[chosen], pairs.image[chosen]),
            )
        )
        missing = self.parts.missing("refined", len(shards))
        meet()
        for i in missing[self.rank :: self.world]:
            captions, image = (shards[i].column(n).to_numpy() for n in ("caption", "image"))
            done = [np.empty((0, texts.shape[1]), np.float32)]
            for a in range(0, len(captions), 1024):
                feats, text, groups = load(captions[a : a + 1024], image[a : a + 1024])
                done.append(refine(feats, text, groups, gather=False, **bank, **options).float().cpu().numpy())
            self.parts.write("refined", i, refined_table(np.concatenate(done)))
        meet()
        table = self.parts.read("refined", len(shards))
        cuts = np.cumsum([0] + [s.num_rows for s in shards])
        return [refined_table(table.features(np.arange(a, b))) for a, b in itertools.pairwise(cuts)]


def report_table(report: dict[str, Any]) -> str:
    """A report as a text table: before, before of those that were kept, after."""
    columns = ("before", "before_of_kept", "after")
    lines = [f"pairs/{report['name']} from pairs/{report['source']}: {100 * report['kept']:.2f} % of the captions kept"]
    lines.append(f"  {'':<22}{'before':>12}{'of the kept':>14}{'after':>12}")
    rows: list[tuple[str, list[str]]] = [
        (name, [f"{report[c][name]:,}" for c in columns]) for name in ("captions", "pairs", "images")
    ]
    rows.append(("mean score", [f"{report[c]['mean_score']:.4f}" for c in columns]))
    if "recall" in report["after"]:
        rows += [
            (f"text→image recall@{k}", [f"{100 * report[c]['recall'][str(k)]:.2f} %" for c in columns])
            for k in RECALL_AT
        ]
    lines += [f"  {name:<22}{a:>12}{b:>14}{c:>12}" for name, (a, b, c) in rows]
    for step in report["steps"]:
        extra = {k: v for k, v in step.items() if isinstance(v, float) and k not in ("keep", "min_similarity")}
        extra |= {k: step[k] for k in ("same_words", "similar") if k in step}
        told = ", ".join(f"{k.replace('_', ' ')} {v:.4f}" if isinstance(v, float) else f"{k.replace('_', ' ')} {v:,}"
                         for k, v in extra.items())  # fmt: skip
        lines.append(
            f"  {step['type']}: {step['captions_before']:,} → {step['captions']:,} captions, "
            f"{step['pairs_before']:,} → {step['pairs']:,} pairs; {told}"
        )
    lines.append(
        f"  held out, taken over as they are: {report['heldout']['captions']:,} captions; left out for flags: "
        f"{report['flagged']['pairs']:,} pairs of {report['flagged']['images']:,} images; "
        f"searched: {report['gallery']:,} images"
    )
    return "\n".join(lines)
