"""The output folder: a place where a name is written once, whole or not at all, and never changes.

On a local disk a file is written under a hidden name in the same folder, flushed, and linked to its name; the link fails
where the name exists, so of two rivals one wins and nobody sees a part of a file.

Not here: deleting. Nothing that was committed is ever removed.
"""

from __future__ import annotations

import os
import uuid
from enum import Enum
from pathlib import Path
from typing import Protocol

from pipeline.errors import CorruptOutput, UsageError


class Outcome(Enum):
    """What a create-only write found."""

    CREATED = "created"
    EXISTS = "exists"


class Store(Protocol):
    """A folder of create-only names."""

    url: str

    def names(self) -> set[str]:
        """The names that exist, hidden ones left out."""

    def create(self, name: str, data: bytes) -> Outcome:
        """Write `name` whole, unless it exists."""

    def read(self, name: str) -> bytes:
        """The content of `name`.

        Raises:
            CorruptOutput: it does not exist.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write `name` whole, over what was there: for reports, never for results."""


class LocalStore:
    """A folder on a disk of this machine, or one that every machine mounts."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.url = str(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the output folder {self.folder} cannot be made ({error.strerror}); choose another.") from error

    def names(self) -> set[str]:
        return {entry.name for entry in os.scandir(self.folder) if entry.is_file() and not entry.name.startswith(".")}

    def create(self, name: str, data: bytes) -> Outcome:
        hidden = self._write_hidden(name, data)
        try:
            os.link(hidden, self.folder / name)
        except FileExistsError:
            return Outcome.EXISTS
        finally:
            hidden.unlink()
        self._sync_folder()
        return Outcome.CREATED

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise CorruptOutput(f"{self.folder / name} does not exist.") from error

    def replace(self, name: str, data: bytes) -> None:
        self._write_hidden(name, data).replace(self.folder / name)
        self._sync_folder()

    def _write_hidden(self, name: str, data: bytes) -> Path:
        if not name or Path(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} is not a plain file name.")
        hidden = self.folder / f".{name}.{uuid.uuid4().hex}"
        try:
            with open(hidden, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            hidden.unlink(missing_ok=True)
            raise
        return hidden

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_store(url: str) -> Store:
    """The store at `url`.

    Raises:
        UsageError: the address is not one this version writes to, or is not a folder.
    """
    scheme, _, rest = url.rpartition("://")
    if scheme not in ("", "file"):
        raise UsageError(f"the output {url} is on {scheme}; this version writes to local and mounted folders.")
    if Path(rest).is_file():
        raise UsageError(f"the output {url} is a file; name a folder.")
    return LocalStore(rest)
