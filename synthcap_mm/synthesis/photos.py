"""A store of the photos of a validation or test set, encoded and tagged once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from synthcap_mm.files import HashCache
from synthcap_mm.options import Count, Data, Device, Model, Name, OtherEncoders, check_when_built
from synthcap_mm.registry import DATASETS, filled_in
from synthcap_mm.store import Table
from synthcap_mm.store.recipes import component_recipe
from synthcap_mm.store.schema import texts_rows
from synthcap_mm.store.store import view_file, write_view
from synthcap_mm.store.tables import facts_of, key_of
from synthcap_mm.synthesis.encoding import BuiltModels, default_device, fingerprints_in
from synthcap_mm.synthesis.images import ImageRow, ImageStage, load_photos
from synthcap_mm.synthesis.run import Stage, Worker, run_stages
from synthcap_mm.synthesis.synthesis import photo_keys, shard_spans
from synthcap_mm.synthesis.text import SmallStage

#: What an entry of ``photo_stores`` has from ``synthesis`` unless it says otherwise.
SHARED = ("encoder", "other_encoders", "tag_provider")


@check_when_built
class PhotoStore:
    """Encodes and tags real photos once, so that every evaluation costs decoding only.

    A photo whose file changes costs its shard.

    Args:
        store: folder of the store to make.
        photos: config of a photo source; its references go into the store.
        encoder: config of a backbone.
        tag_provider: config of a tag provider, or ``None``; one that needs an encoder has ``encoder`` unless it names
            another. Default ``None``.
        other_encoders: see :class:`~synthcap_mm.synthesis.synthesis.Synthesis`. Default ``None``.
        shard_size: photos in a shard. Default 1024.
        image_batch: photos encoded and tagged at once. Default 16.
        device: torch device. Default: the current GPU, or the CPU.

    Raises:
        UserError: for a setting out of its range; named.
    """

    def __init__(
        self,
        store: Name,
        photos: Data,
        encoder: Model,
        tag_provider: Model | None = None,
        shard_size: Count = 1024,
        image_batch: Count = 16,
        device: Device | None = None,
        other_encoders: OtherEncoders | None = None,
    ) -> None:
        self.store, self.view = Path(store), view_file(store)
        self.photos_cfg, self.encoder_cfg, self.other_encoders = photos, encoder, dict(other_encoders or {})
        self.tag_provider_cfg = None if tag_provider is None else filled_in(tag_provider, encoder=encoder)
        self.shard_size, self.image_batch = shard_size, image_batch
        self.device = torch.device(device) if device else default_device()
        self.models = BuiltModels(encoder, None, tag_provider, self.device, self.other_encoders)

    @cached_property
    def photos(self) -> Any:
        """The source."""
        return DATASETS.build(self.photos_cfg)

    @cached_property
    def _references(self) -> list[tuple[str, str, str]]:
        """Id, text and photo of each reference caption."""
        keys = self.photos.keys
        return [(f"{key}#{j}", t, key) for i, key in enumerate(keys) for j, t in enumerate(self.photos.references(i))]

    @cached_property
    def recipes(self) -> dict[str, dict[str, Any]]:
        """Name → recipe."""
        pictures = {"photos": "by content"}
        recipes: dict[str, dict[str, Any]] = {
            "images": {"of": "photos"},
            "image_features": {"encoder": component_recipe(self.encoder_cfg), "pictures": pictures},
        }
        for name, encoder in self.other_encoders.items():
            recipes[f"image_features/{name}"] = {"encoder": component_recipe(encoder), "pictures": pictures}
        if self.tag_provider_cfg is not None:
            recipes["tags"] = {"tag_provider": component_recipe(self.tag_provider_cfg), "pictures": pictures}
        return {name: {"table": name.partition("/")[0], **recipe} for name, recipe in recipes.items()}

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Name → table."""
        cache = HashCache(self.store / "tables" / ".hashes.json")
        keys = photo_keys(self.photos, self.photos_cfg, shard_spans(len(self.photos), self.shard_size), cache)
        recipes = self.recipes.items()
        tables = {name: Table(self.store, name.partition("/")[0], recipe, keys) for name, recipe in recipes}
        if self._references:
            tables["texts"] = Table(self.store, "texts", {}, [key_of([list(row) for row in self._references])])
        return tables

    def stages(self) -> list[Stage]:
        """The stages, in their order."""
        photos, spans = self.photos, shard_spans(len(self.photos), self.shard_size)
        keys, domain = photos.keys, getattr(photos, "domain", lambda index: None)
        tables = {name: table for name, table in self.tables.items() if name != "texts"}
        features = {name: table for name, table in tables.items() if name.startswith("image_features")}
        stages: list[Stage] = [
            ImageStage(
                "photos",
                tables,
                [len(span) for span in spans],
                lambda shard: [ImageRow(keys[i], i, domain=domain(i)) for i in spans[shard]],
                lambda rows: load_photos(photos, rows),
                lambda: self.models.reader_for(features),
                self.image_batch,
                device=self.device,
            )
        ]
        if "texts" in self.tables:
            stages.append(SmallStage("references", self.tables["texts"], lambda: texts_rows(*zip(*self._references))))
        return stages

    def run(self, worker: Worker | None = None) -> dict[str, int]:
        """Make what is missing, and the view once all is there.

        Args:
            worker: whose share is made. Default: this process's.

        Returns:
            Counts: ``photos``, ``flagged``, ``shards_made``, ``shards_reused``.
        """
        for table in self.tables.values():
            table.clean()
        stages = self.stages()
        made = run_stages(stages, worker or Worker.of_this_process())
        features = self.tables["image_features"]
        counts = {"photos": len(self.photos), "flagged": 0, "shards_made": made}
        counts["shards_reused"] = sum(len(stage.sizes) for stage in stages) - made
        if left := [name for name, table in self.tables.items() if table.missing()]:
            print_log(f"the store {self.view} is not finished: still to make: {', '.join(left)}", logger="current")
            return counts
        counts["flagged"] = sum(facts_of(features.path(shard))["flagged"] for shard in range(len(features)))
        write_view(self.view, "photos", self.tables, *fingerprints_in(self.tables))
        if counts["flagged"]:
            print_log(
                f"{counts['flagged']} of {counts['photos']} photos of {self.store} do not decode or show nothing",
                logger="current",
                level=30,
            )
        return counts
