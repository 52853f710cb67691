"""The synthesize loop: captions in, a store of pairs out; and real photos into the same tables.

Work is cut into shards, shared out over ranks. A shard that is there and whole
is not made again, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce_dict, barrier, get_dist_info
from mmengine.logging import print_log
from PIL.Image import Image

from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.stores import Store, StoreError, StoreWriter, write_atomically
from synthcap_mm.stores.fingerprint import same_encoder
from synthcap_mm.stores.schema import captions_table, images_table, pairs_table, refined_table
from synthcap_mm.stores.shards import file_sha256
from synthcap_mm.structures import Tag, group_id
from synthcap_mm.tokenization import make_tokenizer
from synthcap_mm.version import __version__

#: Below this standard deviation of its pixels (0 to 255) an image shows nothing.
UNIFORM_STD = 2.0


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


def image_flags(image: Image) -> list[str]:
    """``['black']``, ``['uniform']`` or nothing: pictures that show nothing are no use in training."""
    pixels = np.asarray(image.convert("L").resize((64, 64)), np.float32)
    if pixels.std() >= UNIFORM_STD:
        return []
    return ["black"] if pixels.mean() < 8 else ["uniform"]


def _by_content(value: Any) -> Any:
    """Settings as a manifest may hold them: files by name and checksum, so that a store can be moved."""
    if isinstance(value, dict):
        return {k: v if k == "kind" else _by_content(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_by_content(v) for v in value]
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).exists()):
        path = Path(value)
        return {"file": path.name, "sha256": file_sha256(path)} if path.is_file() else path.name
    return value


class _Bar:
    """A bar on the main rank's terminal, and lines in the log where there is none."""

    def __init__(self, title: str, total: int, reused: int, unit: str) -> None:
        from tqdm import tqdm

        rank, _ = get_dist_info()
        self._bar = tqdm(total=total, initial=reused, desc=title, unit=unit, disable=None if rank == 0 else True)
        self.title, self.total, self.reused, self.made = title, total, reused, 0

    def update(self, count: int) -> None:
        self.made += count
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()
        print_log(f"{self.title}: {self.made} made, {self.reused} reused, of {self.total}", logger="current")


class _ImageReader:
    """Image → feature, tags, flags; for drawn, retrieved and real images alike."""

    def __init__(self, encoder: torch.nn.Module, tag_provider: Any | None, batch_size: int) -> None:
        self.encoder = encoder
        self.tag_provider = tag_provider
        self.batch_size = batch_size
        # A zero-shot provider on the same encoder needs no second encoding.
        own = getattr(tag_provider, "encoder", None)
        self._by_feature = (
            own is not None
            and hasattr(tag_provider, "detect_features")
            and same_encoder(own.fingerprint(), encoder.fingerprint())
        )

    def __call__(self, images: Sequence[Image | None]) -> tuple[np.ndarray, list[list[Tag]], list[list[str]]]:
        """Features ``(N, D)`` float32, tags and flags of N images; ``None`` is one that does not decode."""
        there = [i for i, image in enumerate(images) if image is not None]
        features = np.zeros((len(images), self.encoder.embed_dim), np.float32)
        tags: list[list[Tag]] = [[] for _ in images]
        flags = [["undecodable"] if image is None else image_flags(image) for image in images]
        for start in range(0, len(there), self.batch_size):
            part = there[start : start + self.batch_size]
            pictures = [images[i] for i in part]
            feats = self.encoder.encode_pil(pictures)
            found: list[list[Tag]] = [[] for _ in part]
            if self.tag_provider is not None:
                found = (
                    self.tag_provider.detect_features(feats) if self._by_feature else self.tag_provider.detect(pictures)
                )
            feats = feats.float().cpu().numpy()
            for i, feature, tag in zip(part, feats, found):
                tags[i] = tag
                if np.isfinite(feature).all():
                    features[i] = feature
                else:
                    flags[i].append("non_finite")
        return features, tags, flags


def _default_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _build_encoder(cfg: dict, device: torch.device) -> torch.nn.Module:
    return MODELS.build(cfg).to(device)


