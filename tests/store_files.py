"""The files of a store, and what makes one in a test."""

from pathlib import Path

from synthcap_mm.synthesis.run import Worker
from synthcap_mm.synthesis.synthesis import Synthesis


class Stopped(BaseException):
    """Like KeyboardInterrupt, and ours."""


def files(store):
    """What must be the same byte for byte, whoever made it: name below ``tables`` → bytes."""
    folder = Path(store) / "tables"
    found = (p for p in folder.rglob("*") if p.is_file() and p.name[0] != "." and p.suffix != ".damaged")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(found)}


def new_files(store, before):
    """Tables (by name) of the files that were added to ``before``, with their shards' numbers; nothing is replaced."""
    after = files(store)
    assert {name: after[name] for name in before} == before
    found = {}
    for name in sorted({*after} - {*before}):
        table, shard = name.split("/")
        if shard.endswith((".arrow", "tokenizer.json")) or shard[:1].isdigit():
            found.setdefault(table.rpartition("-")[0], set()).add(int(shard[:5]))
    return {table: sorted(numbers) for table, numbers in found.items()}


def hidden(store):
    """Marks and temporary files."""
    return [p for p in Path(store).rglob(".*") if p.name != ".hashes.json"]


def make(settings, only=None, task=None, redraw=False, **changes):
    """Run a synthesis; returns its counts."""
    worker = None if task is None else Worker(*task, own_share_only=True)
    return Synthesis(**{**settings, **changes}).run(only, worker, redraw)
