"""The output folder on a disk.

A file is written under a hidden name in the same folder, flushed, and linked to its name. The link fails if
the name exists, so only one of two writers succeeds, and readers never see a part of a file. A killed writer
may leave its hidden file behind, which is harmless.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import CorruptOutput, PipelineError, UsageError
from pipeline.output.store import Outcome, plain_name

# The errors of a disk without hard links. Other errors may be transient.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


class LocalStore:
    """A folder on a disk of this machine, or one that all machines mount.

    With `must_exist`, the folder is not created. A run that has started uses it.

    Raises:
        UsageError: the path cannot be used, or is a file.
    """

    def __init__(self, folder: str | Path, must_exist: bool = False) -> None:
        self.folder, self._must_exist = Path(folder).absolute(), must_exist
        self.url = str(self.folder)
        with self._access_errors():
            if self.folder.is_file():
                raise UsageError(f"the output {folder} is a file; give a folder.")

    def names(self) -> set[str]:
        try:
            with self._access_errors():
                return {
                    entry.name
                    for entry in os.scandir(self.folder)
                    if entry.is_file() and not entry.name.startswith(".")
                }
        except FileNotFoundError:
            return set()

    def exists(self, name: str) -> bool:
        with self._access_errors():
            return (self.folder / plain_name(name)).is_file()

    def unusual_entries(self) -> dict[str, str]:
        with self._access_errors(), os.scandir(self.folder) as entries:
            kinds = {
                entry.name: "symbolic link" if entry.is_symlink() else "folder"
                for entry in entries
                if entry.is_symlink() or entry.is_dir()
            }
        return {name: kind for name, kind in kinds.items() if not name.startswith(".")}

    def create(self, name: str, data: bytes) -> Outcome:
        hidden = self._write_hidden(name, data)
        try:
            os.link(hidden, self.folder / name)
        except FileExistsError:
            return Outcome.EXISTS
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise self._write_error(name, error) from error
            raise UsageError(
                f"the output folder {self.folder} does not support hard links ({error.strerror}), which are "
                "needed to write results create-only; choose a folder on another disk, or s3://."
            ) from error
        finally:
            with suppress(OSError):  # a hidden file that stays is harmless
                hidden.unlink()
        self._sync_folder(name)
        return Outcome.CREATED

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        try:
            with self._access_errors():
                return io.BufferedReader(_ResultFile(self.folder / plain_name(name)))
        except FileNotFoundError as error:
            raise CorruptOutput(f"{self.folder / name} does not exist.") from error

    def replace(self, name: str, data: bytes) -> None:
        hidden = self._write_hidden(name, data)
        try:
            hidden.replace(self.folder / name)
        except OSError as error:
            raise self._write_error(name, error) from error
        self._sync_folder(name)

    def _write_hidden(self, name: str, data: bytes) -> Path:
        hidden = self.folder / f".{plain_name(name)}.{uuid.uuid4().hex}"
        if self._must_exist and not self.folder.is_dir():
            raise PipelineError(
                f"the output folder {self.folder} does not exist on {socket.gethostname()}, so results would "
                "be scattered over machines. Give a folder that all machines mount, or s3://."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the output folder {self.folder} cannot be created ({error.strerror}); choose another."
            ) from error
        try:
            with open(hidden, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                hidden.unlink(missing_ok=True)
            raise self._write_error(name, error) from error
        return hidden

    def _write_error(self, name: str, error: OSError) -> PipelineError:
        return PipelineError(
            f"{self.folder / name} cannot be written ({error.strerror}); {_remedy(error)}, then rerun the "
            "same command to resume."
        )

    @contextmanager
    def _access_errors(self) -> Iterator[None]:
        """Raise errors of a path or of its permissions with the folder's name.

        Raises:
            UsageError: the path is below a file, or this user may not use it.
            PipelineError: the disk fails.
        """
        try:
            yield
        except FileNotFoundError:
            raise
        except (NotADirectoryError, PermissionError) as error:
            raise UsageError(
                f"the output folder {self.folder} cannot be used ({error.strerror}); give another, or give "
                "this user permission."
            ) from error
        except OSError as error:
            raise _read_error(str(self.folder), error) from error

    def _sync_folder(self, name: str) -> None:
        try:
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._write_error(name, error) from error


class _ResultFile(io.FileIO):
    """A file of the folder. An error while it is read names it."""

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _read_error(str(self.name), error) from error

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            raise _read_error(str(self.name), error) from error


def _read_error(path: str, error: OSError) -> PipelineError:
    return PipelineError(
        f"{path} cannot be read now ({error.strerror}); {_remedy(error)}, then rerun the same command to "
        "resume."
    )


def _remedy(error: OSError) -> str:
    """What to do about an error of a disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room"
    if error.errno == errno.EROFS:
        return "mount it for writing"
    return "check the disk"
