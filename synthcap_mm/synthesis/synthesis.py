"""What a config's ``synthesis`` describes: the tables of a store of pairs, and the stages that make them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from mmengine.logging import print_log

from synthcap_mm.errors import UserError, listed
from synthcap_mm.files import HashCache, names_in
from synthcap_mm.options import (
    Component,
    Count,
    Data,
    Device,
    Model,
    Name,
    OtherEncoders,
    Part,
    Seed,
    check_when_built,
)
from synthcap_mm.registry import DATASETS, MODELS, filled_in
from synthcap_mm.store import Table
from synthcap_mm.store.checking import read_recipe
from synthcap_mm.store.recipes import component_recipe, differences, settings_recipe
from synthcap_mm.store.schema import heldout_rows
from synthcap_mm.store.store import view_file, write_view
from synthcap_mm.store.tables import facts_of, key_of
from synthcap_mm.synthesis.encoding import BuiltModels, default_device, fingerprints_in
from synthcap_mm.synthesis.images import EarlierRows, ImageRow, ImageStage, captions_in, draw, load_photos
from synthcap_mm.synthesis.pairs import DrawnPairs, RetrievedPairs
from synthcap_mm.synthesis.refine import RefineStage, Refining
from synthcap_mm.synthesis.run import Stage, Worker, run_stages
from synthcap_mm.synthesis.text import SmallStage, TextStage, held_out
from synthcap_mm.tokenization import TOKENIZERS, make_tokenizer

#: The stages that can be run alone, in their order.
STAGES = ("text", "images", "tags", "refine")


def seed_of(base_seed: int, caption_id: str, index: int) -> int:
    """The seed of a caption's ``index``-th image: 31 bits, the same on any machine."""
    digest = hashlib.blake2b(f"{base_seed}/{caption_id}/{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def shard_spans(count: int, shard_size: int) -> list[range]:
    """Rows ``0 … count - 1`` in shards."""
    return [range(s, min(s + shard_size, count)) for s in range(0, count, shard_size)]


def photo_keys(photos: Any, config: dict, spans: Sequence[range], cache: HashCache) -> list[str]:
    """Keys of the shards of a photo source: of each photo its name, its content and its domain.

    Args:
        photos: the source. A photo is what is in its file (``path(index)``), or what ``content(index)`` says; a
            source that has neither is taken to be what its config says.
        config: its config.
        spans: photos of each shard.
        cache: of the files' hashes.
    """
    if hasattr(photos, "path"):
        contents = [cache.sha256(photos.path(i)) for i in range(len(photos))]
        cache.save()
    elif hasattr(photos, "content"):
        contents = [photos.content(i) for i in range(len(photos))]
    else:
        contents = [component_recipe(config)] * len(photos)
    keys, domain = photos.keys, getattr(photos, "domain", lambda index: None)
    return [key_of([[keys[i], contents[i], domain(i)] for i in span]) for span in spans]


@check_when_built
class Synthesis:
    """Makes the store of pairs that a config's ``synthesis`` describes.

    Args:
        store: the store's folder.
        captions: config of a caption source.
        encoder: config of a backbone.
        other_encoders: name → config of further backbones, by which captions and images are encoded too, into tables
            of their own. Default ``None``: none.
        generator: config of a generator; ``None``: a store of captions only
            (CapDec, DeCap). Default ``None``.
        images_per_caption: Default 1.
        tag_provider: config of a tag provider, or ``None``; one that needs an encoder has ``encoder`` unless it names
            another. Default ``None``.
        refine: settings of :func:`~synthcap_mm.models.necks.pseudo_feature_optimizer.refine`,
            with ``bank_size`` the number of fixed negatives (default 4096,
            assumed); ``None``: no refined features. Default ``None``.
        tokenizer: arguments of :func:`~synthcap_mm.tokenization.make_tokenizer`, or
            ``None``. Default ``dict(kind='train')``.
        holdout: share of the captions' groups held out for selection. Default 0.02.
        seed: base seed. Default 0.
        shard_size: captions (or photos of a pool) in a shard. Default 1024.
        text_batch: captions encoded at once. Default 256.
        image_batch: images drawn, encoded and tagged at once. Default 16.
        keep_images: keep the pictures too, in tar shards: ``True`` or ``'png'`` to
            the pixel, ``'jpg'`` smaller (features and tags are then those of the
            compressed picture). Default ``False``: features only.
        limit: the first captions only; another view of the same store,
            ``STORE/firstN.json``. Default ``None``: all.
        device: torch device. Default: the current GPU, or the CPU.

    Raises:
        UserError: for a setting out of its range; named.
    """

    def __init__(
        self,
        store: Name,
        captions: Data,
        encoder: Model,
        generator: Model | None = None,
        images_per_caption: Count = 1,
        tag_provider: Model | None = None,
        refine: Refining | None = None,
        tokenizer: Annotated[dict, Component(TOKENIZERS, key="kind")] | None = {"kind": "train"},  # noqa: B006 - never changed
        holdout: Part = 0.02,
        seed: Seed = 0,
        shard_size: Count = 1024,
        text_batch: Count = 256,
        image_batch: Count = 16,
        keep_images: bool | Literal["png", "jpg"] = False,
        limit: Count | None = None,
        device: Device | None = None,
        other_encoders: OtherEncoders | None = None,
    ) -> None:
        self.store = Path(store)
        self.view = view_file(store, limit)
        self.per_caption, self.seed, self.holdout, self.limit = images_per_caption, seed, holdout, limit
        self.shard_size, self.text_batch, self.image_batch = shard_size, text_batch, image_batch
        self.picture_format = "png" if keep_images is True else keep_images or None
        self.captions_cfg, self.encoder_cfg, self.generator_cfg = captions, encoder, generator
        self.other_encoders = dict(other_encoders or {})
        with_tags = generator is not None and tag_provider is not None
        self.tag_provider_cfg = filled_in(tag_provider, encoder=encoder) if with_tags else None
        self.refine_cfg = refine if generator is not None else None
        self.tokenizer_cfg = tokenizer
        self.device = torch.device(device) if device else default_device()
        tag_provider = tag_provider if with_tags else None
        self.models = BuiltModels(encoder, generator, tag_provider, self.device, self.other_encoders)
        self._check()

    def _check(self) -> None:
        if self.retrieves and self.picture_format is not None:
            raise UserError(
                "synthesis.keep_images keeps what a generator draws; a retrieved photo is in its pool already: "
                "set keep_images=False"
            )
        k = (self.generator_cfg or {}).get("k")
        if self.retrieves and k is not None and k != self.per_caption:
            raise UserError(
                f"synthesis.generator.k={k} is another number of images for each caption than "
                f"synthesis.images_per_caption={self.per_caption}: set images_per_caption={k} and leave k out"
            )
        for option, name in self._choosers.items():
            if name not in self.other_encoders:
                raise UserError(
                    f"synthesis.generator.{option}={name!r} is none of synthesis.other_encoders "
                    f"({listed(self.other_encoders) or 'there are none'})"
                )

    @cached_property
    def retrieves(self) -> bool:
        """Whether images are found in a pool instead of drawn."""
        return self.generator_cfg is not None and getattr(MODELS.get(self.generator_cfg["type"]), "retrieves", False)

    @cached_property
    def _choosers(self) -> dict[str, str]:
        """The encoders beside the store's own that choose a pool's photos, by the generator's options."""
        named = {name: (self.generator_cfg or {}).get(name) for name in ("encoder", "heldout_encoder")}
        return {option: name for option, name in named.items() if self.retrieves and isinstance(name, str)}

    # ---- what there is to make
    @cached_property
    def captions(self) -> list[Any]:
        """The captions."""
        captions = DATASETS.build(self.captions_cfg).read()[: self.limit]
        if not captions:
            raise UserError("the caption source holds no captions")
        groups = {caption.group or caption.id for caption in captions}
        if self.holdout and self.limit is None and len(groups) == 1:
            raise UserError(
                f"the captions ({len(captions)}) are of one group, {listed(groups)}, so that none can be held out for "
                "validation: give captions of two groups, or set synthesis.holdout=0 and validate on photos"
            )
        return captions

    @cached_property
    def pool(self) -> Any:
        """The photos among which images are found."""
        return DATASETS.build(self.generator_cfg["pool"])

    @cached_property
    def recipes(self) -> dict[str, dict[str, Any]]:
        """Name → recipe of the tables that the settings ask for; no caption is read for it."""
        encoders = {f"/{name}": component_recipe(one) for name, one in self.other_encoders.items()}
        encoders = {"": component_recipe(self.encoder_cfg), **encoders}
        recipes: dict[str, dict[str, Any]] = {"texts": {}}
        recipes |= {f"text_features{name}": {"encoder": encoder} for name, encoder in encoders.items()}
        recipes["heldout"] = {"share": self.holdout, "seed": self.seed}
        if self.tokenizer_cfg is not None:
            recipes["tokenizer"] = {"settings": settings_recipe(self.tokenizer_cfg), "heldout": recipes["heldout"]}
        if self.generator_cfg is None:
            return recipes
        how = {"generator": component_recipe(self.generator_cfg, "pool", "k", *self._choosers), "seed": self.seed,
               "images_per_caption": self.per_caption}  # fmt: skip
        pictures: dict[str, Any] = {"photos": "by content"} if self.retrieves else dict(how)
        if self.picture_format is not None:
            recipes["pictures"] = {"pictures": dict(pictures), "format": self.picture_format}
            if self.picture_format == "jpg":  # encoder and tagger see the compressed picture
                pictures["kept_as"] = "jpg"
        recipes["images"] = {"of": "photos" if self.retrieves else f"{self.per_caption} a caption"}
        for name, encoder in encoders.items():
            recipes[f"image_features{name}"] = {"encoder": encoder, "pictures": pictures}
        if self.tag_provider_cfg is not None:
            recipes["tags"] = {"tag_provider": component_recipe(self.tag_provider_cfg), "pictures": pictures}
        features = {name: recipes[name] for name in ("text_features", "image_features")}
        recipes["pairs/default"] = {**how, **features}
        for option, name in self._choosers.items():
            recipes["pairs/default"][option] = {kind: recipes[f"{kind}/{name}"] for kind in features}
        if "heldout_encoder" in self._choosers:
            recipes["pairs/default"]["heldout"] = recipes["heldout"]
        if self.refine_cfg is not None:
            recipes["refined/default"] = {
                "settings": settings_recipe(self.refine_cfg),
                "pairs": recipes["pairs/default"],
                "heldout": recipes["heldout"],
            }
        return {name: {"table": name.partition("/")[0], **recipe} for name, recipe in recipes.items()}

    @cached_property
    def spans(self) -> list[range]:
        """Captions of each shard."""
        return shard_spans(len(self.captions), self.shard_size)

    @cached_property
    def text_keys(self) -> list[str]:
        """Keys of the captions' shards."""
        return [key_of([list(caption) for caption in self._captions_of(shard)]) for shard in range(len(self.spans))]

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Name → table."""
        texts = self.text_keys
        whole = [key_of(texts)]
        images, pairs = texts, texts
        if self.retrieves:
            cache = HashCache(self.store / "tables" / ".hashes.json")
            pool_spans = shard_spans(len(self.pool), self.shard_size)
            images = photo_keys(self.pool, self.generator_cfg["pool"], pool_spans, cache)
            of_all = whole if "heldout_encoder" in self._choosers else []  # which are held out depends on all
            pairs = [key_of(text, images, *of_all) for text in texts]
        keys = {
            **{"texts": texts, "text_features": texts, "heldout": whole, "tokenizer": whole},
            **{"images": images, "image_features": images, "tags": images, "pictures": images},
            **{"pairs": pairs, "refined": [key_of(pair, pairs) for pair in pairs]},
        }
        reads = {
            "text_features": ["texts"],
            "heldout": ["texts"],
            "tokenizer": ["texts", "heldout"],
            "pairs": ["text_features", "image_features", *self._chosen_by()],
            "refined": ["pairs/default", "heldout"],
        }
        tables: dict[str, Table] = {}
        for name, recipe in self.recipes.items():
            kind = name.partition("/")[0]
            suffix = ".json" if name == "tokenizer" else ".arrow"
            inputs = [tables[other] for other in reads.get(kind, ()) if other in tables]
            tables[name] = Table(self.store, kind, recipe, keys[kind], inputs, suffix)
        return tables

    def _features(self, kind: str) -> dict[str, Table]:
        """Tables of features, by name: ``'text'`` or ``'image'``, one an encoder."""
        return {name: table for name, table in self.tables.items() if name.startswith(f"{kind}_features")}

    def _chosen_by(self) -> list[str]:
        """Tables that a pool's photos are chosen by beside the features of the store's own encoder."""
        names = [f"{kind}_features/{name}" for name in self._choosers.values() for kind in ("text", "image")]
        return [*names, "heldout"] if "heldout_encoder" in self._choosers else names

    # ---- how it is made
    def stages(self, only: str | None = None) -> list[Stage]:
        """The stages, in their order.

        Args:
            only: a single stage: ``'text'`` (captions and tokenizer), ``'images'``
                (pictures, their features, pairs; their tags too, unless the pictures
                are at hand later), ``'tags'`` (of kept pictures, or of a pool's photos) or
                ``'refine'``. Default ``None``: all that the settings ask for.

        Raises:
            UserError: if ``only`` names a stage that the settings do not ask for.
        """
        self._check_only(only)
        stages = []
        if only in (None, "text"):
            stages += self._text_stages()
        if self.generator_cfg is not None and only in (None, "images", "tags"):
            wanted = ["images", *self._features("image"), "pictures", "tags"]
            if only == "tags":
                wanted = ["tags"]
            elif only == "images" and (self.retrieves or self.picture_format is not None):
                wanted.remove("tags")
            stage = self._image_stage(only or "images", {n: self.tables[n] for n in wanted if n in self.tables})
            if only == "tags" and not self.retrieves:  # it would draw pictures that nobody keeps
                stage.reads = [self.tables.get("pictures", self.tables["image_features"])]
            stages.append(stage)
        if self.generator_cfg is not None and only in (None, "images"):
            stages.append(self._pair_stage())
        if self.refine_cfg is not None and only in (None, "refine"):
            stages.append(self._refine_stage())
        return stages

    def _check_only(self, only: str | None) -> None:
        if only is None:
            return
        if only not in STAGES:
            raise UserError(f"--only is one of {', '.join(STAGES)}, not {only!r}")
        needed = {"text": (), "images": ("generator",), "tags": ("generator", "tag_provider")}.get(
            only, ("generator", "refine")
        )
        for setting in needed:
            if getattr(self, f"{setting}_cfg") is None:
                raise UserError(f"the stage {only!r} has nothing to do: synthesis.{setting} is not set")

    def _text_stages(self) -> list[Stage]:
        tables, features = self.tables, self._features("text")
        encoder_for = lambda name: self.models.encoder_for(name, features[name])  # noqa: E731
        stages: list[Stage] = [
            TextStage(tables["texts"], features, self.captions, self.spans, encoder_for, self.text_batch),
            SmallStage("held out", tables["heldout"], lambda: heldout_rows(self._heldout)),
        ]
        if "tokenizer" in tables:
            stages.append(SmallStage("tokenizer", tables["tokenizer"], self._make_tokenizer))
        return stages

    @cached_property
    def _heldout(self) -> Any:
        return held_out([c.group or c.id for c in self.captions], self.holdout, self.seed)

    def _make_tokenizer(self) -> bytes:
        training = [c.text for c, out in zip(self.captions, self._heldout) if not out]
        return make_tokenizer(captions=training, **self.tokenizer_cfg).to_str(pretty=False).encode()

    def _image_stage(self, name: str, tables: Mapping[str, Table]) -> ImageStage:
        features = {"image_features": self.tables["image_features"]}
        features |= {name: table for name, table in self._features("image").items() if name in tables}
        common = {"reader": lambda: self.models.reader_for(features), "batch_size": self.image_batch,
                  "device": self.device}  # fmt: skip
        if self.retrieves:
            spans = shard_spans(len(self.pool), self.shard_size)
            rows_of = lambda shard: [ImageRow(self.pool.keys[i], i) for i in spans[shard]]  # noqa: E731
            load = lambda rows: load_photos(self.pool, rows)  # noqa: E731
            return ImageStage(name, tables, [len(span) for span in spans], rows_of, load, **common)
        return ImageStage(
            name,
            tables,
            [len(span) * self.per_caption for span in self.spans],
            self._rows_to_draw,
            lambda rows: draw(self.models.generator, rows),
            picture_format=self.picture_format,
            kept=self.tables.get("pictures"),
            earlier=lambda: self._earlier_rows(tables),
            **common,
        )

    def _earlier_rows(self, tables: Mapping[str, Table]) -> EarlierRows:
        drawn = {name: table for name, table in tables.items() if name != "images"}
        return EarlierRows(self.tables["texts"], drawn, self._captions_of, self.per_caption)

    def _captions_of(self, shard: int) -> list[Any]:
        return self.captions[self.spans[shard].start : self.spans[shard].stop]

    def _rows_to_draw(self, shard: int) -> list[ImageRow]:
        return [
            ImageRow(f"{c.id}/{j}", (c.text, seed_of(self.seed, c.id, j)), c.text)
            for c in self._captions_of(shard)
            for j in range(self.per_caption)
        ]

    def _pair_stage(self) -> Stage:
        pairs, text, image = (self.tables[n] for n in ("pairs/default", "text_features", "image_features"))
        seeds = lambda caption_id, j: seed_of(self.seed, caption_id, j)  # noqa: E731
        arguments = (pairs, text, image, self.captions, self.spans, self.per_caption, seeds)
        if not self.retrieves:
            return DrawnPairs(*arguments)
        suffix = {option: f"/{name}" for option, name in self._choosers.items()}
        trained = suffix.get("encoder", "")
        chosen_by = tuple(
            (self.tables[f"text_features{by}"], self.tables[f"image_features{by}"])
            for by in (trained, suffix.get("heldout_encoder", trained))
        )
        heldout = self.tables["heldout"] if "heldout_encoder" in suffix else None
        return RetrievedPairs(
            *arguments,
            generator=lambda: self.models.generator,
            device=self.device,
            chosen_by=chosen_by,
            heldout=heldout,
        )

    def _refine_stage(self) -> RefineStage:
        names = ("refined/default", "pairs/default", "texts", "text_features", "image_features", "heldout")
        return RefineStage(
            *(self.tables[name] for name in names),
            spans=self.spans,
            settings=self.refine_cfg,
            seed=self.seed,
            device=self.device,
        )

    # ---- the run
    def run(self, only: str | None = None, worker: Worker | None = None, redraw: bool = False) -> dict[str, int]:
        """Make what is missing, and the view once all is there.

        Args:
            only: see :meth:`stages`. Default ``None``: all.
            worker: whose share is made. Default: this process's.
            redraw: draw pictures again that were drawn by other settings, or were not kept. Default ``False``.

        Returns:
            Counts: ``captions``, ``images``, ``shards_made`` (here), ``shards_reused``, ``flagged``, ``truncated``.

        Raises:
            NotYet: if a stage needs what other tasks have not made yet.
            UserError: if pictures would be drawn again, or ``only`` names a stage that the settings do not ask for.
        """
        stages = self.stages(only)
        for table in self.tables.values():
            if damaged := table.clean():
                print_log(
                    f"{len(damaged)} damaged shard(s) of {table.folder} are made anew", logger="current", level=30
                )
        if not redraw:
            for stage in stages:
                if isinstance(stage, ImageStage) and not self.retrieves:
                    self._refuse_to_redraw(stage)
        made = run_stages(stages, worker or Worker.of_this_process())
        counts = {"shards_made": made, "shards_reused": sum(len(stage.sizes) for stage in stages) - made}
        return {**self.finish(), **counts}

    def _refuse_to_redraw(self, stage: ImageStage) -> None:
        """Refuse to draw pictures of captions that were drawn for before, by these settings or others."""
        texts, features = self.tables["texts"], self._features("image").values()
        # Listed first: what another worker finishes meanwhile is not missing for it.
        listed = {folder: names_in(folder) for folder in sorted(self.store.glob("tables/image_features-*"))}
        to_draw = self._captions_to_draw(stage) if listed else set()
        lines, again = [], set()
        for folder, names in listed.items() if to_draw else ():
            drawn = {c for name in names & names_in(texts.folder) for c in captions_in(texts, name)} & to_draw
            if not drawn or "recipe.json" not in names:
                continue
            recipe = read_recipe(folder)
            if "generator" in recipe["pictures"]:
                again |= drawn
                lacking = [name for name, table in stage.tables_by_name.items() if table.missing()]
                lines += min((differences(recipe, table.recipe) for table in features), key=len) or [
                    f"{', '.join(lacking)} is missing, and the pictures were not kept"
                ]
        if again:
            raise UserError(
                f"{len(again) * self.per_caption} pictures of the store {self.store} would have to be drawn again:\n  "
                + "\n  ".join(dict.fromkeys(lines))
                + "\nWith --redraw they are; what is there stays beside it. Or give the config its old settings."
            )

    def _captions_to_draw(self, stage: ImageStage) -> set[tuple[str, str]]:
        """Id and text of the captions whose pictures are neither kept nor to be copied."""
        kept, earlier = self.tables.get("pictures"), self._earlier_rows(stage.tables_by_name)
        found = set()
        for shard in stage.missing():
            if self._was_damaged(shard) or (kept is not None and kept.path(shard).exists()):
                continue
            copied = earlier.of(shard)
            captions = enumerate(self._captions_of(shard))
            found |= {(caption.id, caption.text) for i, caption in captions if i * self.per_caption not in copied}
        return found

    def _was_damaged(self, shard: int) -> bool:
        """Whether a shard of the images was moved away: making it anew needs no leave."""
        names = (*self._features("image"), "tags", "pictures")
        paths = [self.tables[name].path(shard) for name in names if name in self.tables]
        return any(path.with_name(f"{path.name}.damaged").exists() for path in paths)

    def finish(self) -> dict[str, int]:
        """Write the view if all tables are whole; returns counts of what there is, and says it."""
        counts = {"captions": len(self.captions), "images": 0, "flagged": 0, "truncated": 0}
        left = [name for name, table in self.tables.items() if table.missing()]
        for name, facts in (("text_features", ("truncated",)), ("image_features", ("flagged",))):
            table = self.tables.get(name)
            for shard in () if table is None or name in left else range(len(table)):
                for fact in facts:
                    counts[fact] += facts_of(table.path(shard))[fact]
        if "image_features" in self.tables and "image_features" not in left:
            counts["images"] = len(self.tables["image_features"].read())
        if left:
            print_log(f"the store {self.view} is not finished: still to make: {', '.join(left)}", logger="current")
            return counts
        gone = write_view(self.view, "pairs", self.tables, *fingerprints_in(self.tables))
        print_log(f"the store {self.view} is complete", logger="current")
        if gone:
            print_log(
                f"{', '.join(gone)} was made of what has changed, and is not in the store any more: run `curate` again",
                logger="current",
                level=30,
            )
        if counts["truncated"]:
            print_log(
                f"{counts['truncated']} of {counts['captions']} captions are longer than the encoder's context; "
                "their ends do not count in their features",
                logger="current",
                level=30,
            )
        if counts["flagged"]:
            print_log(
                f"{counts['flagged']} of {counts['images']} images are flagged (black, uniform, undecodable or not "
                "finite) and will not be served; Store.open(...).flagged() names them",
                logger="current",
                level=30,
            )
        return counts
