"""What lies in a store's folder: which tables, what nothing refers to, what is damaged."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from synthcap_mm.errors import UserError
from synthcap_mm.files import file_sha256, names_in, read_json
from synthcap_mm.progress import megabytes
from synthcap_mm.store.errors import StoreError
from synthcap_mm.store.tables import Table, facts_of, is_undamaged, set_aside

#: Seconds for which a file is kept though nothing refers to it: another job may be making it.
_YOUNG = 7 * 86_400


def views_of(folder: Path) -> dict[str, dict]:
    """The views of a store: file name → content.

    Raises:
        StoreError: if the folder holds no store.
    """
    if not (folder / "tables").is_dir():
        raise StoreError(f"{folder} is no store: it has no folder 'tables'")
    views = {}
    for path in sorted(folder.glob("*.json")):
        try:
            views[path.name] = read_json(path)
        except UserError as error:
            raise StoreError(f"{path} is damaged: remove it, and run the store's command again") from error
    return {name: view for name, view in views.items() if "tables" in view}


def _used(folder: Path, tables: Iterable[Table]) -> dict[str, set[str]]:
    """Folder of a table → names of the shards that a view or one of ``tables`` refers to."""
    used: dict[str, set[str]] = {}
    for view in views_of(folder).values():
        for entry in view["tables"].values():
            used.setdefault(entry["folder"], set()).update(shard[0] for shard in entry["shards"])
    for table in tables:
        used.setdefault(table.folder.name, set()).update(table.names)
    return used


def _tables(folder: Path) -> list[Path]:
    """Folders of a store's tables."""
    return sorted(path for path in (folder / "tables").iterdir() if path.is_dir())


def _shards(table: Path) -> Iterator[Path]:
    for name in sorted(names_in(table)):
        if name[:1].isdigit():
            yield table / name


def describe(folder: Path) -> str:
    """A table of what lies in a store: tables, shards, bytes, who refers to them, and how they were made.

    Args:
        folder: the store.
    """
    views = views_of(folder)
    lines = [f"store {folder}"]
    for name, view in views.items():
        lines.append(f"  {name}: {view['kind']}, encoder {view['encoder']['name']}, {', '.join(view['tables'])}")
    lines.append(f"  {'table':<34}{'shards':>8}{'size':>12}  in")
    for table in _tables(folder):
        shards = [path for path in _shards(table) if path.suffix != ".tar"]
        size = sum(path.stat().st_size for path in table.iterdir())
        names = [
            f"{file}:{name}"
            for file, view in views.items()
            for name, entry in view["tables"].items()
            if entry["folder"] == table.name
        ]
        lines.append(f"  {table.name:<34}{len(shards):>8}{megabytes(size):>12}  {', '.join(names) or 'nothing'}")
    lines.append(f"  how each was made: {folder}/tables/TABLE/recipe.json")
    return "\n".join(lines)


def unused_files(folder: Path, tables: Iterable[Table] = ()) -> list[Path]:
    """Shards that no view refers to, nor one of ``tables``, and that are older than a week.

    Args:
        folder: the store.
        tables: tables of configs that are to be kept. Default: none.

    Raises:
        StoreError: if there is no view yet, so that nothing refers to what is being made, and no tables either.
    """
    used, now = _used(folder, tables), time.time()
    if not used:
        raise StoreError(
            f"{folder} is not finished: nothing refers to its shards yet. Name the config that makes it: --configs"
        )
    found = []
    for table in _tables(folder):
        stems = {Path(name).stem for name in used.get(table.name, ())}
        found += [p for p in _shards(table) if p.stem not in stems and now - p.stat().st_mtime > _YOUNG]
    return found


def remove(files: Iterable[Path]) -> None:
    """Remove shards, and the folders of tables that have none left."""
    folders = set()
    for file in files:
        file.unlink(missing_ok=True)
        folders.add(file.parent)
    for folder in folders:
        if not any(_shards(folder)):
            for rest in folder.iterdir():
                rest.unlink(missing_ok=True)
            folder.rmdir()


def check(folder: Path) -> list[Path]:
    """Compare all shards with their checksums, and rename the damaged ones to ``….damaged``.

    The command that made the store makes them anew.

    Args:
        folder: the store.

    Returns:
        The damaged shards.
    """
    damaged = []
    for table in _tables(folder):
        for path in _shards(table):
            if path.suffix == ".arrow" and not (is_undamaged(path) and _tar_is_undamaged(path)):
                set_aside(path)
                damaged.append(path)
    return damaged


def _tar_is_undamaged(path: Path) -> bool:
    expected = facts_of(path).get("tar_sha256")
    tar = path.with_suffix(".tar")
    return expected is None or (tar.is_file() and file_sha256(tar) == expected)
