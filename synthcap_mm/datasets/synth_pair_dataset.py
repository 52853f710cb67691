"""Synthetic pairs, read from a store as training needs them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from mmengine.logging import print_log
from torch.utils.data import Dataset

from synthcap_mm.datasets.features import as_feature, other_features
from synthcap_mm.datasets.tagging import caption_tagger, tags_by_features
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.tokenizer import has_words
from synthcap_mm.options import Model, Name, NotNegative, Positive, Seed, Share
from synthcap_mm.registry import DATASETS
from synthcap_mm.store import Store, StoreError
from synthcap_mm.store.recipes import digest
from synthcap_mm.structures import CaptionSample, Tag, group_id


@DATASETS.register_module()
class SynthPairDataset(Dataset):
    """One sample a caption of the store, with one of its images.

    Nothing but two small integers a caption is held in memory: features (by all encoders of the store), texts and
    detections are read from the mapped store. Captions none of whose images is
    usable (flagged) are left out and counted in :attr:`metainfo`; that of held-out
    captions has their ``keys`` too, by which metrics know who is missing, and the keys of the ``wordless``, whose
    captions no metric can score.
    For held-out captions a line in the log says what their scores are for.

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
        UserError: if nothing is left to serve; if ``refined``, ``weight_by``, a choice among images or tags of images
            are asked for without ``pairs``; if ``weight_range`` is out of range, or ``tags`` cannot read what the
            split has.
    """

    def __init__(
        self,
        store: Name,
        split: Literal["train", "heldout"] = "train",
        pairs: Name | None = "default",
        refined: bool = False,
        image_choice: Literal["first", "random", "best"] = "first",
        seed: Seed = 0,
        fraction: Share = 1.0,
        weight_by: Literal["score"] | None = None,
        weight_range: tuple[NotNegative, Positive] = (0.0, 1.0),
        tags: Model | None = None,
    ) -> None:
        low, high = weight_range
        if low > high:
            raise UserError(f"SynthPairDataset.weight_range is from low to high, got {tuple(weight_range)}")
        needs_pairs = {
            "refined": refined,
            "image_choice": image_choice != "first",
            "weight_by": weight_by is not None,
            "tags (of held-out images)": tags is not None and split == "heldout",
        }
        if pairs is None and any(needs_pairs.values()):
            options = ", ".join(option for option, is_set in needs_pairs.items() if is_set)
            raise UserError(f"these options read images, and with pairs=None there are none: {options}")
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
        kinds = ["text"] if pairs is None else ["text", "image"]
        read += [f"{kind}_features/{encoder}" for kind in kinds for encoder in self.store.other_encoders]
        if self._refined is not None:
            read.append(f"refined/{pairs}")
        #: Hash of all that the samples are made of; a training is not resumed on other data.
        self.identity = digest([self.store.identity(name) for name in read])
        # In shared memory, so that persistent worker processes see the new epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        rows = self.store.caption_rows(split)
        if fraction < 1 and split == "train":
            rows = self._share(rows, fraction)
        self._weights = (float(low), float(high)) if weight_by and split == "train" else None
        count = len(rows)
        if self._pairs is not None:
            rows = self._choose_pairs(rows)
        left_out = count - len(rows)
        self._rows = rows.astype(np.int32)
        if not len(rows):
            none_held_out = split == "heldout" and not count
            raise UserError(
                f"the store {store} has no usable pair in its split {split!r} ({left_out} captions have only flagged "
                "images)" + ("; synthesis.holdout is 0, or all captions are of one group" if none_held_out else "")
            )
        self._tagger = caption_tagger(tags) if tags is not None and split == "train" else None
        self._tags: dict[int, list[Tag]] | None = None
        if tags is not None and split == "heldout":  # only here: training images are too many to be tagged at the start
            images = np.unique(self._pairs.numbers("image")[self._served_pairs()])
            self._tags = dict(zip(images.tolist(), tags_by_features(tags, self.store, images)))
        self.metainfo: dict[str, Any] = {"store": str(store), "split": split, "left_out": left_out}
        self._references: dict[str, list[str]] = {}
        if split == "heldout":
            self._read_references()

    def _choose_pairs(self, rows: np.ndarray) -> np.ndarray:
        """Find the usable pairs of captions, and choose one of each unless they are drawn anew in each epoch.

        Args:
            rows: of the captions.

        Returns:
            Rows of the captions that have a usable pair.
        """
        captions, images = self._pairs.numbers("caption"), self._pairs.numbers("image")
        usable = ~self.store.is_flagged[images]
        # int32, since these arrays grow with the store: two numbers a caption (four with 'random').
        order = np.flatnonzero(usable).astype(np.int32)
        order = order[np.argsort(captions[order], kind="stable")]
        sorted_captions = captions[order]
        first = np.searchsorted(sorted_captions, rows, side="left").astype(np.int32)
        count = np.searchsorted(sorted_captions, rows, side="right").astype(np.int32) - first
        rows, first, count = rows[count > 0], first[count > 0], count[count > 0]
        if self.image_choice == "best" and len(rows):
            scores = self._pairs.numbers("score")
            first = np.array([f + np.argmax(scores[order[f : f + c]]) for f, c in zip(first, count)], np.int32)
        self._random = self.image_choice == "random" and bool((count > 1).any())
        if self._random:
            self._candidates, self._first, self._count = order, first, count
        else:
            self._chosen = order[first]
        return rows

    def _served_pairs(self) -> np.ndarray:
        """All pairs that any epoch may serve."""
        if not self._random:
            return self._chosen
        return np.concatenate([self._candidates[f : f + c] for f, c in zip(self._first, self._count)])

    def _read_references(self) -> None:
        """References of the held-out captions' groups; says what scores on them are worth."""
        for row in self.store.caption_rows("heldout"):
            text = self.store.captions.value("text", int(row))
            self._references.setdefault(self._group(int(row)), []).append(text)
        self.metainfo["keys"] = [str(self.store.captions.value("id", int(row))) for row in self._rows]
        self.metainfo["wordless"] = [
            key
            for key, row in zip(self.metainfo["keys"], self._rows)
            if not any(map(has_words, self._references[self._group(int(row))]))
        ]
        groups = len({self._group(int(row)) for row in self._rows})
        what = "pictures from the same source as the training's" if self._pairs else "no pictures but their own text"
        print_log(
            f"held out: {len(self._rows)} captions of {groups} groups (synthesis.holdout), with {what}. Scores on them "
            "tell which checkpoint is better; they are no estimate for photos, which a test set of photos gives",
            logger="current",
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
            other_text_feats=other_features(self.store, "text", row),
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
            sample.feat, sample.other_feats = text_feat, sample.other_text_feats
            return sample
        pair = self._pair(index)
        image = int(self._pairs.value("image", pair))
        if self._refined is not None:
            feature, where = self._refined.feature(pair), f"refined pair {pair}"
        else:
            feature, where = self.store.images.feature(image), f"image {image}"
        sample.source = "pseudo"
        sample.feat = as_feature(feature, f"{where} of {self.store.path}")
        sample.other_feats = other_features(self.store, "image", image)
        if self._weights is not None:
            sample.weight = float(np.clip(self._pairs.value("score", pair), *self._weights))
        if self._tags is not None:
            sample.tags = self._tags[image]
        elif self._tagger is None:
            sample.tags = self.store.tags(image)
        return sample
