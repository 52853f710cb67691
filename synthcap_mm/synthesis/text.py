"""The text stage: captions, their features, which are held out, and the tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.progress import Progress
from synthcap_mm.store import Table
from synthcap_mm.store.schema import feature_rows, texts_rows
from synthcap_mm.synthesis.memory_limits import smaller_batch
from synthcap_mm.synthesis.run import Stage


def held_out(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which captions are kept out of training and memory: whole groups, by a threshold on the hash of their name.

    Captions that are appended later move no other across the border.

    Args:
        groups: each caption's group (its own id where it has none).
        share: share of the groups, about; at least one group is held out when it is above 0 and there are two, and
            never all.
        seed: another seed, other groups.

    Returns:
        Boolean ``(N,)``.
    """
    place = {group: _place(f"{seed}/{group}") for group in set(groups)}
    order = sorted(place, key=place.__getitem__)
    chosen = {group for group in order if place[group] < share}
    if share > 0:
        chosen |= {*order[:1]}
        chosen -= {*order[-1:]}
    return np.array([group in chosen for group in groups], bool)


def _place(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


class SmallStage(Stage):
    """A table of one shard that is made at once.

    Args:
        name: of the stage.
        table: the table.
        make_rows: makes its rows, or the bytes of a file that is no Arrow.
        needs: tables that must be whole before.
    """

    small = True
    unit = "tables"

    def __init__(
        self, name: str, table: Table, make_rows: Callable[[], pa.Table | bytes], needs: Sequence[Table] = ()
    ) -> None:
        self.name, self.tables, self.needs, self.sizes = name, [table], needs, [1]
        self._make_rows = make_rows

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        for shard in shards:
            rows = self._make_rows()
            (self.tables[0].write_bytes if isinstance(rows, bytes) else self.tables[0].write)(shard, rows)
            progress.update(1)


class TextStage(Stage):
    """Encodes captions.

    Args:
        texts: the table of the captions.
        features: name → table of their features, one an encoder.
        captions: all captions.
        spans: rows of each shard.
        encoder_for: gives the encoder of a table by the table's name, built when it is first needed.
        batch_size: captions encoded at once; halved where memory runs out.
    """

    name, unit = "text", "captions"

    def __init__(
        self,
        texts: Table,
        features: Mapping[str, Table],
        captions: Sequence[Any],
        spans: Sequence[range],
        encoder_for: Callable[[str], Any],
        batch_size: int,
    ) -> None:
        self.tables = [texts, *features.values()]
        self.sizes = [len(span) for span in spans]
        self._texts, self._features, self._encoder_for = texts, features, encoder_for
        self._captions, self._spans, self._batch_size = captions, spans, batch_size

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """See :meth:`Stage.make`."""
        # First: where one cannot be built, no store is begun.
        encoders = {name: self._encoder_for(name) for name, table in self._features.items() if table.missing()}
        for shard in shards:
            part = self._captions[self._spans[shard].start : self._spans[shard].stop]
            sentences = [caption.text for caption in part]
            self._texts.write(shard, texts_rows([c.id for c in part], sentences, [c.group for c in part]))
            for name, encoder in encoders.items():
                table = self._features[name]
                if table.path(shard).exists():
                    continue
                found = self._encode(encoder, part)
                truncated = int(np.sum(encoder.is_too_long(sentences)))
                table.write(shard, feature_rows(found), truncated=truncated, batch_size=self._batch_size)
            progress.update(len(part))

    @torch.no_grad()
    def _encode(self, encoder: Any, captions: Sequence[Any]) -> np.ndarray:
        texts = [caption.text for caption in captions]
        while True:
            size = self._batch_size
            try:
                parts = [encoder.encode_text(texts[s : s + size]).float().cpu() for s in range(0, len(texts), size)]
                break
            except Exception as error:
                self._batch_size = smaller_batch(size, "captions", error)
        features = np.concatenate([part.numpy() for part in parts])
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        if len(bad):
            raise UserError(
                f"the encoder gives features that are not finite for {len(bad)} captions, the first: "
                f"{captions[bad[0]].id!r} ({captions[bad[0]].text!r}); check its weights and precision"
            )
        return features
