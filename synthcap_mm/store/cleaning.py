"""What lies in a store's folder: which tables, what nothing refers to, what is damaged."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from synthcap_mm.errors import UserError
from synthcap_mm.files import file_sha256, names_in
from synthcap_mm.progress import megabytes
from synthcap_mm.store.checking import is_part, read_fingerprint, read_recipe, read_view, regular, regular_files
from synthcap_mm.store.errors import StoreError
from synthcap_mm.store.store import Store
from synthcap_mm.store.tables import Table, facts_of, is_undamaged, set_aside

#: Seconds for which a file is kept though nothing refers to it: another job may be making it.
_YOUNG = 7 * 86_400


def views_of(folder: Path) -> dict[str, dict]:
    """The views of a store: file name → content.

    Raises:
        StoreError: if the folder holds no store, or a view is damaged.
    """
    if not (folder / "tables").is_dir():
        raise StoreError(f"{folder} is no store: it has no folder 'tables'")
    return {path.name: read_view(path) for path in _view_files(folder)}


def _view_files(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(names_in(folder)) if re.fullmatch(r"store\.json|first\d+\.json", name)]


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
        encoders = {"encoder": view["encoder"], **view.get("other_encoders", {})}
        encoders = ", ".join(f"{which} {encoder['name']}" for which, encoder in encoders.items())
        lines.append(f"  {name}: {view['kind']}, {encoders}, {', '.join(view['tables'])}")
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
    """Read all files of a store, compare them with their checksums and each other, and rename the damaged ones.

    They are called ``….damaged`` then, and the command that made the store makes them anew.

    Args:
        folder: the store.

    Returns:
        The damaged files.
    """
    damaged = [path for table in _tables(folder) for path in _parts(table) if not _is_right(path)]
    for path in damaged:
        set_aside(path)
    for path in dict.fromkeys(found for view in _view_files(folder) for found in _unequal(view)):
        set_aside(path)
        damaged.append(path)
    return damaged


def stray_files(folder: Path) -> list[Path]:
    """What lies in a store's folder and is no part of it: links, folders, files of other names."""
    strays = [folder / name for name in names_in(folder) - {"tables", *(path.name for path in _view_files(folder))}]
    for table in _tables(folder):
        strays += [table / name for name in names_in(table) - is_part(regular_files(table))]
    return sorted(path for path in strays if not path.name.endswith(".damaged"))


def _parts(table: Path) -> Iterator[Path]:
    """Files of a table with something to compare; pictures are compared with their index."""
    for name in sorted(is_part(regular_files(table))):
        if name in ("recipe.json", "encoder.json") or (name[0].isdigit() and name.endswith(".arrow")):
            yield table / name


def _is_right(path: Path) -> bool:
    try:
        if path.name == "recipe.json":
            return bool(read_recipe(path.parent))
        if path.name == "encoder.json":
            return bool(read_fingerprint(path))
        return is_undamaged(path) and _tar_is_undamaged(path)
    except UserError:
        return False


def _unequal(view: Path) -> Iterator[Path]:
    """What differs between a view and its shards: these have checksums of their own, so that it is the view."""
    try:
        unequal = list(Store(view, read_view(view)).unequal())
    except StoreError:
        yield view
        return
    for path in unequal:
        yield view if path.suffix == ".arrow" else path


def _tar_is_undamaged(path: Path) -> bool:
    expected = facts_of(path).get("tar_sha256")
    return expected is None or file_sha256(regular(path.with_suffix(".tar"))) == expected
