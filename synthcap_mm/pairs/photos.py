"""Real photos into the tables of a store, encoded and tagged once."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.logging import print_log

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
from synthcap_mm.stores.store import read_manifest
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

    Run again, it makes the shards anew that are missing or damaged, that have a photo that
    could not be read, and those of whose files one has other bytes than when they were encoded
    (each run reads all files for it; a source of another kind than files is compared as a whole).

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


def _digests(source: Any, spans: Sequence[range]) -> list[str]:
    """What the photos' files of each shard hold; the ranks share out the reading."""
    rank, world = get_dist_info()
    mine = [source.files_sha256(span) for span in spans[rank::world]]
    meet()
    found = all_gather_object(mine)
    return [found[i % world][i // world] for i in range(len(spans))]


def _photos_of(store: Path) -> dict[str, Any] | None:
    """What the manifest that is there says of its photos, if there is one."""
    file = store / "manifest.json"
    return read_manifest(file).get("photos") if file.is_file() else None


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
    spans = shard_spans(len(source), shard_size)
    has_files = hasattr(source, "files_sha256")
    header = {
        "kind": "photos",
        "embed_dim": backbone.embed_dim,
        "encoder": backbone.fingerprint(),
        "photos": {"count": len(source), "sha256": source.listing_sha256() if has_files else source.sha256()},
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
    digests = _digests(source, spans) if has_files else [None] * len(spans)
    # Stores of the first landing compared all photos by their sizes, and their shards did not say of what they were.
    by_size = {"count": len(source), "sha256": source.sha256()}
    known_by_size = has_files and _photos_of(store) == by_size
    meet()  # all have their models
    writer = StoreWriter(store, header, versions_for_all(device), replaces=["photos"] if known_by_size else [])
    if known_by_size:
        for i, digest in enumerate(digests):
            writer.set_default("images", i, photos_sha256=digest)
    meet()
    if rank == 0:
        writer.begin(datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), __version__)
    meet()
    records = [writer.record("images", i) for i in range(len(spans))]
    changed = [i for i, r in enumerate(records) if r is not None and r.get("photos_sha256") != digests[i]]
    if changed:
        first = spans[changed[0]]
        print_log(
            f"{len(changed)} of {len(spans)} shards of {store} are of photos whose files have changed since, and are "
            f"made anew, the first: {source.keys[first[0]]} … {source.keys[first[-1]]}",
            logger="current",
        )
    # A photo that could not be read may have been mended since: its shard is tried again.
    missing = [i for i, r in enumerate(records) if r is None or r["flagged"] or i in changed]
    meet()
    with Progress("photos", len(source), len(source) - sum(len(spans[i]) for i in missing), "photos") as bar:
        maker = ImageShards(
            writer,
            ImageReader(backbone, tagger),
            bar,
            image_batch,
            device=device,
            info_of=lambda shard: {"photos_sha256": digests[shard]} if has_files else {},
        )
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
