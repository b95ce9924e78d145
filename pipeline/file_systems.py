"""The file system of a path or address."""

from __future__ import annotations

import os
import re
from glob import has_magic
from typing import Any

import fsspec
from fsspec.utils import glob_translate

# The stores that inputs may be on. The libraries take endpoint, region and credentials from the environment.
REMOTE = ("s3", "s3a", "hf")

# The libraries must not retry, since their retries would multiply with those of `retry.py`.
_S3 = {"config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 10, "read_timeout": 60}}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3, "s3a": _S3}


def locate(address: str) -> tuple[Any, str]:
    """The file system of a path or address, and the name of the file in it.

    Nothing in the name is syntax. fsspec itself would read `a::b` as a file b inside of a.
    """
    scheme, separator, name = address.partition("://")
    if separator and scheme in REMOTE:
        return file_system(scheme), name.rstrip("/")
    path = address.removeprefix("file://")
    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))


def file_system(scheme: str) -> Any:
    """The fsspec file system of a store, without cached listings and without retries of its own."""
    fs = fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS.get(scheme, {}))
    if hasattr(fs, "retries"):
        fs.retries = 1
    return fs


def resolved(address: str) -> str:
    """The absolute path without links of a path, or an address without a slash at its end."""
    _, name = locate(address)
    return os.path.realpath(name) if is_local(address) else address.rstrip("/")


def is_local(address: str) -> bool:
    """Whether a path or address is on a disk of this machine, or mounted."""
    return "://" not in address or address.startswith(("/", "file://"))


def is_inside(folder: str, given: str) -> bool:
    """Whether files in `folder` are among those of `given`, a folder or glob. Folders whose names begin with
    `.` or `_` are left out of a folder."""
    folder, given = resolved(folder), resolved(given)
    if has_magic(given):
        return re.match(glob_translate(given), f"{folder}/part-0.parquet") is not None
    below = folder[len(given) :].strip("/").split("/")
    return folder == given or (
        folder.startswith(f"{given}/") and not any(part[:1] in ("_", ".") for part in below)
    )
