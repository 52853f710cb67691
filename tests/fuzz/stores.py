"""Stores: folders of tables that others made, or that a disk damaged."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from .making import in_other_process, make_stores
from .mutations import change_bytes, change_folder, change_json, files_in, one_of
from .running import Change, Kind


def _make(folder: Path) -> None:
    pairs, photos = make_stores(folder / "made", keep_images=True)
    Path(pairs).rename(folder / "good_pairs")
    Path(photos).rename(folder / "good_photos")


class Stores(Kind):
    name = "stores"
    variants = ("pairs", "photos")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        in_other_process(_make, folder)
        self.checked = True

    def change(self, case: Path, rng: random.Random) -> Change:
        folder = self.lay(case, rng)
        # A store is mapped, not read: only `store --check` compares all of it with its checksums.
        self.checked, knowing = rng.random() < 0.6, rng.random() < 0.5
        what, same = one_of(
            rng,
            (4, lambda: change_json(rng.choice(_views(folder)), rng, case)),
            (1, lambda: change_json(rng.choice([p for p in files_in(folder) if p.suffix == ".json"]), rng, case)),
            (4, lambda: (change_bytes(rng.choice(files_in(folder)), rng), False)),
            (3, lambda: (change_folder(folder, rng, case), False)),
            (5, lambda: (_buffers(folder, rng, knowing), False)),
        )
        told = self.checked and ", signed" not in what
        return Change(f"{what}{', checked' if self.checked else ''}", same or told)

    def use(self, folder: Path) -> Any:
        from synthcap_mm.errors import UserError
        from synthcap_mm.store.cleaning import check, describe

        if self.checked:
            describe(folder)
            if damaged := check(folder):
                raise UserError(f"{len(damaged)} damaged shard(s)")
        return _content(folder)


def _views(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _content(folder: Path) -> dict[str, str]:
    """Hash of each table's rows, read as training, curation and the pages read them."""
    from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset
    from synthcap_mm.store import Store
    from synthcap_mm.tokenization import CaptionTokenizer

    store, found = Store.open(folder), {}
    for name in store.tables:
        if name == "tokenizer":
            found[name] = [CaptionTokenizer(path).encode("a red dog") for path in store.paths(name)]
            continue
        table = store.table(name)
        rows = range(len(table))
        for column in table.columns:
            numbers = table.features() if column == "feature" else None
            found[f"{name}.{column}"] = (
                numbers.tobytes() if numbers is not None else [table.value(column, r) for r in rows]
            )
        store.recipe(name)
    found["texts"] = store.captions.strings("text")
    found["flagged"] = store.flagged() if store.has("images") else {}
    if store.has("tags"):
        found["tags"] = [store.tags(row) for row in range(len(store.images))]
    if store.keeps_images:
        found["pictures"] = [store.image(row).tobytes() for row in range(len(store.images))]
    if store.has("heldout"):
        found["split"] = store.caption_rows("heldout").tolist()
        found["memory"] = store.captions_sha256()
    data = SynthPairDataset(str(folder)) if store.has("pairs/default") else CaptionEvalDataset(str(folder))
    found["samples"] = [(s.key, s.feat.tolist(), s.tags, s.references) for s in (data[0], data[len(data) - 1])]
    return {
        name: hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest() for name, value in found.items()
    }


def _buffers(folder: Path, rng: random.Random, knowing: bool) -> str:
    """Damage in a shard's columns: lengths, offsets, values; signed, if the checksum is made right again."""
    import pyarrow as pa

    path = rng.choice([path for path in files_in(folder) if path.suffix == ".arrow"])
    data, old = bytearray(path.read_bytes()), _stated(path)
    begin = data.find(b"ARROW1") + 8
    end = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    # Behind the schema lie the batch's header and its buffers.
    at = rng.randrange(begin, end) & ~3
    number = rng.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 4, rng.randrange(1 << 20).to_bytes(4, "little"),
                         rng.randbytes(4)))  # fmt: skip
    for step in range(rng.choice((1, 1, 2, 8))):
        data[at + 4 * step : at + 4 * step + 4] = number[: max(0, end - at - 4 * step)]
    path.write_bytes(data)
    what = f"{path.parent.name}/{path.name}: {number.hex()} at {at}"
    if not knowing:
        return what
    from synthcap_mm.store.tables import _payload_sha256

    try:
        new = _payload_sha256(pa.ipc.open_file(bytes(data)).get_batch(0))
    except Exception:  # too damaged to be signed
        return what
    path.write_bytes(bytes(data).replace(old.encode(), new.encode()))
    for view in _views(folder):
        view.write_text(view.read_text().replace(old, new))
    return f"{what}, signed"


def _stated(path: Path) -> str:
    """The checksum that a shard has in its schema."""
    import pyarrow as pa

    with pa.ipc.open_file(str(path)) as shard:
        return json.loads(shard.schema.metadata[b"synthcap_mm"])["sha256"]