def _build_tag_provider(cfg: dict | None, device: torch.device) -> Any | None:
    provider = None if cfg is None else MODELS.build(cfg)
    return provider.to(device) if hasattr(provider, "to") else provider


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
            assumed); ``None``: no refined features. Default ``None``.
        tokenizer: arguments of :func:`~synthcap_mm.tokenization.make_tokenizer`, or
            ``None``. Default ``dict(kind='train')``.
        holdout: share of the captions' groups held out for selection. Default 0.02.
        seed: base seed. Default 0.
        shard_size: captions (or photos of a pool) in a shard. Default 1024.
        text_batch: captions encoded at once. Default 256.
        image_batch: images drawn, encoded and tagged at once. Default 16.
        device: torch device. Default: the current GPU, or the CPU.
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
        device: str | torch.device | None = None,
    ) -> None:
        if not 0 <= holdout < 1:
            raise ValueError(f"synthesis.holdout is a share in [0, 1), got {holdout}")
        for name, value in (
            ("shard_size", shard_size),
            ("images_per_caption", images_per_caption),
            ("text_batch", text_batch),
            ("image_batch", image_batch),
        ):
            if value < 1:
                raise ValueError(f"synthesis.{name} must be at least 1, got {value}")
        self.store = Path(store)
        self.source = DATASETS.build(captions)
        self.encoder_cfg, self.generator_cfg, self.tag_provider_cfg = encoder, generator, tag_provider
        self.images_per_caption = images_per_caption
        self.refine_cfg = refine
        self.tokenizer_cfg = tokenizer
        self.holdout, self.seed, self.shard_size = holdout, seed, shard_size
        self.text_batch, self.image_batch = text_batch, image_batch
        self.device = torch.device(device) if device else _default_device()
        self.rank, self.world = get_dist_info()

    # ---- the run
    def run(self) -> dict[str, int]:
        """Make what is missing.

        Returns:
            Counts over all ranks: ``captions``, ``images``, ``shards_made``,
            ``shards_reused``, ``flagged``, ``truncated``.

        Raises:
            StoreError: if the folder holds a store with other settings.
        """
        captions = self.source.read()
        if not captions:
            raise ValueError("the caption source holds no captions")
        print_log(self.source.describe(), logger="current")
        groups = [c.group or c.id for c in captions]
        heldout = held_out(groups, self.holdout, self.seed)
        encoder = _build_encoder(self.encoder_cfg, self.device)
        generator = None if self.generator_cfg is None else MODELS.build(self.generator_cfg)
        if generator is not None and hasattr(generator, "to"):
            generator = generator.to(self.device)
        tagger = _build_tag_provider(self.tag_provider_cfg, self.device) if generator is not None else None
        reader = _ImageReader(encoder, tagger, self.image_batch)
        retrieves = bool(getattr(generator, "retrieves", False))
        pool = DATASETS.build(generator.pool) if retrieves else None
        refine = self.refine_cfg if generator is not None else None

        header = {
            "kind": "pairs",
            "embed_dim": encoder.embed_dim,
            "encoder": encoder.fingerprint(),
            "captions": {"count": len(captions), "sha256": _captions_sha256(captions)},
            "holdout": self.holdout,
            "seed": self.seed,
            "shard_size": self.shard_size,
            "images_per_caption": self.images_per_caption if generator is not None else 0,
            "generator": None if generator is None else generator.provenance(),
            "pool": None if pool is None else {"count": len(pool), "sha256": pool.sha256()},
            "tag_provider": None if tagger is None else tagger.provenance(),
            "refine": refine,
            "tokenizer_settings": _by_content(self.tokenizer_cfg),
        }
        writer = StoreWriter(self.store, header)
        if self.rank == 0:
            writer.begin(datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), __version__)
        barrier()

        shards = math.ceil(len(captions) / self.shard_size)
        spans = [(s * self.shard_size, min((s + 1) * self.shard_size, len(captions))) for s in range(shards)]
        totals = {"shards_made": 0, "shards_reused": 0}
        tables = {"captions": shards}

        def stage(table: str, count: int, sizes: Sequence[int], unit: str) -> Iterator[tuple[int, _Bar]]:
            """This rank's missing shards of a table; all ranks meet at the end."""
            # Every rank looks at the shards before any writes: all share out the same list.
            missing = [i for i in range(count) if writer.record(table, i) is None]
            barrier()
            totals["shards_reused"] += (count - len(missing)) * (self.rank == 0)
            bar = _Bar(table, sum(sizes), sum(sizes) - sum(sizes[i] for i in missing), unit)
            for i in missing[self.rank :: self.world]:
                yield i, bar
                totals["shards_made"] += 1
            bar.close()
            barrier()

        caption_sizes = [b - a for a, b in spans]
        # --- text
        for i, bar in stage("captions", shards, caption_sizes, "captions"):
            part = captions[slice(*spans[i])]
            feats = []
            for start in range(0, len(part), self.text_batch):
                texts = [c.text for c in part[start : start + self.text_batch]]
                feats.append(encoder.encode_text(texts).float().cpu().numpy())
                bar.update(len(texts))
            feats = np.concatenate(feats)
            bad = np.flatnonzero(~np.isfinite(feats).all(1))
            if len(bad):
                raise ValueError(
                    f"the encoder gives features that are not finite for {len(bad)} captions, the first: "
                    f"{part[bad[0]].id!r} ({part[bad[0]].text!r}); check its weights and precision"
                )
            table = captions_table(
                [c.id for c in part],
                [c.text for c in part],
                [c.group for c in part],
                heldout[slice(*spans[i])].tolist(),
                feats,
            )
            writer.write("captions", i, table, truncated=int(np.sum(encoder.is_too_long([c.text for c in part]))))
        entry = self._tokenizer(captions, heldout, writer.header.get("tokenizer"))

        # --- images and pairs
        if generator is not None and retrieves:
            tables["images"] = self._encode_pool(pool, reader, writer, stage)
            images = _table(writer, "images", range(tables["images"]))
            # Flagged photos would be found, and then left out of the dataset with the captions that found them.
            usable = np.flatnonzero(~images.is_set("flags"))
            if len(usable) < self.images_per_caption:
                raise ValueError(
                    f"the pool has {len(usable)} usable photos of {len(pool)}; "
                    f"synthesis.images_per_caption is {self.images_per_caption}"
                )
            generator.set_pool(torch.from_numpy(images.features(usable)).to(self.device))
            tables["pairs/default"] = shards
            for i, bar in stage("pairs/default", shards, caption_sizes, "captions"):
                self._retrieve(writer, generator, usable, captions, spans[i], i, bar)
        elif generator is not None:
            tables["images"] = tables["pairs/default"] = shards
            sizes = [n * self.images_per_caption for n in caption_sizes]
            for i, bar in stage("images", shards, sizes, "images"):
                self._draw(writer, generator, reader, captions[slice(*spans[i])], i, bar)
            for i, bar in stage("pairs/default", shards, caption_sizes, "captions"):
                self._pair_drawn(writer, captions, spans[i], i)
                bar.update(caption_sizes[i])
        # --- refine
        if refine is not None:
            tables["refined/default"] = shards
            bank: list[Any] = []
            for i, bar in stage("refined/default", shards, caption_sizes, "captions"):
                if not bank:
                    bank.append(
                        _NegativeBank(writer, tables, captions, refine.get("bank_size", 4096), self.seed, self.device)
                    )
                self._refine(writer, bank[0], refine, i)
                bar.update(caption_sizes[i])

        if self.rank == 0:
            records = writer.finish(tables, tokenizer=entry)
            totals["captions"] = len(captions)
            totals["images"] = sum(r["rows"] for r in records.get("images", {"shards": []})["shards"])
            totals["flagged"] = sum(r["flagged"] for r in records.get("images", {"shards": []})["shards"])
            totals["truncated"] = sum(r["truncated"] for r in records["captions"]["shards"])
        barrier()
        return self._summary(totals)

    def _summary(self, totals: dict[str, int]) -> dict[str, int]:
        names = ("captions", "images", "shards_made", "shards_reused", "flagged", "truncated")
        counts = {n: torch.tensor(totals.get(n, 0)) for n in names}
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
    def _tokenizer(
        self, captions: Sequence[Any], heldout: np.ndarray, known: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        if self.tokenizer_cfg is None:
            return None
        path = self.store / "tokenizer.json"
        # Without a record (a run that was stopped), or with another checksum, it is made again.
        whole = known is not None and path.is_file() and file_sha256(path) == known["sha256"]
        barrier()
        if self.rank == 0 and not whole:
            texts = [c.text for c, out in zip(captions, heldout) if not out]
            tokenizer = make_tokenizer(captions=texts, **self.tokenizer_cfg)
            with write_atomically(path) as file:
                file.write(tokenizer.to_str(pretty=False).encode())
        barrier()
        return {"file": path.name, "sha256": file_sha256(path)}

    def _encode_pool(self, pool: Any, reader: _ImageReader, writer: StoreWriter, stage: Any) -> int:
        count = math.ceil(len(pool) / self.shard_size)
        spans = [range(s * self.shard_size, min((s + 1) * self.shard_size, len(pool))) for s in range(count)]
        for i, bar in stage("images", count, [len(s) for s in spans], "images"):
            _write_photos(writer, pool, spans[i], i, reader, bar)
        return count

    def _draw(
        self, writer: StoreWriter, generator: Any, reader: _ImageReader, part: Sequence[Any], shard: int, bar: _Bar
    ) -> None:
        wanted = [(c, j) for c in part for j in range(self.images_per_caption)]
        feats, tags, flags = [], [], []
        for start in range(0, len(wanted), self.image_batch):
            batch = wanted[start : start + self.image_batch]
            seeds = [seed_of(self.seed, c.id, j) for c, j in batch]
            images = generator.generate([c.text for c, _ in batch], seeds)
            if len(images) != len(batch):
                raise RuntimeError(f"{type(generator).__name__} drew {len(images)} images for {len(batch)} captions")
            f, t, g = reader(images)
            feats.append(f)
            tags += t
            flags += g
            bar.update(len(batch))
        table = images_table([f"{c.id}/{j}" for c, j in wanted], np.concatenate(feats), tags, flags)
        writer.write("images", shard, table, flagged=sum(map(bool, flags)))

    def _pair_drawn(self, writer: StoreWriter, captions: Sequence[Any], span: tuple[int, int], shard: int) -> None:
        k = self.images_per_caption
        rows = np.repeat(np.arange(*span), k)
        seeds = np.array([seed_of(self.seed, c.id, j) for c in captions[slice(*span)] for j in range(k)])
        text = np.repeat(_shard_features(writer, "captions", shard), k, axis=0)
        image = _shard_features(writer, "images", shard)
        scores = (_unit(text) * _unit(image)).sum(1)
        images = np.arange(span[0] * k, span[1] * k)
        writer.write("pairs/default", shard, pairs_table(rows, images, seeds, scores))

    def _retrieve(
        self,
        writer: StoreWriter,
        generator: Any,
        usable: np.ndarray,
        captions: Sequence[Any],
        span: tuple[int, int],
        shard: int,
        bar: _Bar,
    ) -> None:
        text = torch.from_numpy(_unit(_shard_features(writer, "captions", shard))).to(self.device)
        part = captions[slice(*span)]
        k = self.images_per_caption
        seeds = [seed_of(self.seed, c.id, 0) for c in part]
        rows, scores = generator.retrieve(text, part, seeds, k)
        bar.update(len(part))
        table = pairs_table(
            np.repeat(np.arange(*span), rows.shape[1]),
            usable[rows.cpu().numpy().reshape(-1)],
            np.repeat(seeds, rows.shape[1]),
            scores.float().cpu().numpy().reshape(-1),
        )
        writer.write("pairs/default", shard, table)

    def _refine(self, writer: StoreWriter, bank: _NegativeBank, settings: dict, shard: int) -> None:
        from synthcap_mm.models.necks.pseudo_feature_optimizer import refine

        feats, text, groups = bank.pairs(shard)
        options = {k: v for k, v in settings.items() if k != "bank_size"}
        done = [
            refine(
                feats[a : a + 1024],
                text[a : a + 1024],
                groups[a : a + 1024],
                negative_text=bank.text,
                negative_image=bank.image,
                negative_groups=bank.groups,
                **options,
            )
            for a in range(0, len(feats), 1024)
        ]
        writer.write("refined/default", shard, refined_table(torch.cat(done).float().cpu().numpy()))


def _captions_sha256(captions: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for c in captions:
        digest.update(f"{c.id}\t{c.group}\t{c.text}\n".encode())
    return digest.hexdigest()


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _table(writer: StoreWriter, name: str, shards: Sequence[int]) -> Any:
    from synthcap_mm.stores.store import ShardedTable

    records = [writer.record(name, i) for i in shards]
    if any(r is None for r in records):
        raise StoreError(f"the store {writer.path} lost a shard of {name} while it was made; run the command again")
    return ShardedTable(writer.path, name, records)


def _shard_features(writer: StoreWriter, name: str, shard: int) -> np.ndarray:
    return _table(writer, name, [shard]).features()


class _NegativeBank:
    """The fixed negatives of the refine stage: the same for every pair, batch and rank."""

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
        usable = np.flatnonzero(~self._tables["images"].is_set("flags")[pairs.numbers("image")])
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


def _write_photos(writer: StoreWriter, photos: Any, span: range, shard: int, reader: _ImageReader, bar: _Bar) -> None:
    """Encode a span of a photo source into a shard of the images table."""
    feats, tags, flags = [], [], []
    for start in range(span.start, span.stop, reader.batch_size):
        part = range(start, min(start + reader.batch_size, span.stop))
        images: list[Image | None] = []
        for i in part:
            try:
                images.append(photos.load(i))
            except (ValueError, OSError) as error:
                print_log(f"{photos.keys[i]}: {error}", logger="current", level=30)
                images.append(None)
        f, t, g = reader(images)
        feats.append(f)
        tags += t
        flags += g
        bar.update(len(part))
    table = images_table([photos.keys[i] for i in span], np.concatenate(feats), tags, flags)
    writer.write("images", shard, table, flagged=sum(map(bool, flags)))


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
        StoreError: if the folder holds a store with other settings.
    """
    for name, value in (("shard_size", shard_size), ("image_batch", image_batch)):
        if value < 1:
            raise ValueError(f"photo_stores.{name} must be at least 1, got {value}")
    rank, world = get_dist_info()
    device = torch.device(device) if device else _default_device()
    source = DATASETS.build(photos)
    backbone = _build_encoder(encoder, device)
    tagger = _build_tag_provider(tag_provider, device)
    header = {
        "kind": "photos",
        "embed_dim": backbone.embed_dim,
        "encoder": backbone.fingerprint(),
        "photos": {"count": len(source), "sha256": source.sha256()},
        "shard_size": shard_size,
        "tag_provider": None if tagger is None else tagger.provenance(),
    }
    writer = StoreWriter(store, header)
    if rank == 0:
        writer.begin(datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), __version__)
    barrier()
    count = math.ceil(len(source) / shard_size)
    spans = [range(s * shard_size, min((s + 1) * shard_size, len(source))) for s in range(count)]
    # A photo that could not be read may have been mended since: its shard is tried again.
    records = [writer.record("images", i) for i in range(count)]
    missing = [i for i, r in enumerate(records) if r is None or r["flagged"]]
    barrier()
    bar = _Bar("photos", len(source), len(source) - sum(len(spans[i]) for i in missing), "photos")
    reader = _ImageReader(backbone, tagger, image_batch)
    for i in missing[rank::world]:
        _write_photos(writer, source, spans[i], i, reader, bar)
    bar.close()
    barrier()
    result = {"photos": len(source), "shards_made": len(missing), "shards_reused": count - len(missing), "flagged": 0}
    if rank == 0:
        references = [
            (f"{k}#{j}", text, k) for i, k in enumerate(source.keys) for j, text in enumerate(source.references(i))
        ]
        tables = {"images": count}
        if references:
            tables["captions"] = 1
            ids, texts, groups = zip(*references)
            writer.write("captions", 0, captions_table(ids, texts, groups, [False] * len(ids), None))
        records = writer.finish(tables)
        result["flagged"] = sum(r["flagged"] for r in records["images"]["shards"])
    barrier()
    return result


def has_store(path: str) -> bool:
    """Whether a whole, undamaged store is at ``path``."""
    try:
        Store.open(path, verify="full")
    except StoreError:
        return False
    return True
