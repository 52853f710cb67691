"""What a run will do, before it does it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synthcap_mm.pairs.progress import duration
from synthcap_mm.stores.errors import nearest_folder


def megabytes(count: float) -> str:
    """Bytes as people say them: ``'3.1 MB'``, ``'1.25 GB'``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@dataclass
class Stage:
    """A stage of a run.

    Attributes:
        name: what it is called.
        unit: what its rows are.
        sizes: rows of each of its shards.
        missing: numbers of the shards to do.
        row_bytes: bytes a row, about; ``None``: not known before pictures are seen.
        seconds: measured seconds a row over all ranks, or ``None``.
    """

    name: str
    unit: str
    sizes: Sequence[int]
    missing: Sequence[int]
    row_bytes: float | None = None
    seconds: float | None = None

    @property
    def todo(self) -> int:
        """Rows to do."""
        return sum(self.sizes[i] for i in self.missing)


@dataclass
class Plan:
    """What a run will do.

    Attributes:
        store: the store's folder.
        ranks: how many share the work.
        about: lines of what the store is made of: title → text.
        stages: the stages.
        measured: whether sizes and times come from a dry run.
    """

    store: Path
    ranks: int
    about: dict[str, str]
    stages: list[Stage] = field(default_factory=list)
    measured: bool = False

    def stage(self, name: str) -> Stage | None:
        """The stage of that name, if it is in the plan."""
        return next((s for s in self.stages if s.name == name), None)

    @property
    def bytes_to_do(self) -> float:
        """Bytes that will be written, about; what is not known counts nothing."""
        return sum(s.todo * (s.row_bytes or 0) for s in self.stages)

    @property
    def bytes_in_all(self) -> float:
        """Bytes of the whole store, about; what is not known counts nothing."""
        return sum(sum(s.sizes) * (s.row_bytes or 0) for s in self.stages)

    @property
    def seconds_to_do(self) -> float | None:
        """Expected seconds, after a dry run."""
        return sum(s.todo * (s.seconds or 0) for s in self.stages) if self.measured else None

    @property
    def free(self) -> int:
        """Free bytes where the store is."""
        return shutil.disk_usage(nearest_folder(self.store)).free

    def describe(self) -> str:
        """The plan as text."""
        lines = [f"plan for the store {self.store}"]
        lines += [f"  {title:<11}{text}" for title, text in self.about.items()]
        lines.append(f"  {'stage':<11}{'shards':>8}{'done':>8}{'to do':>8}")
        for s in self.stages:
            todo = f"   {s.todo} {s.unit}" if s.missing else ""
            lines.append(f"  {s.name:<11}{len(s.sizes):>8}{len(s.sizes) - len(s.missing):>8}{len(s.missing):>8}{todo}")
        about = "" if self.measured else "about "
        unknown = [s.name for s in self.stages if s.row_bytes is None]
        lines.append(
            f"  {'disk':<11}{about}{megabytes(self.bytes_in_all)} in all, {about}{megabytes(self.bytes_to_do)} to be "
            f"written; {megabytes(self.free)} free"
            + (f"; without {', '.join(unknown)}, whose size --dry-run measures" if unknown else "")
        )
        if self.bytes_to_do > self.free:
            lines.append("  WARNING    that is more than is free")
        if self.seconds_to_do is not None:
            lines.append(
                f"  {'time':<11}{duration(self.seconds_to_do)} expected on {self.ranks} rank(s) of this kind: "
                + ", ".join(
                    f"{s.name} {duration(s.todo * s.seconds)} ({1 / s.seconds:.1f} {s.unit}/s)"
                    for s in self.stages
                    if s.seconds and s.missing
                )
            )
        return "\n".join(lines)
