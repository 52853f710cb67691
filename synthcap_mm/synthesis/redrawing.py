"""The pictures behind a store's image rows, from wherever they can still be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synthcap_mm.errors import UserError
from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image


class Pictures:
    """Loads pictures of image rows: kept ones, else a retrieval pool's photos, else drawn again if allowed.

    Drawing again needs a generator that is deterministic: a picture is drawn from the
    caption and the seed that it was first drawn with, which pairs/default knows.

    Args:
        store: the store.
        generator: config of the generator that made it. Default ``None``: kept pictures only.
        redraw: draw pictures again. Default ``False``.
        device: torch device of the generator. Default ``'cpu'``.

    Attributes:
        problem (str | None): why pictures are missing, for the reader.
    """

    def __init__(self, store: Store, generator: dict | None = None, redraw: bool = False, device: str = "cpu") -> None:
        self.store, self.redraw = store, redraw
        self.problem: str | None = None
        self._generator: Any = None
        self._pool: Any = None
        if store.keeps_images or generator is None:
            return
        kind = generator.get("type")
        if "pool" in generator:
            try:
                self._pool = DATASETS.build(generator["pool"])
            except (OSError, ValueError, UserError) as error:
                self.problem = f"the pool of {kind} cannot be read: {error}"
                return
            self._place = {key: i for i, key in enumerate(self._pool.keys)}
        elif redraw:
            built = MODELS.build(generator)
            self._generator = built.to(device) if hasattr(built, "to") else built
        else:
            self.problem = "the store keeps no images; --redraw draws them again by their seeds"

    def load(self, rows: Sequence[int]) -> list[Image | None]:
        """One picture for each row; ``None`` where it cannot be had."""
        if self._pool is not None:
            return [self._from_pool(int(row)) for row in rows]
        if self._generator is not None:
            return self._drawn_again([int(row) for row in rows])
        return [self.store.image(int(row)) if self.store.keeps_images else None for row in rows]

    def _from_pool(self, row: int) -> Image | None:
        place = self._place.get(self.store.images.value("key", row))
        try:
            return None if place is None else self._pool.load(place)
        except (OSError, ValueError):
            return None

    def _drawn_again(self, rows: list[int]) -> list[Image | None]:
        drawn = self.store.pairs("default")
        images = drawn.numbers("image")
        known = {}
        for row in dict.fromkeys(rows):
            found = np.flatnonzero(images == row)
            if len(found):
                caption = int(drawn.value("caption", int(found[0])))
                known[row] = (self.store.captions.value("text", caption), int(drawn.value("seed", int(found[0]))))
        pictures: dict[int, Image] = {}
        todo = list(known)
        for start in range(0, len(todo), 16):
            part = todo[start : start + 16]
            made = self._generator.generate([known[r][0] for r in part], [known[r][1] for r in part])
            pictures.update(zip(part, made))
        return [pictures.get(row) for row in rows]
