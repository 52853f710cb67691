"""The mini-world's training scenes three times: caption, drawing, photo. Users have no such thing; nothing is chosen by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from synthcap_mm.models.necks import refine
from synthcap_mm.pipeline import encode_images, synthesize
from synthcap_mm.store import Store
from synthcap_mm.structures import group_id

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
UPPER_BOUND = Path(__file__).resolve().parent / "configs" / "upper_bound.py"
#: Negatives of a pair, as the config's.
BANK = 1024


def make_stores(captions: int) -> tuple[Config, Config]:
    """The config whose store has the drawings, and the one whose store has the photos; both stores are made if missing.

    Args:
        captions: captions of the stores.
    """
    init_default_scope("synthcap_mm")
    mini = Config.fromfile(CONFIGS / "synthcap_mini.py")
    upper = Config.fromfile(UPPER_BOUND)
    for cfg in (mini, upper):
        cfg.config_name = "same_scenes"
        cfg.synthesis.captions.num = captions
        if cfg is upper:
            cfg.synthesis.generator.pool.num = captions
        synthesize(cfg)
    encode_images(mini)
    return mini, upper


class Scenes:
    """Training scenes three times: caption, drawing, photo; and as many others as negatives.

    Args:
        pairs: store of the drawings.
        photos: store of the photos of the same scenes.
        count: scenes looked at.
    """

    def __init__(self, pairs: str, photos: str, count: int) -> None:
        drawn, real = Store.open(pairs), Store.open(photos)
        self.store = pairs
        if drawn.captions.strings("id") != real.captions.strings("id"):
            raise SystemExit(f"{pairs} and {photos} have other captions: delete one, and it is made again")
        rows = np.random.default_rng(0).permutation(drawn.caption_rows("train"))
        self.rows = torch.as_tensor(rows)
        self.text = self._unit(drawn.captions.features(rows))
        self.drawing, self.photo = (
            self._unit(store.images.features(self._images(store, rows))) for store in (drawn, real)
        )
        groups = drawn.captions.strings("group")
        self.groups = torch.tensor([group_id(groups[row]) for row in rows])
        self.count = count = min(count, len(rows) // 2)
        self.here, self.bank = slice(0, count), slice(max(count, len(rows) - BANK), None)

    @staticmethod
    def _unit(feats: np.ndarray) -> Tensor:
        return F.normalize(torch.from_numpy(feats).float(), dim=1)

    @staticmethod
    def _images(store: Store, rows: np.ndarray) -> np.ndarray:
        image = np.full(len(store.captions), -1)
        image[store.pairs().numbers("caption")] = store.pairs().numbers("image")
        return image[rows]

    def refined(self, anchor: Tensor | None = None, **settings: Any) -> Tensor:
        """Drawings of the first scenes, optimised one by one; the last are the negatives.

        Args:
            anchor: what is moved toward, for all scenes; default: the captions.
            **settings: of :func:`refine`.
        """
        return self.moved(self.drawing, self.text if anchor is None else anchor, **settings)

    def moved(self, feats: Tensor, anchor: Tensor, **settings: Any) -> Tensor:
        """As :meth:`refined`, from other features of all scenes."""
        return refine(
            feats[self.here],
            anchor[self.here],
            self.groups[self.here],
            negative_text=anchor[self.bank],
            negative_image=feats[self.bank],
            negative_groups=self.groups[self.bank],
            **settings,
        )
