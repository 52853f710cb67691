"""Photos with references, encoded beforehand or as images."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Dataset

from synthcap_mm.datasets.features import as_feature, other_features
from synthcap_mm.datasets.tagging import tags_by_features
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.tokenizer import has_words
from synthcap_mm.options import Data, Model, Name
from synthcap_mm.registry import DATASETS
from synthcap_mm.store import Store, StoreError
from synthcap_mm.structures import CaptionSample, Tag


@DATASETS.register_module()
class CaptionEvalDataset(Dataset):
    """Real photos to be captioned: from a store, or as they are.

    From a ``store`` made by ``tools/encode_images.py`` they come encoded and tagged,
    so that an evaluation costs decoding only. From a photo source (``photos``) they
    come as images, which the captioner encodes by its ``model.backbone``. The tags
    are left out then: for a captioner with a prompt of tags, which would see
    none, make a store with a ``tag_provider``.

    Args:
        store: the store's folder. Default ``None``: there are ``photos``.
        allow_missing: serve the rest when some photos could not be decoded, and say
            how many are missing. Default ``False``: refuse, since a score over fewer
            photos is not comparable. Of ``photos``, a damaged one is refused when it is
            met; to count them beforehand, ``True`` decodes all of them once more.
        photos: config of a photo source, e.g. ``dict(type='CocoPhotos', ann_file=...,
            image_root=...)`` (a captions json), ``PhotoFolder`` or any
            other with ``keys``, ``load`` and ``references`` (and ``domain``, where metrics are wanted by
            domain). Default ``None``: there is a ``store``.
        tags: config of what names the things of a photo by its stored feature (:class:`CLIPTagProvider`,
            :class:`RetrievedEntities`), in place of the store's detections. Default ``None``.

    Raises:
        StoreError: if there is no store; the message has the command.
        StoreError: if it is no store of photos, photos are missing from it and
            ``allow_missing`` is not set, or none is left.
        ValueError: if both or none of ``store`` and ``photos`` are given; if no photo decodes; if ``tags`` is given
            with ``photos``, or cannot read features.
    """

    def __init__(
        self,
        store: Name | None = None,
        allow_missing: bool = False,
        photos: Data | None = None,
        tags: Model | None = None,
    ) -> None:
        if (store is None) == (photos is None):
            raise UserError(
                "CaptionEvalDataset takes either store=, the folder of a store of photos, or photos=, the config of a "
                f"photo source such as dict(type='CocoPhotos', ...); {'none' if store is None else 'both'} given"
            )
        if tags is not None and store is None:
            raise UserError("tags= names things by stored features, so it needs store=, not photos=")
        self.store: Store | None = None
        self._photos: Any = None
        self._tags: dict[int, list[Tag]] | None = None
        if store is not None:
            self._open_store(store, allow_missing)
            if tags is not None:
                self._tags = dict(zip(self._rows.tolist(), tags_by_features(tags, self.store, self._rows)))
        else:
            self._open_photos(photos, allow_missing)
        self.metainfo["wordless"] = [
            key
            for key, row in zip(self.metainfo["keys"], self._rows.tolist())
            if not any(map(has_words, self._references_of(row, key)))
        ]

    def _references_of(self, row: int, key: str) -> list[str]:
        return self._references.get(key, []) if self._photos is None else self._photos.references(row)

    def _open_photos(self, photos: dict[str, Any], allow_missing: bool) -> None:
        self._photos = DATASETS.build(photos)
        rows, bad = list(range(len(self._photos))), []
        if allow_missing:
            for row in rows:
                try:
                    self._photos.load(row)
                except ValueError as error:
                    bad.append((row, error))
            damaged = {row for row, _ in bad}
            rows = [row for row in rows if row not in damaged]
        where = self._photos.describe()
        if bad:
            names = ", ".join(str(self._photos.keys[row]) for row, _ in bad[:5])
            message = f"{len(bad)} of {len(self._photos)} photos of {where} could not be used: {names}"
            if not rows:
                raise ValueError(f"{message}. None is left to score; the first: {bad[0][1]}")
            print_log(f"{message}; the others are scored (allow_missing=True)", logger="current", level=30)
        self._rows = np.array(rows)
        domain_of = getattr(self._photos, "domain", lambda row: None)
        self._domains = {row: domain_of(row) for row in rows}
        keys = [str(self._photos.keys[row]) for row in rows]
        self.metainfo: dict[str, Any] = {"store": where, "photos": len(rows), "missing": len(bad), "keys": keys}

    def _open_store(self, store: str, allow_missing: bool) -> None:
        self.store = Store.open(store)
        if self.store.kind != "photos":
            raise StoreError(
                f"the store {store} holds {self.store.kind}, not photos; SynthPairDataset reads those "
                "(their held-out captions with split='heldout')"
            )
        flagged = self.store.is_flagged
        self._rows = (~flagged).nonzero()[0]
        if flagged.any():
            bad = [self.store.images.value("key", int(row)) for row in flagged.nonzero()[0][:5]]
            message = f"{int(flagged.sum())} of {len(flagged)} photos of {store} could not be used: {', '.join(bad)}"
            if not allow_missing:
                raise StoreError(
                    f"{message}. Repair the files and run tools/encode_images.py again, or set allow_missing=True to "
                    "score the rest (a score over fewer photos is not comparable)."
                )
            if flagged.all():
                raise StoreError(
                    f"{message}. None is left to score: repair the files and run tools/encode_images.py again."
                )
            print_log(f"{message}; the others are scored (allow_missing=True)", logger="current", level=30)
        self.metainfo = {
            "store": str(store),
            "photos": len(self._rows),
            "missing": int(flagged.sum()),
            "keys": [self.store.images.value("key", int(row)) for row in self._rows],
            "encoder": self.store.encoder,  # which made the features; CLIPScore needs the same one
        }
        self._domains = dict(enumerate(self.store.images.strings("domain")))
        self._references: dict[str, list[str]] = {}
        if self.store.has("texts"):
            table = self.store.captions
            for group, text in zip(table.strings("group"), table.strings("text")):
                self._references.setdefault(group or "", []).append(text or "")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionSample:
        """One photo, as feature and tags (store) or as image; its ``references`` are empty when there are none.

        Raises:
            ValueError: if the feature is not finite, or the photo does not decode; it is named.
        """
        row = int(self._rows[index])
        if self._photos is not None:
            key = str(self._photos.keys[row])
            try:
                image = self._photos.load(row)
            except ValueError as error:
                raise ValueError(
                    f"photo {key!r} cannot be used: {error}. Repair the file, or set allow_missing=True to score the "
                    "rest (a score over fewer photos is not comparable)."
                ) from error
            return CaptionSample(
                sample_id=row,
                key=key,
                source="real",
                image=image,
                references=self._references_of(row, key),
                domain=self._domains[row],
            )
        images = self.store.images
        key = images.value("key", row)
        return CaptionSample(
            sample_id=row,
            key=key,
            source="real",
            feat=as_feature(images.feature(row), f"photo {key!r} of {self.store.path}"),
            other_feats=other_features(self.store, "image", row),
            tags=self.store.tags(row) if self._tags is None else self._tags[row],
            references=self._references_of(row, key),
            domain=self._domains.get(row),
        )
