"""Photos with references, encoded beforehand."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from synthcap_mm.datasets.features import as_feature
from synthcap_mm.registry import DATASETS
from synthcap_mm.stores import Store, StoreError
from synthcap_mm.structures import CaptionSample


@DATASETS.register_module()
class CaptionEvalDataset(Dataset):
    """Real photos from a store made by ``tools/encode_images.py``, so that an evaluation costs decoding only.

    Args:
        store: the store's folder.
        allow_missing: serve the rest when some photos could not be decoded, and say
            how many are missing. Default ``False``: refuse, since a score over fewer
            photos is another score.
        verify: see :meth:`Store.open`. Default ``'size'``.

    Raises:
        StoreMissingError: if there is no store; the message has the command.
        StoreError: if it is no store of photos, photos are missing from it and
            ``allow_missing`` is not set, or none is left.
    """

    def __init__(self, store: str, allow_missing: bool = False, verify: str = "size") -> None:
        self.store = Store.open(store, verify=verify)
        if self.store.manifest.get("kind") != "photos":
            raise StoreError(
                f"the store {store} holds {self.store.manifest.get('kind')}, not photos; SynthPairDataset reads those "
                "(their held-out captions with split='heldout')"
            )
        flagged = self.store.images.is_set("flags")
        self._rows = (~flagged).nonzero()[0]
        if flagged.any():
            bad = [self.store.images.value("key", int(row)) for row in flagged.nonzero()[0][:5]]
            message = f"{int(flagged.sum())} of {len(flagged)} photos of {store} could not be used: {', '.join(bad)}"
            if not allow_missing:
                raise StoreError(
                    f"{message}. Mend the files and run tools/encode_images.py again, or set allow_missing=True to "
                    "score the rest (a score over fewer photos is another score)."
                )
            from mmengine.logging import print_log

            if flagged.all():
                raise StoreError(
                    f"{message}. None is left to score: mend the files and run tools/encode_images.py again."
                )
            print_log(f"{message}; the others are scored (allow_missing=True)", logger="current", level=30)
        self.metainfo: dict[str, Any] = {
            "store": str(store),
            "photos": len(self._rows),
            "missing": int(flagged.sum()),
            "keys": [self.store.images.value("key", int(row)) for row in self._rows],
        }
        self._references: dict[str, list[str]] = {}
        if self.store.has("captions"):
            table = self.store.captions
            for group, text in zip(table.strings("group"), table.strings("text")):
                self._references.setdefault(group or "", []).append(text or "")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionSample:
        """One photo; its ``references`` are empty when there are none."""
        row = int(self._rows[index])
        images = self.store.images
        key = images.value("key", row)
        return CaptionSample(
            sample_id=row,
            key=key,
            source="real",
            feat=as_feature(images.feature(row), f"photo {key!r} of {self.store.path}"),
            tags=self.store.tags(row),
            references=self._references.get(key, []),
        )
