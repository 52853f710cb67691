"""Real photos into the tables of a store, encoded and tagged once."""

from __future__ import annotations

import datetime
import functools
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_dist_info

from synthcap_mm.pairs.factory import (
    build_encoder,
    build_tag_provider,
    default_device,
    load_photos,
    only_job,
    shard_spans,
    versions_for_all,
)
from synthcap_mm.pairs.image_reader import ImageReader
from synthcap_mm.pairs.image_shards import ImageRow, ImageShards
from synthcap_mm.pairs.progress import Progress, meet
from synthcap_mm.registry import DATASETS
from synthcap_mm.stores import StoreWriter
from synthcap_mm.stores.schema import captions_table
from synthcap_mm.version import __version__


def encode_photos(
    store: str,
    photos: dict,
    encoder: dict,
    tag_provider: dict | None = None,
    shard_size: int = 1024,
    image_batch: int = 16,
    device: str | torch.device | None = None,
) -> dict[str, int]:
    """Encode and tag real photos once, so that every evaluation costs decoding only.

    Args:
        store: folder of the store to make.
        photos: config of a photo source; its references go into the store.
        encoder: config of a backbone.
        tag_provider: config of a tag provider, or ``None``. Default ``None``.
        shard_size: photos in a shard. Default 1024.
        image_batch: photos encoded and tagged at once. Default 16.
        device: torch device. Default: the current GPU, or the CPU.

    Returns:
        Counts: ``photos``, ``flagged``, ``shards_made``, ``shards_reused``.

    Raises:
        StoreError: if the folder holds a store with other settings, another job is at
            work on it, or it cannot be written.
    """
    for name, value in (("shard_size", shard_size), ("image_batch", image_batch)):
        if value < 1:
            raise ValueError(f"photo_stores.{name} must be at least 1, got {value}")
    device = torch.device(device) if device else default_device()
    source = DATASETS.build(photos)
    with only_job(Path(store)):
        backbone = build_encoder(encoder, device)
        tagger = build_tag_provider(tag_provider, device)
        return _encode(Path(store), source, backbone, tagger, shard_size, image_batch, device)


def _encode(
    store: Path,
    source: Any,
    backbone: torch.nn.Module,
    tagger: Any | None,
    shard_size: int,
    image_batch: int,
    device: torch.device,
) -> dict[str, int]:
    rank, world = get_dist_info()
    header = {
        "kind": "photos",
        "embed_dim": backbone.embed_dim,
        "encoder": backbone.fingerprint(),
        "photos": {"count": len(source), "sha256": source.sha256()},
        "shard_size": shard_size,
        "tag_provider": None if tagger is None else tagger.provenance(),
    }
    domain_of = getattr(source, "domain", None)  # a source of one's own may have none
    domains: dict[str, list[int]] = {}
    for i in range(len(source) if domain_of else 0):
        if (domain := domain_of(i)) is not None:
            domains.setdefault(domain, []).append(i)
    if domains:
        header["domains"] = domains
    meet()  # all have their models
    writer = StoreWriter(store, header, versions_for_all(device))
    meet()
    if rank == 0:
        writer.begin(datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), __version__)
    meet()
    spans = shard_spans(len(source), shard_size)
    # A photo that could not be read may have been mended since: its shard is tried again.
    records = [writer.record("images", i) for i in range(len(spans))]
    missing = [i for i, r in enumerate(records) if r is None or r["flagged"]]
    meet()
    with Progress("photos", len(source), len(source) - sum(len(spans[i]) for i in missing), "photos") as bar:
        maker = ImageShards(writer, ImageReader(backbone, tagger), bar, image_batch, device=device)
        maker.make(
            missing[rank::world],
            lambda shard: [ImageRow(source.keys[i], i) for i in spans[shard]],
            functools.partial(load_photos, source),
        )
    made = {"shards_made": len(missing), "shards_reused": len(spans) - len(missing)}
    result = {"photos": len(source), **made, "flagged": 0}
    if rank == 0:
        references = [
            (f"{k}#{j}", text, k) for i, k in enumerate(source.keys) for j, text in enumerate(source.references(i))
        ]
        tables = {"images": len(spans)}
        if references:
            tables["captions"] = 1
            ids, texts, groups = zip(*references)
            writer.write("captions", 0, captions_table(ids, texts, groups, [False] * len(ids), None))
        records = writer.finish(tables)
        result["flagged"] = sum(r["flagged"] for r in records["images"]["shards"])
    meet()
    return result
