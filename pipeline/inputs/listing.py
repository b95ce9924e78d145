"""List the files of a folder or glob, on local disks and in stores.

A folder that cannot be listed is an error. The `find` and `glob` of fsspec would leave out its documents.
On local disks, symbolic links are followed. A cycle of links is an error. So is a folder that is a table of
Delta, Iceberg or Hudi, because its log decides which of its files have valid rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fsspec.utils import glob_translate

from pipeline.errors import UsageError

# The folders of a table's log.
_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
_ICEBERG_FOLDER, _ICEBERG_FILE = "metadata", re.compile(r"(v\d+|\d+-[0-9a-f-]{36})\.metadata\.json")

# A file's entry in a listing. It has its `name`. In a store it also has size and etag.
Info = Mapping[str, Any]


def files_below(fs: Any, folder: str) -> Iterable[Info]:
    """The files below a folder, without those in hidden folders.

    Raises:
        OSError: the folder, or one below it, cannot be listed.
        UsageError: the folder, or one below it, is a table.
    """
    if is_local(fs):
        return _below(fs, folder, hidden=False)
    infos = list(fs.find(folder, detail=True).values())
    _check_no_table_in(folder, (info["name"] for info in infos))
    return [info for info in infos if not is_hidden(info["name"].rpartition("/")[0], folder)]


def files_matching(fs: Any, pattern: str) -> tuple[str, list[Info]]:
    """The root folder of a glob, and the files that match. Hidden files need a pattern with a hidden name.

    Raises:
        OSError: a folder that may hold matching files cannot be listed.
        UsageError: such a folder is a table.
    """
    fixed = pattern[: next(i for i, c in enumerate(pattern) if c in "*?[")]
    root, _, stem = fixed.rpartition("/")
    try:
        info = fs.info(root or "/")
    except FileNotFoundError:
        return root, []
    rest = pattern[len(root) :].strip("/")
    root = info["name"].rstrip("/")  # on the hub, this name differs from the requested one
    hidden, parts = is_hidden(rest, ""), rest.split("/")
    if not any("**" in part for part in parts):
        matching = _match_by_level(fs, root, parts, hidden=hidden)
    elif is_local(fs):
        matching = _matching(f"{root}/{rest}", _below(fs, root, hidden=hidden))
    else:
        options = {"prefix": stem} if protocol_of(fs) == "s3" else {}
        infos = list(fs.find(root, detail=True, **options).values())
        _check_no_table_in(root, (info["name"] for info in infos))
        matching = _matching(f"{root}/{rest}", infos)
    return root, [info for info in matching if hidden or not is_hidden(info["name"], root)]


def is_hidden(name: str, root: str) -> bool:
    """True if a file name, or a folder between it and `root`, begins with `.` or `_`."""
    return any(part[:1] in ("_", ".") for part in name[len(root) :].strip("/").split("/"))


def is_local(fs: Any) -> bool:
    """True for the file system of this machine."""
    return protocol_of(fs) in ("file", "local")


def protocol_of(fs: Any) -> str:
    """The protocol of a file system in addresses. If it has several, the first one."""
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def _matching(pattern: str, infos: Iterable[Info]) -> Iterator[Info]:
    matches = re.compile(glob_translate(pattern)).match
    return (info for info in infos if matches(info["name"]))


def _entries(fs: Any, folder: str) -> list[tuple[bool, Info]]:
    """The entries of a folder as (is a folder, info)."""
    if is_local(fs):
        with os.scandir(folder or "/") as entries:
            listed: list[tuple[bool, Info]] = [(entry.is_dir(), {"name": entry.path}) for entry in entries]
    else:
        infos = ({**info, "name": info["name"].rstrip("/")} for info in fs.ls(folder, detail=True))
        listed = [(info["type"] == "directory", info) for info in infos if info["name"] != folder]
    names = [info["name"] for is_folder, info in listed if is_folder]
    metadata = f"{folder.rstrip('/')}/{_ICEBERG_FOLDER}"
    if metadata in names:
        names += os.listdir(metadata) if is_local(fs) else fs.ls(metadata, detail=False)
    _check_no_table(folder, names)
    return listed


def _check_no_table_in(folder: str, names: Iterable[str]) -> None:
    """Check that neither `folder` nor a folder below it is a table. `names` are those of all files in it."""
    inside = set()
    for name in names:
        parts = name[len(folder) :].strip("/").split("/")
        inside.update(parts[:-1])
        if parts[-2:-1] == [_ICEBERG_FOLDER]:
            inside.add(parts[-1])
    _check_no_table(folder, inside)


def _check_no_table(folder: str, names: Iterable[str]) -> None:
    """Check that a folder with entries of these names is not a table.

    Raises:
        UsageError: it is.
    """
    for name in names:
        base = name.rpartition("/")[2]
        kind = _TABLES.get(base) or ("Iceberg" if _ICEBERG_FILE.fullmatch(base) else None)
        if kind:
            raise UsageError(
                f"the input {folder} is a table of {kind}. Its log decides which rows are valid, so its "
                "files must not be read on their own. Give the folder of a Delta table itself or the name of "
                "an Iceberg table (iceberg://CATALOG/NAMESPACE.TABLE), or write the rows to Parquet files "
                "elsewhere."
            )


def _below(fs: Any, folder: str, *, hidden: bool) -> Iterator[Info]:
    """The files below a folder. Without `hidden`, those in hidden folders are left out."""
    for is_folder, info in _entries(fs, folder):
        if not is_folder:
            yield info
        elif hidden or not is_hidden(info["name"], folder):
            yield from _below(fs, info["name"], hidden=hidden)


def _match_by_level(fs: Any, folder: str, parts: Sequence[str], *, hidden: bool) -> Iterator[Info]:
    """Match each part of a pattern against one level of folders. Only matching folders are listed."""
    for is_folder, info in _entries(fs, folder):
        name = info["name"].rpartition("/")[2]
        if fnmatchcase(name, parts[0]) and (hidden or not is_hidden(info["name"], folder)):
            if is_folder and len(parts) > 1:
                yield from _match_by_level(fs, info["name"], parts[1:], hidden=hidden)
            elif not is_folder and len(parts) == 1:
                yield info
