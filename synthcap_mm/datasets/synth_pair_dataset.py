"""Synthetic pairs, read from a store as training needs them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch.utils.data import Dataset

from synthcap_mm.datasets.features import as_feature
from synthcap_mm.datasets.tagging import caption_tagger, tags_by_features
from synthcap_mm.registry import DATASETS
from synthcap_mm.store import Store, StoreError
from synthcap_mm.store.recipes import digest
from synthcap_mm.structures import CaptionSample, Tag, group_id

#: With fewer held-out groups than this, CIDEr says nothing; chosen by hand.
FEW_GROUPS = 20


@DATASETS.register_module()
class SynthPairDataset(Dataset):
    """One sample a caption of the store, with one of its images.

    Nothing but two small integers a caption is held in memory: features, texts and
    detections are read from the mapped store. Captions none of whose images is
    usable (flagged) are left out and counted in :attr:`metainfo`; that of held-out
    captions has their ``keys`` too, by which metrics know who is missing.
    A warning says so when the held-out captions are of fewer than 20 groups, too
    few to choose a checkpoint by CIDEr.

    Args:
        store: the store's folder.
        split: ``'train'``, or ``'heldout'``: the captions that were kept out of
            training and memory; then an item is one image with all captions of its
            group as references. Default ``'train'``.
        pairs: name of the pairs table, or ``None`` for captions without images
            (CapDec, DeCap). Default ``'default'``.
        refined: take the optimised pseudo features that lie beside the pairs, not
            those of the images as they came. Default ``False``; held-out samples never
            use them, since real photos are not optimised either.
        image_choice: which image of a caption with several: ``'first'``,
            ``'random'`` (a function of seed, epoch and sample) or ``'best'`` (highest
            cosine with the caption). Default ``'first'``; with ``pairs=None`` nothing else.
        seed: for ``'random'`` and ``fraction``. Default 0.
        fraction: share of the training captions' groups that are served, in (0, 1]: whole groups, chosen by ``seed``;
            a smaller share is part of a larger one. Held-out captions, and the memory, are all there.
            Default 1.0.
        weight_by: ``'score'``: a sample weighs in the caption loss by its pair's cosine of caption and image as it was
            drawn, clamped to ``weight_range``: PCM-Net's CLIP-weighted cross-entropy. The head divides by the batch's
            weights, so that only their ratios count. Default ``None``: all weigh 1.
        weight_range: least and greatest weight. Default (0.0, 1.0): assumed.
        tags: config of what names the things of a sample in place of the store's detections. Of training samples
            something that reads the captions (:class:`CaptionEntities`); of held-out ones something that reads the
            images' features (:class:`CLIPTagProvider`, :class:`RetrievedEntities`) and has the store's encoder.
            Default ``None``: the store's detections; captions without images have none.

    Raises:
        StoreError: if there is no store; the message has the command.
        StoreError: if it is damaged, has no such table, holds photos, or the pairs were curated before its captions,
            images or pairs were made anew; the message has the command.
        ValueError: if nothing is left to serve; if ``refined``, ``weight_by``, a choice among images or tags of images
            are asked for without ``pairs``; if ``fraction`` or ``weight_range`` is out of range, or ``tags`` cannot
            read what the split has.
    """

    def __init__(
        self,
        store: str,
        split: str = "train",
        pairs: str | None = "default",
        refined: bool = False,
        image_choice: str = "first",
        seed: int = 0,
        fraction: float = 1.0,
        weight_by: str | None = None,
        weight_range: tuple[float, float] = (0.0, 1.0),
        tags: dict[str, Any] | None = None,
    ) -> None:
        if image_choice not in ("first", "random", "best"):
            raise ValueError(f"image_choice is 'first', 'random' or 'best', not {image_choice!r}")
        if refined and pairs is None:
            raise ValueError("refined=True needs pairs: captions without images (pairs=None) have no refined features")
        if image_choice != "first" and pairs is None:
            raise ValueError(
                f"image_choice={image_choice!r} needs pairs: captions without images (pairs=None) have none to choose "
                "among; leave image_choice out, or name the pairs table (pairs='default')"
            )
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is a share in (0, 1], got {fraction}")
        low, high = weight_range
        if weight_by not in (None, "score") or not 0 <= low <= high or high <= 0:
            raise ValueError(
                f"weight_by is None or 'score', and weight_range two numbers, 0 <= low <= high and high > 0; got "
                f"{weight_by!r} and {tuple(weight_range)}"
            )
        if pairs is None and (weight_by is not None or (tags is not None and split == "heldout")):
            what = "tags of images" if weight_by is None else "weight_by='score'"
            raise ValueError(f"{what} needs pairs: captions without images (pairs=None) have neither scores nor images")
        self.store = Store.open(store)
        if self.store.kind == "photos":
            raise StoreError(f"the store {store} holds photos, not captions to learn; CaptionEvalDataset reads those")
        self.split = split
        self.image_choice = image_choice
        self.seed = seed
        self._pairs = None if pairs is None else self.store.pairs(pairs)
        self._refined = self.store.refined(pairs) if refined and split == "train" else None
        read = ["texts", "text_features", "heldout"]
        if pairs is not None:
            read += [f"pairs/{pairs}", "image_features", *(["tags"] if self.store.has("tags") else [])]
        if self._refined is not None:
            read.append(f"refined/{pairs}")
        #: Hash of all that the samples are made of; a training is not resumed on other data.
        self.identity = digest([self.store.identity(name) for name in read])
        # Shared memory: worker processes that outlive an epoch see the new one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        rows = self.store.caption_rows(split)
        if fraction < 1 and split == "train":
            rows = self._share(rows, fraction)
        self._weights = (float(low), float(high)) if weight_by and split == "train" else None
        left_out = 0
        if self._pairs is not None:
            captions, images = self._pairs.numbers("caption"), self._pairs.numbers("image")
            usable = ~self.store.images.is_set("flags")[images]
            # int32: two numbers a caption are all that grows with the store (four with 'random').
            order = np.flatnonzero(usable).astype(np.int32)
            order = order[np.argsort(captions[order], kind="stable")]
            sorted_captions = captions[order]
            first = np.searchsorted(sorted_captions, rows, side="left").astype(np.int32)
            count = np.searchsorted(sorted_captions, rows, side="right").astype(np.int32) - first
            left_out = int((count == 0).sum())
            rows, first, count = rows[count > 0], first[count > 0], count[count > 0]
            if image_choice == "best" and len(rows):
                scores = self._pairs.numbers("score")
                first = np.array([f + np.argmax(scores[order[f : f + c]]) for f, c in zip(first, count)], np.int32)
            self._random = image_choice == "random" and bool((count > 1).any())
            if self._random:
                self._candidates, self._first, self._count = order, first, count
            else:
                self._chosen = order[first]
        rows = rows.astype(np.int32)
        self._rows = rows
        if not len(rows):
            raise ValueError(
                f"the store {store} has no usable pair in its split {split!r} ({left_out} captions have only flagged "
                "images)" + ("; synthesis.holdout is 0" if split == "heldout" and not left_out else "")
            )
        self._tagger = caption_tagger(tags) if tags is not None and split == "train" else None
        self._tags: dict[int, list[Tag]] | None = None
        if tags is not None and split == "heldout":
            # Not those of the training captions, which are many.
            served = (
                self._chosen
                if not self._random
                else np.concatenate([self._candidates[f : f + c] for f, c in zip(self._first, self._count)])
            )
            pictures = np.unique(self._pairs.numbers("image")[served])
            self._tags = dict(zip(pictures.tolist(), tags_by_features(tags, self.store, pictures)))
        self.metainfo: dict[str, Any] = {"store": str(store), "split": split, "left_out": left_out}
        self._references: dict[str, list[str]] = {}
        if split == "heldout":
            for row in self.store.caption_rows("heldout"):
                group, text = self._group(int(row)), self.store.captions.value("text", int(row))
                self._references.setdefault(group, []).append(text)
            self.metainfo["keys"] = [str(self.store.captions.value("id", int(row))) for row in rows]
            groups = len({self._group(int(row)) for row in rows})
            if groups < FEW_GROUPS:
                # CIDEr weighs words by how few of the images have them: that of one image is always 0.
                print_log(
                    f"the held-out split of {store} is of {groups} group(s) only, fewer than {FEW_GROUPS}: CIDEr on it "
                    "says little (of one image it is always 0), and so does a checkpoint chosen by it. Raise "
                    "synthesis.holdout.",
                    logger="current",
                    level=logging.WARNING,
                )

    def _group(self, row: int) -> str:
        return self.store.captions.value("group", row) or self.store.captions.value("id", row)

    def _share(self, rows: np.ndarray, fraction: float) -> np.ndarray:
        """The rows of a share of the groups; by a hash, so that shares lie within each other."""
        groups = [self._group(int(row)) for row in rows]
        distinct = sorted(set(groups), key=lambda name: group_id(f"{self.seed} {name}"))
        kept = set(distinct[: max(1, round(fraction * len(distinct)))])
        return rows[[group in kept for group in groups]]

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch begins; ``image_choice='random'`` depends on it."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._rows)

    def _pair(self, index: int) -> int:
        if not self._random:
            return int(self._chosen[index])
        rng = np.random.default_rng((self.seed, int(self._epoch), int(self._rows[index])))
        return int(self._candidates[self._first[index] + rng.integers(self._count[index])])

    def __getitem__(self, index: int) -> CaptionSample:
        """One sample; its ``sample_id`` is the caption's row.

        Raises:
            ValueError: if a feature is not finite, with its place in the store.
        """
        row = int(self._rows[index])
        captions = self.store.captions
        text_feat = as_feature(captions.feature(row), f"caption {row} of {self.store.path}")
        group = self._group(row)
        sample = CaptionSample(
            sample_id=row,
            key=str(captions.value("id", row)),
            source="text",
            text_feat=text_feat,
            memory_row=row if self.split == "train" else -1,
            group=group_id(group),
        )
        if self.split == "train":
            sample.caption = captions.value("text", row)
        else:
            sample.references = self._references[group]
        if self._tagger is not None:
            sample.tags = self._tagger.tag_captions([sample.caption])[0]
        if self._pairs is None:
            sample.feat = text_feat
            return sample
        pair = self._pair(index)
        image = int(self._pairs.value("image", pair))
        if self._refined is not None:
            feature, where = self._refined.feature(pair), f"refined pair {pair}"
        else:
            feature, where = self.store.images.feature(image), f"image {image}"
        sample.source = "pseudo"
        sample.feat = as_feature(feature, f"{where} of {self.store.path}")
        if self._weights is not None:
            sample.weight = float(np.clip(self._pairs.value("score", pair), *self._weights))
        if self._tags is not None:
            sample.tags = self._tags[image]
        elif self._tagger is None:
            sample.tags = self.store.tags(image)
        return sample
