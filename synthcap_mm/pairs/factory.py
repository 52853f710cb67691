"""The synthesize loop: captions in, a store of pairs out.

Work is cut into shards, shared out over ranks. A shard that is there and whole
is not made again, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce_dict, barrier, broadcast_object_list, get_dist_info
from mmengine.logging import print_log

from synthcap_mm.files import file_sha256
from synthcap_mm.pairs.image_reader import ImageReader
from synthcap_mm.pairs.image_shards import ImageRow, ImageShards, free_memory, halved, is_out_of_memory
from synthcap_mm.pairs.plan import Plan, Stage
from synthcap_mm.pairs.progress import Progress, meet, telling_of_failure
from synthcap_mm.pairs.refining import BANK_SIZE, check_refine, refined
from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.stores import OtherSettingsError, Store, StoreError, StoreLock, StoreWriter, write_atomically
from synthcap_mm.stores.schema import captions_table, images_table, pairs_table, refined_table
from synthcap_mm.stores.shards import portable
from synthcap_mm.stores.store import ShardedTable
from synthcap_mm.stores.tar_images import IMAGE_FORMATS, IMAGES_TAR, TarImages
from synthcap_mm.stores.versions import library_versions, settings_digest, without_versions
from synthcap_mm.structures import group_id
from synthcap_mm.tokenization import make_tokenizer
from synthcap_mm.version import __version__

#: The stages that can be run alone, in their order.
STAGES = ("text", "images", "tags", "refine")
REFINED = "refined/default"
#: Settings on which one table (or the tokenizer) depends and nothing else: they may change, and it is made anew.
TABLE_OF = {"refine": REFINED, "tokenizer_settings": "tokenizer"}
#: Keys of flagged images that the summary names.
_NAMED = 10


def seed_of(base_seed: int, caption_id: str, index: int) -> int:
    """The seed of a caption's ``index``-th image: 31 bits, the same on any machine."""
    digest = hashlib.blake2b(f"{base_seed}/{caption_id}/{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def held_out(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which captions are kept out of training and memory: whole groups, chosen by hash.

    Args:
        groups: each caption's group (its own id where it has none).
        share: share of the groups; at least one when it is above 0 and there are two.
        seed: another seed, other groups.

    Returns:
        Boolean ``(N,)``.
    """
    distinct = sorted(set(groups), key=lambda g: hashlib.blake2b(f"{seed}/{g}".encode(), digest_size=8).digest())
    count = round(share * len(distinct))
    if share > 0:
        count = min(max(count, 1), len(distinct) - 1)  # something is left to train on
    chosen = set(distinct[:count])
    return np.array([g in chosen for g in groups], bool)


def kept_format(keep_images: bool | str) -> str | None:
    """The format that ``synthesis.keep_images`` means, or ``None``: no pictures are kept."""
    return "png" if keep_images is True else keep_images or None


def store_path(store: str, limit: int | None = None) -> str:
    """Where the store is made that ``synthesis.store`` and ``synthesis.limit`` name: ``STORE_firstN`` with a limit."""
    return str(store) if limit is None else f"{Path(store)}_first{limit}"


def default_device() -> torch.device:
    """The current GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def build_encoder(cfg: dict, device: torch.device) -> torch.nn.Module:
    """The backbone of a config, on a device."""
    return MODELS.build(cfg).to(device)


def build_tag_provider(cfg: dict | None, device: torch.device) -> Any | None:
    """The tag provider of a config, on a device; ``None`` without one."""
    provider = None if cfg is None else MODELS.build(cfg)
    return provider.to(device) if hasattr(provider, "to") else provider


@dataclass
class _Job:
    """What a run works with."""

    captions: list[Any]
    heldout: np.ndarray
    encoder: torch.nn.Module
    generator: Any | None
    tagger: Any | None
    reader: ImageReader
    pool: Any | None
    refine: dict | None
    header: dict[str, Any]
    spans: list[range]
    pool_spans: list[range]
    image_format: str | None

    @property
    def image_spans(self) -> list[range]:
        """Spans of captions, or of a pool's photos, whose images are a shard."""
        return self.spans if self.pool is None else self.pool_spans

    def load(self, rows: Sequence[ImageRow]) -> list[Any]:
        """Pictures of some rows, drawn or out of the pool."""
        return draw(self.generator, rows) if self.pool is None else load_photos(self.pool, rows)

    @property
    def tags(self) -> str | None:
        """Stands in the record of a shard whose images this job's tag provider has seen."""
        return settings_digest(self.header["tag_provider"])

    @property
    def refined_by(self) -> str | None:
        """Stands in the record of a shard of refined features that was made with this job's settings."""
        return settings_digest(self.refine)

    @property
    def tokenizer_by(self) -> str | None:
        """Stands in the manifest's entry of a tokenizer that was made with this job's settings."""
        return settings_digest(self.header["tokenizer_settings"])


class PairFactory:
    """Makes the store of pairs that a config's ``synthesis`` describes.

    Args:
        store: the store's folder.
        captions: config of a caption source.
        encoder: config of a backbone.
        generator: config of a generator; ``None``: a store of captions only
            (CapDec, DeCap). Default ``None``.
        images_per_caption: Default 1.
        tag_provider: config of a tag provider, or ``None``. Default ``None``.
        refine: settings of :func:`~synthcap_mm.models.necks.pseudo_feature_optimizer.refine`,
            with ``bank_size`` the number of fixed negatives (default 4096,
            assumed); ``None``: no refined features. Of a store that was made with other
            settings only the refined table is made anew. Default ``None``.
        tokenizer: arguments of :func:`~synthcap_mm.tokenization.make_tokenizer`, or
            ``None``; of a store that was made with others only the tokenizer is made anew.
            Default ``dict(kind='train')``.
        holdout: share of the captions' groups held out for selection. Default 0.02.
        seed: base seed. Default 0.
        shard_size: captions (or photos of a pool) in a shard. Default 1024.
        text_batch: captions encoded at once. Default 256.
        image_batch: images drawn, encoded and tagged at once. Default 16.
        keep_images: keep the pictures too, in tar shards: ``True`` or ``'png'`` to
            the pixel, ``'jpg'`` smaller (tags that are found later are then those of
            the compressed picture). Default ``False``: features only.
        limit: the first captions only, in a store of its own beside ``store``,
            ``STORE_firstN``. Default ``None``: all.
        device: torch device. Default: the current GPU, or the CPU.

    Raises:
        ValueError: for a setting out of its range; named.
    """

    def __init__(
        self,
        store: str,
        captions: dict,
        encoder: dict,
        generator: dict | None = None,
        images_per_caption: int = 1,
        tag_provider: dict | None = None,
        refine: dict | None = None,
        tokenizer: dict | None = {"kind": "train"},  # noqa: B006 - never changed
        holdout: float = 0.02,
        seed: int = 0,
        shard_size: int = 1024,
        text_batch: int = 256,
        image_batch: int = 16,
        keep_images: bool | str = False,
        limit: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if not 0 <= holdout < 1:
            raise ValueError(f"synthesis.holdout is a share in [0, 1), got {holdout}")
        for name, value in (
            ("shard_size", shard_size),
            ("images_per_caption", images_per_caption),
            ("text_batch", text_batch),
            ("image_batch", image_batch),
            ("limit", limit),
        ):
            if value is not None and value < 1:
                raise ValueError(f"synthesis.{name} must be at least 1, got {value}")
        if not isinstance(keep_images, bool) and keep_images not in IMAGE_FORMATS:
            raise ValueError(f"synthesis.keep_images is True, False, 'png' or 'jpg', got {keep_images!r}")
        check_refine(refine)
        self.store = Path(store_path(store, limit))
        self.source = DATASETS.build(captions)
        self.encoder_cfg, self.generator_cfg, self.tag_provider_cfg = encoder, generator, tag_provider
        self.images_per_caption = images_per_caption
        self.refine_cfg = refine
        self.tokenizer_cfg = tokenizer
        self.holdout, self.seed, self.shard_size = holdout, seed, shard_size
        self.text_batch, self.image_batch = text_batch, image_batch
        self.image_format = kept_format(keep_images)
        self.limit = limit
        self.device = torch.device(device) if device else default_device()
        self.rank, self.world = get_dist_info()

    # ---- the run
    def run(self, only: str | None = None) -> dict[str, int]:
        """Make what is missing.

        Args:
            only: a single stage: ``'text'`` (captions and tokenizer), ``'images'``
                (pictures, their features, pairs; their tags too, unless the pictures
                are kept), ``'tags'`` (of kept pictures, or of a pool's photos) or
                ``'refine'``. Default ``None``: all that the settings ask for.

        Returns:
            Counts over all ranks: ``captions``, ``images``, ``shards_made``,
            ``shards_reused``, ``flagged``, ``truncated``.

        Raises:
            OtherSettingsError: if the folder holds a store with other settings or captions.
            StoreError: if another job is at work on the store, it cannot be written, or what
                ``only`` builds on is missing.
            ValueError: if ``only`` names a stage that the settings do not ask for.
        """
        self._check_only(only)
        with only_job(self.store):
            job = self._prepare()
            meet()  # all have their models
            writer = self._open(job, only)
            meet()  # all have read the manifest before it is written
            if self.rank == 0:
                writer.begin(datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), __version__)
            meet()
            records = self._survey(job, writer)
            plan = self._plan(job, records, only)
            print_log(plan.describe(), logger="current")
            if writer.replaced:
                print_log(
                    f"the store {self.store} was made with other settings; what depends on them is made anew, the rest "
                    "stays:\n  " + "\n  ".join(writer.replaced),
                    logger="current",
                )
            if writer.changed_versions and any(s.missing for s in plan.stages):
                print_log(
                    f"shards of {self.store} were made with other versions, and those made now may differ from them by "
                    f"rounding (the encoder's fingerprint is the same): {', '.join(writer.changed_versions)}",
                    logger="current",
                    level=30,
                )
            return self._work(job, writer, plan, records, only)

    def dry_run(self, batches: int = 4) -> Plan:
        """Say what a run would do, measure a few batches, and leave no store.

        Args:
            batches: batches of images to measure with, after a first one that warms up. Default 4.

        Returns:
            The plan, with measured seconds and bytes.

        Raises:
            OtherSettingsError: as :meth:`run`.
        """
        from synthcap_mm.pairs.measuring import measure

        job = self._prepare()
        writer = self._open(job, None)
        plan = self._plan(job, self._survey(job, writer), None)
        print_log(plan.describe(), logger="current")
        barrier()
        measure(self, job, plan, batches)
        return plan

    def _check_only(self, only: str | None) -> None:
        if only is None:
            return
        if only not in STAGES:
            raise ValueError(f"only= is one of {', '.join(STAGES)}, not {only!r}")
        needs = {"images": "generator", "tags": "tag_provider", "refine": "refine"}.get(only)
        absent = [
            name
            for name, cfg in (
                ("generator", self.generator_cfg),
                ("tag_provider", self.tag_provider_cfg),
                ("refine", self.refine_cfg),
            )
            if cfg is None and (name == needs or (name == "generator" and only != "text"))
        ]
        if absent:
            raise ValueError(f"the stage {only!r} has nothing to do: synthesis.{absent[0]} is not set")

    def _prepare(self) -> _Job:
        captions = self.source.read()
        if not captions:
            raise ValueError("the caption source holds no captions")
        captions = captions[: self.limit]
        groups = [c.group or c.id for c in captions]
        heldout = held_out(groups, self.holdout, self.seed)
        encoder = build_encoder(self.encoder_cfg, self.device)
        generator = None if self.generator_cfg is None else MODELS.build(self.generator_cfg)
        k = getattr(generator, "k", None) if getattr(generator, "retrieves", False) else None
        if k is not None and k != self.images_per_caption:
            raise ValueError(
                f"synthesis.generator.k={k} is another number of images for each caption than synthesis."
                f"images_per_caption={self.images_per_caption}: set images_per_caption={k} and leave k out"
            )
        if generator is not None and hasattr(generator, "to"):
            generator = generator.to(self.device)
        tagger = build_tag_provider(self.tag_provider_cfg, self.device) if generator is not None else None
        pool = DATASETS.build(generator.pool) if getattr(generator, "retrieves", False) else None
        if pool is not None and self.image_format is not None:
            raise ValueError(
                "synthesis.keep_images keeps what a generator draws; a retrieved photo is in its pool already: "
                "set keep_images=False"
            )
        refine = self.refine_cfg if generator is not None else None
        header = {
            "kind": "pairs",
            "embed_dim": encoder.embed_dim,
            "encoder": encoder.fingerprint(),
            "captions": {"count": len(captions), "sha256": captions_sha256(captions)},
            "holdout": self.holdout,
            "seed": self.seed,
            "shard_size": self.shard_size,
            "images_per_caption": self.images_per_caption if generator is not None else 0,
            "generator": None if generator is None else generator.provenance(),
            "pool": None if pool is None else {"count": len(pool), "sha256": pool.sha256()},
            "tag_provider": None if tagger is None else tagger.provenance(),
            "keep_images": self.image_format if generator is not None else None,
            "refine": refine,
            "tokenizer_settings": portable(self.tokenizer_cfg),
        }
        return _Job(
            captions=captions,
            heldout=heldout,
            encoder=encoder,
            generator=generator,
            tagger=tagger,
            reader=ImageReader(encoder, tagger),
            pool=pool,
            refine=refine,
            header=header,
            spans=shard_spans(len(captions), self.shard_size),
            pool_spans=[] if pool is None else shard_spans(len(pool), self.shard_size),
            image_format=header["keep_images"],
        )

    def _open(self, job: _Job, only: str | None) -> StoreWriter:
        versions = versions_for_all(self.device)
        finds_later = job.image_format is not None or job.pool is not None
        try:
            replaces = (*TABLE_OF, *(["tag_provider"] if only == "tags" and finds_later else []))
            writer = StoreWriter(self.store, job.header, versions, replaces)
        except OtherSettingsError as error:
            hint = ""
            if "captions" in error.fields:
                hint = "\n" + caption_changes(self.store, job.captions)
            elif error.fields == ["tag_provider"] and finds_later:
                hint = "\nIts pictures are at hand: --only tags finds the tags anew and draws nothing."
            raise OtherSettingsError(f"{error}{hint}", error.fields) from None
        if writer.previous is not None:
            # Stores of the first landing: tags came in the same pass, and shards did not say so.
            seen_by = settings_digest(writer.previous.get("tag_provider"))
            writer.set_default("images", tags=seen_by)
            if not any(line.startswith("tag_provider") for line in writer.replaced):
                # The same provider, of which less was recorded then.
                writer.reword("images", "tags", seen_by, job.tags)
            # Nor did they say with which settings a table was made that does not outlive a change of them.
            writer.set_default(REFINED, settings=settings_digest(writer.previous.get("refine")))
            if entry := writer.header.get("tokenizer"):
                made_with = settings_digest(writer.previous.get("tokenizer_settings"))
                writer.header["tokenizer"] = {**entry, "settings": entry.get("settings", made_with)}
            if job.refine is None:
                writer.drop(REFINED)
            if self.tokenizer_cfg is None:
                writer.header.pop("tokenizer", None)
        return writer

    def _record(
        self, job: _Job, writer: StoreWriter, table: str, index: int, full: bool = True
    ) -> dict[str, Any] | None:
        """As :meth:`StoreWriter.record`, and ``None`` for a shard of other settings."""
        record = writer.record(table, index, full)
        return None if table == REFINED and record and record.get("settings") != job.refined_by else record

    def _tables(self, job: _Job) -> dict[str, int]:
        """The tables of a whole store, and their numbers of shards."""
        tables = {"captions": len(job.spans)}
        if job.generator is not None:
            tables["images"] = len(job.image_spans)
            if job.image_format is not None:
                tables[IMAGES_TAR] = len(job.image_spans)
            tables["pairs/default"] = len(job.spans)
        if job.refine is not None:
            tables[REFINED] = len(job.spans)
        return tables

    def _survey(self, job: _Job, writer: StoreWriter) -> dict[str, list[dict[str, Any] | None]]:
        """Records of all shards, ``None`` for a missing or damaged one; each rank reads its share of the files."""
        tables = self._tables(job)
        names = [(table, i) for table, count in tables.items() for i in range(count)]
        mine = [self._record(job, writer, table, i) for table, i in names[self.rank :: self.world]]
        meet()
        found: list[list[Any]] = all_gather_object(mine)
        records: dict[str, list[dict[str, Any] | None]] = {table: [] for table in tables}
        for place, (table, _) in enumerate(names):
            records[table].append(found[place % self.world][place // self.world])
        return records

    def _image_rows(self, job: _Job, shard: int) -> list[ImageRow]:
        span = job.image_spans[shard]
        if job.pool is not None:
            return [ImageRow(job.pool.keys[i], i) for i in span]
        return [
            ImageRow(f"{c.id}/{j}", (c.text, seed_of(self.seed, c.id, j)), c.text)
            for c in job.captions[span.start : span.stop]
            for j in range(self.images_per_caption)
        ]

    def _plan(self, job: _Job, records: dict[str, list[dict[str, Any] | None]], only: str | None) -> Plan:
        about = {
            "captions": f"{len(job.captions)}: {self.source.describe()}"
            + (f" (the first {self.limit})" if self.limit else ""),
            "encoder": str(job.header["encoder"]["name"]),
        }
        k = self.images_per_caption
        per_image = 1 if job.pool is not None else k
        if job.generator is not None:
            count = sum(map(len, job.image_spans)) * per_image
            about["images"] = f"{count}, " + ("photos of a pool" if job.pool is not None else f"{k} a caption")
            about["generator"] = _brief(job.header["generator"])
            about["tags by"] = _brief(job.header["tag_provider"]) if job.tagger is not None else "nobody"
        plan = Plan(self.store, self.world, about)

        def add(name: str, table: str, spans: Sequence[range], times: int, unit: str, missing: Sequence[int]) -> Stage:
            there = [r for r in records[table] if r is not None and r["rows"]]
            known = sum(r["bytes"] for r in there) / sum(r["rows"] for r in there) if there else None
            stage = Stage(name, unit, [len(s) * times for s in spans], list(missing), known)
            plan.stages.append(stage)
            return stage

        dim = job.encoder.embed_dim
        absent = {table: [i for i, r in enumerate(found) if r is None] for table, found in records.items()}
        if only in (None, "text"):
            stage = add("text", "captions", job.spans, 1, "captions", absent["captions"])
            texts = sum(len(c.text.encode()) + len(c.id) + len(c.group or "") for c in job.captions)
            stage.row_bytes = stage.row_bytes or 2 * dim + 14 + texts / len(job.captions)
        if job.generator is not None and only in (None, "images", "tags"):
            redraw, retag = self._images_to_do(job, records, only)
            if only != "tags":
                unit = "images" if job.pool is None else "photos"
                stage = add("images", "images", job.image_spans, per_image, unit, redraw)
                # Tags vary; six a picture are assumed until there are shards to weigh.
                stage.row_bytes = stage.row_bytes or 2 * dim + 30 + (6 * 40 if job.tagger is not None else 0)
                if job.image_format is not None:
                    add("kept images", IMAGES_TAR, job.image_spans, per_image, unit, redraw)
                add("pairs", "pairs/default", job.spans, k, "pairs", absent["pairs/default"]).row_bytes = 28.0
            if retag or only == "tags":
                add("tags", "images", job.image_spans, per_image, "images", retag)
        if job.refine is not None and only in (None, "refine"):
            add("refine", REFINED, job.spans, k, "pairs", absent[REFINED]).row_bytes = 2.0 * dim
        return plan

    def _images_to_do(
        self, job: _Job, records: dict[str, list[dict[str, Any] | None]], only: str | None
    ) -> tuple[list[int], list[int]]:
        """Shards of the images table to make, and those whose images are there and want other tags."""
        kept = records.get(IMAGES_TAR, records["images"])
        missing = [i for i, (r, t) in enumerate(zip(records["images"], kept)) if r is None or t is None]
        if only == "images":
            return missing, []
        gone = set(missing)
        untagged = [i for i, r in enumerate(records["images"]) if i not in gone and r.get("tags", job.tags) != job.tags]
        if job.image_format is not None or job.pool is not None:
            return missing, untagged
        if only == "tags" and untagged:
            raise StoreError(
                f"the store {self.store} keeps no pictures, so that tags can only be found while they are drawn: run "
                "without --only, or make a store with synthesis.keep_images=True"
            )
        return sorted({*missing, *untagged}), []

    @contextlib.contextmanager
    def _stage(self, stage: Stage, totals: Counter) -> Iterator[tuple[list[int], Progress]]:
        """This rank's share of a stage's shards; all ranks meet at the end."""
        share = stage.missing[self.rank :: self.world]
        bar = Progress(stage.name, sum(stage.sizes), sum(stage.sizes) - stage.todo, stage.unit)
        with bar:
            yield share, bar
            totals["shards_made"] += len(share)
        if stage.name != "tags" and self.rank == 0:  # shards that get tags are there: they count where they are made
            totals["shards_reused"] += len(stage.sizes) - len(stage.missing)

    def _work(
        self,
        job: _Job,
        writer: StoreWriter,
        plan: Plan,
        records: dict[str, list[dict[str, Any] | None]],
        only: str | None,
    ) -> dict[str, int]:
        totals: Counter = Counter()
        self._require(job, records, only)
        entry = writer.header.get("tokenizer")
        if stage := plan.stage("text"):
            with self._stage(stage, totals) as (shards, bar):
                for i in shards:
                    self._encode_text(job, writer, i, bar)
            entry = self._tokenizer(job, writer.header.get("tokenizer"))
        if stage := plan.stage("images"):
            with self._stage(stage, totals) as (shards, bar):
                self._make_images(job, writer, shards, bar, tag=only is None or job.image_format is None)
        if (stage := plan.stage("tags")) and stage.missing:
            with self._stage(stage, totals) as (shards, bar):
                for i in shards:
                    self._retag(job, writer, i, bar)
        if stage := plan.stage("pairs"):
            usable = self._pool_features(job, writer) if job.pool is not None and stage.missing else None
            with self._stage(stage, totals) as (shards, bar):
                for i in shards:
                    if job.pool is not None:
                        self._retrieve(writer, job.generator, usable, job.captions, job.spans[i], i)
                    else:
                        self._pair_drawn(writer, job.captions, job.spans[i], i)
                    bar.update(stage.sizes[i])
        if stage := plan.stage("refine"):
            with self._stage(stage, totals) as (shards, bar):
                bank = None
                for i in shards:
                    if bank is None:
                        size = job.refine.get("bank_size", BANK_SIZE)
                        bank = NegativeBank(writer, self._tables(job), job.captions, size, self.seed, self.device)
                    self._refine(job, writer, bank, i)
                    bar.update(stage.sizes[i])
        meet()
        if self.rank == 0:
            self._finish(job, writer, entry, totals)
        meet()
        return self._summary(totals)

    def _require(self, job: _Job, records: dict[str, list[dict[str, Any] | None]], only: str | None) -> None:
        """What a single stage builds on must be there."""
        needs = {
            "images": [("captions", "text")],
            "tags": [("images", "images"), (IMAGES_TAR, "images")],
            "refine": [("captions", "text"), ("images", "images"), ("pairs/default", "images")],
        }
        for table, stage in needs.get(only, []):
            lost = sum(r is None for r in records.get(table, []))
            if lost:
                raise StoreError(
                    f"--only {only} builds on the table {table}, of which {lost} of {len(records[table])} shards are "
                    f"missing in {self.store}: run with --only {stage} first, or without --only"
                )

    def _finish(self, job: _Job, writer: StoreWriter, entry: dict[str, Any] | None, totals: Counter) -> None:
        """Write the manifest if the store is whole, and say what there is (on the main rank)."""
        tables = self._tables(job)
        found = {t: [self._record(job, writer, t, i, full=False) for i in range(n)] for t, n in tables.items()}
        left = [t for t, records in found.items() if any(r is None for r in records)]
        images = [r for r in found.get("images", []) if r is not None]
        if any(r.get("tags", job.tags) != job.tags for r in images):
            left.append("tags")
        if self.tokenizer_cfg is not None and (entry is None or entry["settings"] != job.tokenizer_by):
            left.append("tokenizer")
        totals["captions"] = sum(r["rows"] for r in found["captions"] if r is not None)
        totals["images"] = sum(r["rows"] for r in images)
        totals["flagged"] = sum(r["flagged"] for r in images)
        totals["truncated"] = sum(r["truncated"] for r in found["captions"] if r is not None)
        flags: Counter = Counter()
        named = []
        for record in images:
            if record["flagged"]:
                table = ShardedTable(self.store, "images", [record])
                for row in np.flatnonzero(table.is_set("flags")):
                    flags.update(table.value("flags", int(row)))
                    named.append(table.value("key", int(row)))
        if not left:
            writer.finish(tables, tokenizer=entry)
        elif entry is not None:
            writer.note(tokenizer=entry)
        lines = [f"summary of the store {self.store}"]
        lines.append(f"  {totals['captions']} captions, {totals['images']} images")
        if named:
            kinds = ", ".join(f"{count} {flag}" for flag, count in sorted(flags.items()))
            more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
            lines.append(f"  flagged: {kinds}: {', '.join(named[:_NAMED])}{more} (all: Store.open(...).flagged())")
        if left:
            lines.append(f"  not finished, still to be made: {', '.join(left)}; without --only all of it is made")
        else:
            size = sum(r["bytes"] for records in found.values() for r in records)
            lines.append(f"  complete, {size / 1e6:.1f} MB")
        print_log("\n".join(lines), logger="current")

    def _summary(self, totals: Counter) -> dict[str, int]:
        names = ("captions", "images", "shards_made", "shards_reused", "flagged", "truncated")
        counts = {n: torch.tensor(totals[n]) for n in names}
        all_reduce_dict(counts, op="sum")
        result = {n: int(v) for n, v in counts.items()}
        if result["truncated"]:
            print_log(
                f"{result['truncated']} of {result['captions']} captions are longer than the encoder's context; "
                "their ends do not count in their features",
                logger="current",
                level=30,
            )
        if result["flagged"]:
            print_log(
                f"{result['flagged']} of {result['images']} images are flagged (black, uniform, undecodable or not "
                "finite) and will not be served",
                logger="current",
                level=30,
            )
        return result

    # ---- stages
    def _encode_text(self, job: _Job, writer: StoreWriter, shard: int, bar: Progress) -> None:
        span = job.spans[shard]
        part = job.captions[span.start : span.stop]
        texts = [c.text for c in part]
        while True:
            try:
                starts = range(0, len(texts), self.text_batch)
                feats = np.concatenate(
                    [job.encoder.encode_text(texts[s : s + self.text_batch]).float().cpu().numpy() for s in starts]
                )
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.text_batch = halved(self.text_batch, "captions", error)
            free_memory()
        bad = np.flatnonzero(~np.isfinite(feats).all(1))
        if len(bad):
            raise ValueError(
                f"the encoder gives features that are not finite for {len(bad)} captions, the first: "
                f"{part[bad[0]].id!r} ({part[bad[0]].text!r}); check its weights and precision"
            )
        heldout = job.heldout[span.start : span.stop].tolist()
        table = captions_table([c.id for c in part], texts, [c.group for c in part], heldout, feats)
        truncated = int(np.sum(job.encoder.is_too_long(texts)))
        writer.write("captions", shard, table, truncated=truncated, batch_size=self.text_batch)
        bar.update(len(part))

    def _tokenizer(self, job: _Job, known: dict[str, Any] | None) -> dict[str, Any] | None:
        if self.tokenizer_cfg is None:
            return None
        path = self.store / "tokenizer.json"
        # Without a record (a run that was stopped), of other settings, or with another checksum, it is made again.
        same = known is not None and known["settings"] == job.tokenizer_by
        whole = same and path.is_file() and file_sha256(path) == known["sha256"]
        meet()
        if self.rank == 0 and not whole:
            texts = [c.text for c, out in zip(job.captions, job.heldout) if not out]
            tokenizer = make_tokenizer(captions=texts, **self.tokenizer_cfg)
            with write_atomically(path) as file:
                file.write(tokenizer.to_str(pretty=False).encode())
        meet()
        return {"file": path.name, "sha256": file_sha256(path), "settings": job.tokenizer_by}

    def _make_images(
        self, job: _Job, writer: StoreWriter, shards: Sequence[int], bar: Progress, tag: bool
    ) -> ImageShards:
        reader = job.reader if tag else ImageReader(job.encoder, None)
        maker = ImageShards(
            writer,
            reader,
            bar,
            self.image_batch,
            job.image_format,
            self.device,
            tags=job.tags if tag else None,
        )
        maker.make(shards, functools.partial(self._image_rows, job), job.load)
        return maker

    def _retag(self, job: _Job, writer: StoreWriter, shard: int, bar: Progress) -> None:
        """Tags of pictures that are there, into their shard; the features stay."""
        record = writer.record("images", shard, full=False)
        table = _table(writer, "images", [shard])
        rows = self._image_rows(job, shard)
        kept = TarImages(self.store, [writer.record(IMAGES_TAR, shard)]) if job.image_format is not None else None
        # As many at a time as when they were drawn: then the tags are, to the bit, those of the same pass.
        batch = record.get("batch_size", self.image_batch)
        start, tags = 0, []
        while start < len(rows):
            part = range(start, min(start + batch, len(rows)))
            try:
                pictures = (
                    [kept.image(i) for i in part]
                    if kept is not None
                    else load_photos(job.pool, [rows[i] for i in part])
                )
                found = iter(job.reader.tags([p for p in pictures if p is not None]))
                tags += [[] if p is None else next(found) for p in pictures]
                start = part.stop
                bar.update(len(part))
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batch = halved(batch, "pictures", error)
            free_memory()
            bar.update(-start)
            start, tags = 0, []
        flags = [table.value("flags", i) for i in range(len(rows))]
        info = {k: record[k] for k in ("flagged", "flags", "batch_size") if k in record}
        shard_rows = images_table(table.strings("key"), table.features(), tags, flags)
        writer.write("images", shard, shard_rows, **info, tags=job.tags)

    def _pool_features(self, job: _Job, writer: StoreWriter) -> np.ndarray:
        """Hands the pool's features to the generator; returns the rows that may be found."""
        images = _table(writer, "images", range(len(job.image_spans)))
        # Flagged photos would be found, and then left out of the dataset with the captions that found them.
        usable = np.flatnonzero(~images.is_set("flags"))
        if len(usable) < self.images_per_caption:
            raise ValueError(
                f"the pool has {len(usable)} usable photos of {len(job.pool)}; "
                f"synthesis.images_per_caption is {self.images_per_caption}"
            )
        job.generator.set_pool(torch.from_numpy(images.features(usable)).to(self.device))
        return usable

    def _pair_drawn(self, writer: StoreWriter, captions: Sequence[Any], span: range, shard: int) -> None:
        k = self.images_per_caption
        rows = np.repeat(np.arange(span.start, span.stop), k)
        part = captions[span.start : span.stop]
        seeds = np.array([seed_of(self.seed, c.id, j) for c in part for j in range(k)])
        text = np.repeat(_shard_features(writer, "captions", shard), k, axis=0)
        image = _shard_features(writer, "images", shard)
        scores = (_unit(text) * _unit(image)).sum(1)
        images = np.arange(span.start * k, span.stop * k)
        writer.write("pairs/default", shard, pairs_table(rows, images, seeds, scores))

    def _retrieve(
        self, writer: StoreWriter, generator: Any, usable: np.ndarray, captions: Sequence[Any], span: range, shard: int
    ) -> None:
        text = torch.from_numpy(_unit(_shard_features(writer, "captions", shard))).to(self.device)
        part = captions[span.start : span.stop]
        seeds = [seed_of(self.seed, c.id, 0) for c in part]
        rows, scores = generator.retrieve(text, part, seeds, self.images_per_caption)
        table = pairs_table(
            np.repeat(np.arange(span.start, span.stop), rows.shape[1]),
            usable[rows.cpu().numpy().reshape(-1)],
            np.repeat(seeds, rows.shape[1]),
            scores.float().cpu().numpy().reshape(-1),
        )
        writer.write("pairs/default", shard, table)

    def _refine(self, job: _Job, writer: StoreWriter, bank: NegativeBank, shard: int) -> None:
        table = refined_table(refined(*bank.pairs(shard), bank, job.refine))
        writer.write(REFINED, shard, table, settings=job.refined_by)


def shard_spans(count: int, shard_size: int) -> list[range]:
    """Rows ``0 … count - 1`` in shards."""
    return [range(s, min(s + shard_size, count)) for s in range(0, count, shard_size)]


def draw(generator: Any, rows: Sequence[ImageRow]) -> list[Any]:
    """A generator's pictures of some rows.

    Raises:
        RuntimeError: if it draws another number of them.
    """
    captions, seeds = zip(*(row.source for row in rows))
    images = generator.generate(list(captions), list(seeds))
    if len(images) != len(rows):
        raise RuntimeError(f"{type(generator).__name__} drew {len(images)} images for {len(rows)} captions")
    return images


def load_photos(photos: Any, rows: Sequence[ImageRow]) -> list[Any]:
    """A photo source's pictures of some rows; ``None``, and a line in the log, for one that cannot be read."""
    images: list[Any] = []
    for row in rows:
        try:
            images.append(photos.load(row.source))
        except (ValueError, OSError) as error:
            print_log(f"{row.key}: {error}", logger="current", level=30)
            images.append(None)
    return images


@contextlib.contextmanager
def only_job(store: Path) -> Iterator[None]:
    """Holds a store for this job, on all ranks or on none."""
    rank, _ = get_dist_info()
    lock, refusal = StoreLock(store), [None]
    if rank == 0:
        try:
            lock.__enter__()
        except StoreError as error:
            refusal = [str(error)]
    broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise StoreError(refusal[0])
    try:
        with telling_of_failure():
            yield
    finally:
        if rank == 0:
            lock.__exit__(None, None, None)


def versions_for_all(device: torch.device) -> dict[str, str]:
    """Versions of the libraries and the kind of device; the main rank's stand for all."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = [{**library_versions(), "device": kind}]
    broadcast_object_list(versions)
    return versions[0]


def _brief(settings: dict[str, Any]) -> str:
    """A component's settings in a line."""
    rest = {k: v for k, v in without_versions(settings).items() if k != "type" and "sha256" not in k and v is not None}
    line = f"{settings.get('type', '')} " + ", ".join(f"{k}={v}" for k, v in rest.items())
    return line if len(line) <= 160 else line[:159] + "…"


def caption_changes(store: Path, captions: Sequence[Any]) -> str:
    """In what captions differ from those that a store was made of, in a sentence.

    Args:
        store: the store's folder.
        captions: those of the config.
    """
    files = sorted((store / "captions").glob("[0-9]*.arrow"))
    try:
        table = ShardedTable(store, "captions", [{"file": f"captions/{f.name}"} for f in files])
        old = {i: (t, g) for i, t, g in zip(*(table.strings(c) for c in ("id", "text", "group")))}
    except (OSError, ValueError) as error:
        return f"The captions are not those that the store was made of (its own cannot be read: {error})."
    new = {c.id: (c.text, c.group) for c in captions}
    told = []
    gone, added = [i for i in old if i not in new], [i for i in new if i not in old]
    texts = [i for i in old if i in new and old[i][0] != new[i][0]]
    groups = [i for i in old if i in new and old[i][0] == new[i][0] and old[i][1] != new[i][1]]
    if gone:
        told.append(f"{len(gone)} of the store's are gone (the first: {gone[0]!r}, {old[gone[0]][0]!r})")
    if added:
        told.append(f"{len(added)} are not in the store (the first: {added[0]!r}, {new[added[0]][0]!r})")
    if texts:
        told.append(f"{len(texts)} have another text (the first: {texts[0]!r}, {old[texts[0]][0]!r} in the store, "
                    f"{new[texts[0]][0]!r} now)")  # fmt: skip
    if groups:
        told.append(f"{len(groups)} have another group (the first: {groups[0]!r})")
    if not told:
        told.append("they come in another order")
    return (
        f"The captions have changed since the store was made, so that ids and rows no longer match: {'; '.join(told)}."
    )


def captions_sha256(captions: Sequence[Any]) -> str:
    """Hex SHA-256 of captions with their ids and groups, as a store's manifest has it."""
    digest = hashlib.sha256()
    for c in captions:
        digest.update(f"{c.id}\t{c.group}\t{c.text}\n".encode())
    return digest.hexdigest()


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _table(writer: StoreWriter, name: str, shards: Sequence[int]) -> Any:
    records = [writer.record(name, i) for i in shards]
    if any(r is None for r in records):
        raise StoreError(f"the store {writer.path} lost a shard of {name} while it was made; run the command again")
    return ShardedTable(writer.path, name, records)


def _shard_features(writer: StoreWriter, name: str, shard: int) -> np.ndarray:
    return _table(writer, name, [shard]).features()


class NegativeBank:
    """The fixed negatives of the refine stage: the same for every pair, batch and rank; of captions to train on."""

    def __init__(
        self,
        writer: StoreWriter,
        tables: dict[str, int],
        captions: Sequence[Any],
        size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._tables = {n: _table(writer, n, range(tables[n])) for n in ("captions", "images")}
        self._writer, self._captions, self._device = writer, captions, device
        pairs = _table(writer, "pairs/default", range(tables["pairs/default"]))
        trained = ~self._tables["captions"].numbers("heldout").astype(bool)
        unflagged = ~self._tables["images"].is_set("flags")
        usable = np.flatnonzero(trained[pairs.numbers("caption")] & unflagged[pairs.numbers("image")])
        chosen = np.sort(np.random.default_rng(seed).permutation(usable)[:size])
        self.image, self.text, self.groups = self._load(
            pairs.numbers("caption")[chosen], pairs.numbers("image")[chosen]
        )

    def _load(self, captions: np.ndarray, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(_unit(self._tables["images"].features(images))).to(self._device)
        text = torch.from_numpy(_unit(self._tables["captions"].features(captions))).to(self._device)
        groups = [group_id(self._captions[c].group or self._captions[c].id) for c in captions]
        return image, text, torch.tensor(groups, device=self._device)

    def pairs(self, shard: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Image features, text features and groups of a shard's pairs."""
        table = _table(self._writer, "pairs/default", [shard])
        return self._load(table.numbers("caption"), table.numbers("image"))


def has_store(path: str) -> bool:
    """Whether a whole, undamaged store is at ``path``."""
    try:
        Store.open(path, verify="full")
    except StoreError:
        return False
    return True
