"""List the files of a folder or glob, on local disks and in stores.

A folder that cannot be listed is an error. The `find` and `glob` of fsspec would leave out its documents.
On local disks, symbolic links are followed. A cycle of links is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fsspec.utils import glob_translate

# A file's entry in a listing. It has its `name`. In a store it also has size and etag.
Info = Mapping[str, Any]


def files_below(fs: Any, folder: str) -> Iterable[Info]:
    """The files below a folder, without hidden ones.

    Raises:
        OSError: the folder, or one below it, cannot be listed.
    """
    if is_local(fs):
        return _below(fs, folder, hidden=False)
    return [info for info in fs.find(folder, detail=True).values() if not is_hidden(info["name"], folder)]


def files_matching(fs: Any, pattern: str) -> tuple[str, list[Info]]:
    """The root folder of a glob, and the files that match. Hidden files need a pattern with a hidden name.

    Raises:
        OSError: a folder that may hold matching files cannot be listed.
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
        matching = _matching(f"{root}/{rest}", fs.find(root, detail=True, **options).values())
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
            return [(entry.is_dir(), {"name": entry.path}) for entry in entries]
    infos = ({**info, "name": info["name"].rstrip("/")} for info in fs.ls(folder, detail=True))
    return [(info["type"] == "directory", info) for info in infos if info["name"] != folder]


def _below(fs: Any, folder: str, *, hidden: bool) -> Iterator[Info]:
    for is_folder, info in _entries(fs, folder):
        if hidden or not is_hidden(info["name"], folder):
            if is_folder:
                yield from _below(fs, info["name"], hidden=hidden)
            else:
                yield info


def _match_by_level(fs: Any, folder: str, parts: Sequence[str], *, hidden: bool) -> Iterator[Info]:
    """Match each part of a pattern against one level of folders. Only matching folders are listed."""
    for is_folder, info in _entries(fs, folder):
        name = info["name"].rpartition("/")[2]
        if fnmatchcase(name, parts[0]) and (hidden or not is_hidden(info["name"], folder)):
            if is_folder and len(parts) > 1:
                yield from _match_by_level(fs, info["name"], parts[1:], hidden=hidden)
            elif not is_folder and len(parts) == 1:
                yield info
