"""The files that a folder or a glob names, on disks and in stores. What cannot be listed is an error:
fsspec's own `find` and `glob` leave it out, and with it the documents below.

On disks links lead where they lead; a circle of them is an error too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fsspec.utils import glob_translate

# What a file system says of a file: its `name`, and of a store's its size and etag.
Info = Mapping[str, Any]


def files_below(fs: Any, folder: str) -> Iterable[Info]:
    """The files below a folder, those hidden left out.

    Raises:
        OSError: it, or a folder below, cannot be listed.
    """
    if is_local(fs):
        return _below(fs, folder, hidden=False)
    return [info for info in fs.find(folder, detail=True).values() if not is_hidden(info["name"], folder)]


def files_matching(fs: Any, pattern: str) -> tuple[str, list[Info]]:
    """(the folder that a glob begins in, the files that it names), those hidden left out unless the glob
    names such.

    Raises:
        OSError: a folder that may hold some cannot be listed.
    """
    fixed = pattern[: next(i for i, c in enumerate(pattern) if c in "*?[")]
    root, _, stem = fixed.rpartition("/")
    try:
        info = fs.info(root or "/")
    except FileNotFoundError:
        return root, []
    rest = pattern[len(root) :].strip("/")
    root = info["name"].rstrip("/")  # of the hub's folders it is another than was asked for
    hidden, parts = is_hidden(rest, ""), rest.split("/")
    if not any("**" in part for part in parts):
        found = _step_by_step(fs, root, parts, hidden=hidden)
    elif is_local(fs):
        found = _named(f"{root}/{rest}", _below(fs, root, hidden=hidden))
    else:
        found = _named(
            f"{root}/{rest}",
            fs.find(root, detail=True, **({"prefix": stem} if protocol_of(fs) == "s3" else {})).values(),
        )
    return root, [info for info in found if hidden or not is_hidden(info["name"], root)]


def is_hidden(name: str, root: str) -> bool:
    """Does a name below `root`, or that of a folder between, begin with `.` or `_`?"""
    return any(part[:1] in ("_", ".") for part in name[len(root) :].strip("/").split("/"))


def is_local(fs: Any) -> bool:
    """Is it the file system of this machine?"""
    return protocol_of(fs) in ("file", "local")


def protocol_of(fs: Any) -> str:
    """The first of the names that a file system has in addresses."""
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def _named(pattern: str, infos: Iterable[Info]) -> Iterator[Info]:
    matches = re.compile(glob_translate(pattern)).match
    return (info for info in infos if matches(info["name"]))


def _entries(fs: Any, folder: str) -> list[tuple[bool, Info]]:
    """What lies in a folder: is it a folder itself, and what is said of it."""
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


def _step_by_step(fs: Any, folder: str, parts: Sequence[str], *, hidden: bool) -> Iterator[Info]:
    """A level of folders for each part of a pattern: no others are looked into."""
    for is_folder, info in _entries(fs, folder):
        name = info["name"].rpartition("/")[2]
        if fnmatchcase(name, parts[0]) and (hidden or not is_hidden(info["name"], folder)):
            if is_folder and len(parts) > 1:
                yield from _step_by_step(fs, info["name"], parts[1:], hidden=hidden)
            elif not is_folder and len(parts) == 1:
                yield info
