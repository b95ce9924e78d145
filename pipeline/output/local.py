"""The output folder on a disk.

A file is written under a hidden name in the same folder, flushed, and linked to its name; the link fails
where the name exists, so of two rivals one wins and nobody sees a part of a file. A writer that is killed may
leave its hidden file behind; it is in nobody's way.
"""

from __future__ import annotations

import errno
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import CorruptOutput, PipelineError, UsageError
from pipeline.output.store import Outcome, plain_name

# What a disk says that has no hard links; all else may be otherwise at the next try.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


class LocalStore:
    """A folder on a disk of this machine, or one that every machine mounts; that of a run which has `begun`
    is not made."""

    def __init__(self, folder: str | Path, begun: bool = False) -> None:
        self.folder, self._begun = Path(folder).absolute(), begun
        self.url = str(self.folder)
        with self._refusals():
            if self.folder.is_file():
                raise UsageError(f"the output {folder} is a file; name a folder.")

    def names(self) -> set[str]:
        try:
            with self._refusals():
                return {
                    entry.name
                    for entry in os.scandir(self.folder)
                    if entry.is_file() and not entry.name.startswith(".")
                }
        except FileNotFoundError:
            return set()

    def create(self, name: str, data: bytes) -> Outcome:
        hidden = self._write_hidden(name, data)
        try:
            os.link(hidden, self.folder / name)
        except FileExistsError:
            return Outcome.EXISTS
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise self._unwritten(name, error) from error
            raise UsageError(
                f"the output folder {self.folder} takes no hard links ({error.strerror}), which keep a name from being written "
                "twice; choose a folder on another disk, or s3://."
            ) from error
        finally:
            hidden.unlink()
        self._sync_folder()
        return Outcome.CREATED

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        try:
            with self._refusals():
                return open(self.folder / name, "rb")
        except FileNotFoundError as error:
            raise CorruptOutput(f"{self.folder / name} does not exist.") from error

    def replace(self, name: str, data: bytes) -> None:
        self._write_hidden(name, data).replace(self.folder / name)
        self._sync_folder()

    def _write_hidden(self, name: str, data: bytes) -> Path:
        hidden = self.folder / f".{plain_name(name)}.{uuid.uuid4().hex}"
        if self._begun and not self.folder.is_dir():
            raise PipelineError(
                f"the output folder {self.folder} is not on {socket.gethostname()}: rows would be scattered. "
                "Give one that all machines mount, or s3://."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the output folder {self.folder} cannot be made ({error.strerror}); choose another."
            ) from error
        try:
            with open(hidden, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            hidden.unlink(missing_ok=True)
            raise self._unwritten(name, error) from error
        return hidden

    def _unwritten(self, name: str, error: OSError) -> PipelineError:
        says = f"{self.folder / name} cannot be written ({error.strerror})"
        return PipelineError(f"{says}; make room, and the same command goes on from here.")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Names the folder where the system refuses what is asked of it."""
        try:
            yield
        except (NotADirectoryError, PermissionError) as error:
            raise UsageError(
                f"the output folder {self.folder} cannot be used ({error.strerror}); name another, or allow it to this user."
            ) from error

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
