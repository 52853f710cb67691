"""Curation: another pairs table over the captions and images that a store has.

What serves badly is left out, and captions may get images that were drawn (or
found) for others. Only cached features are looked at, in blocks with top-k: no
N × N matrix. Work is cut into parts, which any number of workers share as they share shards; the table does not
depend on them.

Held-out captions choose the epoch, so the same of them must stay for any table:
their pairs are taken over unchanged, they are no one's neighbours, and an image
that only they have is never given to a training caption.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from mmengine.logging import print_log

from synthcap_mm.errors import NotYet, UserError
from synthcap_mm.options import Component, Count, Device, EncoderName, Model, Name, That, check_when_built
from synthcap_mm.progress import Progress
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store, StoreError, Table
from synthcap_mm.store.recipes import component_recipe
from synthcap_mm.store.schema import feature_rows, pair_rows
from synthcap_mm.store.store import add_to_view
from synthcap_mm.store.tables import ShardedTable, facts_of, key_of
from synthcap_mm.store.unit_rows import UnitRows, row_cosines
from synthcap_mm.synthesis.agreement import TagAgreement
from synthcap_mm.synthesis.curation_steps import DECIMALS, STEPS, Pairs, Reassign, step_recipe
from synthcap_mm.synthesis.encoding import default_device
from synthcap_mm.synthesis.neighbours import SEARCHES, make_search
from synthcap_mm.synthesis.refine import RefineStage, Refining
from synthcap_mm.synthesis.run import Stage, Worker, run_stages

#: Text→image recall is reported at these ranks.
RECALL_AT = (1, 5, 10)
#: Raised when a table of the same settings would come out differently.
_VERSION = 1


class _PartStage(Stage):
    """Makes the parts of an intermediate table."""

    unit = "rows"

    def __init__(self, table: Table, spans: Sequence[range], make_part: Callable[[range], pa.Table]) -> None:
        self.name, self.tables, self.sizes = table.recipe["part"], [table], [len(span) for span in spans]
        self._spans, self._make_part = spans, make_part

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        for shard in shards:
            self.tables[0].write(shard, self._make_part(self._spans[shard]))
            progress.update(self.sizes[shard])


_TABLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
#: Of a table: it is part of a path.
TableName = Annotated[str, That("a name of letters, digits, - and _", lambda name: _TABLE_NAME.fullmatch(str(name)))]
Step = Annotated[dict, Component(STEPS)]


@check_when_built
class Curation:
    """Makes the pairs table that a config's ``curation`` describes.

    Args:
        store: folder of a finished store of pairs.
        steps: list of steps, applied one after another: ``dict(type=...)`` with
            ``'clip_score'``, ``'reassign'`` or ``'merge_duplicates'`` and the arguments of the
            classes of :mod:`~synthcap_mm.synthesis.curation_steps`.
        name: the table is ``pairs/NAME``. Default ``'curated'``.
        source: name of the pairs table to begin with. Default ``'default'``.
        sentence_encoder: config of what scores how much alike two sentences are: of
            the MODELS registry, with ``encode_text(list[str]) -> (B, D)``. Default
            ``None``: the store's own text features.
        search_encoder: name of the encoder of ``synthesis.other_encoders`` that finds images for captions and captions
            for images, as SynC's SigLIP 2 does; the pairs' scores stay the store's own encoder's. Default ``None``: the
            store's own.
        search: ``'exact'``, ``'faiss'`` or ``dict(type='faiss', …)``; see
            :class:`~synthcap_mm.synthesis.neighbours.FaissSearch`. Default ``'exact'``.
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
        UserError: if a setting is out of range; the message names it.
    """

    def __init__(
        self,
        store: Name,
        steps: Annotated[Sequence[Step], That(f"a list of steps: {', '.join(STEPS)}", len)],
        name: TableName = "curated",
        source: TableName = "default",
        sentence_encoder: Model | None = None,
        search: Literal["exact", "faiss"] | Annotated[dict, Component(SEARCHES)] = "exact",
        refine: Refining | bool | None = None,
        recall: bool = True,
        part_size: Count = 4096,
        block: Count = 8192,
        text_batch: Count = 256,
        device: Device | None = None,
        search_encoder: EncoderName | None = None,
    ) -> None:
        self.steps = [STEPS[step["type"]](**{k: v for k, v in step.items() if k != "type"}) for step in steps]
        if name in ("default", source):
            raise UserError(
                f"curation.name={name!r}: the table it is made from must stay as it is, and 'default' is what "
                "`synthesize` makes; choose another name"
            )
        self.path, self.name, self.source = store, name, source
        self.sentence_encoder_cfg, self.refine_cfg = sentence_encoder, None if refine is False else refine
        self.recall, self.part_size, self.text_batch = recall, part_size, text_batch
        self.device = default_device() if device is None else torch.device(device)
        self.search_cfg, self.search_encoder = search, search_encoder
        self.search = make_search(search, block, self.device)

    # ---- the run
    def run(self, worker: Worker | None = None) -> dict[str, Any]:
        """Make the table, or find that it is there.

        Args:
            worker: whose share is made. Default: this process's.

        Returns:
            dict: the report, of json types: ``before``, ``after`` and ``before_of_kept``
            (``captions``, ``pairs``, ``images``, ``mean_score``, ``recall``), ``kept`` (fraction
            of the captions), ``steps``, ``heldout`` and ``flagged``; see docs/curation.md.

        Raises:
            StoreError: if there is no finished store, or it has no images or no such source.
            NotYet: if other tasks have parts still to make.
            UserError: if no usable pair of a training caption is there.
        """
        self.worker = worker or Worker.of_this_process()
        self.store = store = Store.open(self.path)
        if store.kind == "photos":
            raise StoreError(f"the store {store.path} holds photos, not pairs; there is nothing to curate")
        if not store.has(f"pairs/{self.source}"):
            there = [name.split("/")[1] for name in store.tables if name.startswith("pairs/")]
            raise StoreError(
                f"the store {store.path} has no table pairs/{self.source} to curate; "
                + (f"it has {', '.join(there)}" if there else "it holds captions only (synthesis.generator is None)")
            )
        names = ["texts", "text_features", "image_features", "heldout", f"pairs/{self.source}"]
        if self.search_encoder is not None:
            names += [store.features_name(kind, self.search_encoder) for kind in ("text", "image")]
        if any(getattr(step, "agreement", None) for step in self.steps):
            names.append("tags")
        self.inputs = {name: store.opened(name) for name in names if store.has(name)}
        self.recipe = self.recipe_in(store)
        self.key = key_of([table.identity for table in self.inputs.values()])
        pairs = Table(store.folder, "pairs", self.recipe, [self.key], list(self.inputs.values()))
        pairs.clean()
        if pairs.missing():
            self._make(pairs)
        else:
            print_log(f"pairs/{self.name} of {store.path} is there, made with these settings", logger="current")
        tables = {f"pairs/{self.name}": pairs}
        if self.refine_cfg is not None:
            refined = tables[f"refined/{self.name}"] = self._refined_table(pairs)
            refined.clean()
            run_stages([self._refine_stage(refined, pairs)], self.worker)
            if refined.missing():
                raise NotYet(f"{len(refined.missing())} shard(s) of refined/{self.name} are other tasks' to make")
        add_to_view(store.path, tables)
        return facts_of(pairs.path(0))["report"]

    def recipe_in(self, store: Store) -> dict[str, Any]:
        """How the table is made in a store."""
        searching = {}
        if self.search_encoder is not None:
            searching["search_encoder"] = store.recipe(store.features_name("text", self.search_encoder))["encoder"]
        return {
            "table": "pairs",
            "version": _VERSION,
            "steps": [step_recipe(step) for step in self.steps],
            "sentence_encoder": component_recipe(self.sentence_encoder_cfg),
            **searching,
            "search": self.search_cfg,
            "recall": self.recall,
            "source": store.recipe(f"pairs/{self.source}"),
        }

    def _make(self, table: Table) -> None:
        self._load()
        before = pairs = self._pairs
        done = []
        for i, step in enumerate(self.steps):
            captions, count = len(np.unique(pairs.caption)), len(pairs)
            pairs, extra = step.apply(pairs, self, f"{i}-{step.type}")
            done.append(
                {
                    **step_recipe(step),
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
            "steps": done,
            "gallery": len(self._candidates),
            "heldout": {"captions": len(np.unique(self._heldout.caption)), "pairs": len(self._heldout)},
            "flagged": self._flagged,
        }
        columns = [f.name for f in dataclasses.fields(Pairs)]
        whole = Pairs(*(np.concatenate([getattr(p, name) for p in (pairs, self._heldout)]) for name in columns))
        whole = whole.take(np.argsort(whole.caption, kind="stable"))
        table.write(0, pair_rows(*(getattr(whole, name) for name in columns)), report=report)

    # ---- optimised features of the new pairs
    @cached_property
    def _spans(self) -> list[range]:
        """Captions of each shard of the store."""
        ends = np.cumsum([0] + [shard[1] for shard in self.store.view["tables"]["texts"]["shards"]])
        return [range(int(a), int(b)) for a, b in itertools.pairwise(ends)]

    @cached_property
    def _refine_settings(self) -> dict[str, Any]:
        if self.refine_cfg is not True:
            return dict(self.refine_cfg)
        if not self.store.has("refined/default"):
            raise StoreError(
                f"curation.refine=True takes the settings of the store {self.path}, which has none: it was made "
                "with synthesis.refine=None; give curation.refine=dict(...)"
            )
        return self.store.recipe("refined/default")["settings"]

    @property
    def _seed(self) -> int:
        return self.store.recipe("pairs/default")["seed"]

    def _refined_table(self, pairs: Table) -> Table:
        recipe = {"settings": self._refine_settings, "pairs": pairs.recipe, "heldout": self.store.recipe("heldout")}
        keys = [key_of(pairs.identity, place) for place in range(len(self._spans))]
        return Table(self.store.folder, "refined", recipe, keys, [pairs, self.inputs["heldout"]])

    def _refine_stage(self, refined: Table, pairs: Table) -> RefineStage:
        inputs = [self.inputs[name] for name in ("texts", "text_features", "image_features", "heldout")]
        return RefineStage(refined, pairs, *inputs, self._spans, self._refine_settings, self._seed, self.device)

    def _load(self) -> None:
        """The source's usable pairs, and which images a training caption may get."""
        source, store = self.store.pairs(self.source), self.store
        pairs = Pairs(*(source.numbers(f.name) for f in dataclasses.fields(Pairs)))
        pairs = pairs.take(np.argsort(pairs.caption, kind="stable"))
        flagged = store.is_flagged
        heldout = np.zeros(len(store.captions), bool)
        heldout[store.caption_rows("heldout")] = True
        usable, held = ~flagged[pairs.image], heldout[pairs.caption]
        self._pairs, self._heldout = pairs.take(usable & ~held), pairs.take(usable & held)
        self._flagged = {"images": int(flagged.sum()), "pairs": int((~usable).sum())}
        if not len(self._pairs):
            raise UserError(
                f"pairs/{self.source} of the store {self.path} has no usable pair of a training caption: "
                f"{self._flagged['pairs']} of {len(pairs)} pairs have flagged images"
            )
        allowed = ~flagged
        allowed[np.setdiff1d(pairs.image[held], pairs.image[~held])] = False
        self._candidates = np.flatnonzero(allowed)
        self._all_captions = np.unique(self._pairs.caption)
        # An image has one seed, whichever caption it goes to; one of a pool that no caption had has none.
        self._seeds = np.zeros(len(store.images), np.int64)
        drawn = store.pairs("default")
        self._seeds[drawn.numbers("image")[::-1]] = drawn.numbers("seed")[::-1]
        self._image_lists: tuple[np.ndarray, np.ndarray] | None = None
        self._sentence_rows: tuple[UnitRows, np.ndarray] | None = None

    # ---- what the steps ask for
    def scores(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """CLIP scores of pairs, ``(N,)`` float32."""
        cosines = row_cosines(UnitRows(self.store.captions), captions, UnitRows(self.store.images), images)
        return cosines.astype(np.float32)

    def similarity(self, pairs: Pairs) -> np.ndarray:
        """Cosines of pairs by the encoder that searches, ``(N,)``."""
        if self.search_encoder is None:
            return pairs.score
        texts, images = self._searched()
        return row_cosines(UnitRows(texts), pairs.caption, UnitRows(images), pairs.image)

    def _searched(self) -> tuple[ShardedTable, ShardedTable]:
        """Features of captions and images by the encoder that searches."""
        return self.store.text_features(self.search_encoder), self.store.image_features(self.search_encoder)

    def make_pairs(self, captions: np.ndarray, images: np.ndarray) -> Pairs:
        """Pairs of these rows, captions ascending."""
        return Pairs(captions, images, self._seeds[images], self.scores(captions, images))

    def images_of(self, captions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most similar images of captions: image rows and cosines, ``(N, k)`` each, best first.

        There are fewer columns where there are fewer images.
        """
        if self._image_lists is None:  # one search serves recall and all steps
            wanted = max([s.images for s in self.steps if isinstance(s, Reassign)] + [max(RECALL_AT) * self.recall])
            texts, images = self._searched()
            database, queries = UnitRows(images, self._candidates), UnitRows(texts, self._all_captions)
            rows, scores = self._nearest("images_of_captions", queries, database, min(wanted, len(database)))
            self._image_lists = self._candidates[rows], scores
        at = np.searchsorted(self._all_captions, captions)
        return self._image_lists[0][at, :k], self._image_lists[1][at, :k]

    def captions_of(self, stage: str, images: np.ndarray, captions: np.ndarray, k: int) -> np.ndarray:
        """The ``k`` of ``captions`` most similar to each image: caption rows ``(M, k)``, best first."""
        features = self._searched()
        queries, database = UnitRows(features[1], images), UnitRows(features[0], captions)
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

        def choose(some: slice) -> tuple[np.ndarray, ...]:
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
            return choice, similarity[each, choice], own[each, choice]

        def make_part(span: range) -> pa.Table:
            # 256 × 30 sentences of 512 numbers: 32 MB of float32
            starts = range(span.start, span.stop, 256)
            found = [choose(slice(start, min(start + 256, span.stop))) for start in starts]
            columns = [np.concatenate(column) for column in zip(*found)]
            return pa.table(dict(zip(("choice", "score", "own"), columns)))

        table = self._parts(stage, len(captions), make_part)
        return table.numbers("choice"), table.numbers("score"), table.numbers("own")

    # ---- the work
    def _parts(self, name: str, count: int, make_part: Callable[[range], pa.Table]) -> ShardedTable:
        """An intermediate table in parts, each made by whichever worker takes it.

        Args:
            name: what it is; two of one name are the same table.
            count: rows that are worked on.
            make_part: makes the rows of a span.
        """
        table, spans = self._part_table(name, count)
        table.clean()
        stage = _PartStage(table, spans, make_part)
        run_stages([stage], self.worker)
        if left := table.missing():
            raise NotYet(f"{len(left)} part(s) of {name} are other tasks' to make; then the same command goes on")
        return table.read()

    def _part_table(self, name: str, count: int) -> tuple[Table, list[range]]:
        spans = [range(a, min(a + self.part_size, count)) for a in range(0, count, self.part_size)]
        recipe = {**self.recipe, "part": name, "part_size": self.part_size}
        return Table(self.store.folder, "curation", recipe, [key_of(self.key, s.start) for s in spans]), spans

    def _nearest(self, name: str, queries: UnitRows, database: UnitRows, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the nearest rows of ``database`` and their cosines, ``(Q, k)`` each."""
        index = self._part_table(name, len(queries))[0].folder / f"{self.key}.index"
        search: list[Any] = []

        def make_part(span: range) -> pa.Table:
            if not search:
                if not index.is_file():
                    self.search.prepare(database, index)
                search.append(self.search.over(database, index))
            scores, rows = search[0](queries[span.start : span.stop], k)
            return pa.table({"row": rows.reshape(-1), "score": scores.reshape(-1)})

        table = self._parts(name, len(queries), make_part)
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

    def _encode_sentences(self) -> ShardedTable:
        built: list[Any] = []

        def make_part(span: range) -> pa.Table:
            if not built:
                encoder = MODELS.build(self.sentence_encoder_cfg)
                built.append(encoder.to(self.device) if hasattr(encoder, "to") else encoder)
            texts = [self.store.captions.value("text", int(r)) for r in self._all_captions[span.start : span.stop]]
            with torch.no_grad():
                feats = [built[0].encode_text(texts[a : a + self.text_batch]).float().cpu().numpy()
                         for a in range(0, len(texts), self.text_batch)]  # fmt: skip
            feats = np.concatenate(feats)
            bad = np.flatnonzero(~np.isfinite(feats).all(1))
            if len(bad):
                raise UserError(
                    f"curation.sentence_encoder gives features that are not finite for {len(bad)} captions, the first: "
                    f"{texts[bad[0]]!r}"
                )
            # float16 as all features; not all encoders normalise
            return feature_rows(feats / np.maximum(np.linalg.norm(feats, axis=1, keepdims=True), 1e-12))

        return self._parts("sentences", len(self._all_captions), make_part)

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
