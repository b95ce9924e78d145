"""The output folder on S3, or on another object store where fsspec writes create-only.

A file is written by one conditional request (`If-None-Match: *`), which the store refuses if the name exists.
An error does not show whether the file was written. The reply may be lost, another writer may have been
first, or the request may never have arrived. The object is therefore read and compared with the data sent,
which is unique to this writer. If there is no object, the request is repeated.

Multipart uploads are not used, since some stores ignore the condition when they join the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from botocore.exceptions import NoCredentialsError

from pipeline.errors import CorruptOutput, PipelineError, UsageError, one_line
from pipeline.file_systems import file_system
from pipeline.output.store import Outcome, plain_name
from pipeline.remote import call, open_object, read_all, refusal, stat
from pipeline.retry import retrying

# The largest object, in bytes, that S3 accepts in one request.
LARGEST = 5 * 2**30

# Stores where fsspec's packages turn `mode="create"` into a condition of the request. S3 is tested. For the
# others, `store.probe` checks it.
_CREATE_ONLY = ("s3", "gs", "abfs")

# Attempts at one request, over about a minute. A store that answers 503 for longer is broken.
ATTEMPTS = 8

# The time limit of a listing, as a number of requests. It has a page for every thousand names.
_PAGES = 20

# Bytes that are fetched at once from a file that is read in parts.
_READ_AHEAD = 1 << 16

T = TypeVar("T")


class ObjectStore:
    """A folder of an object store, given by an address such as `s3://bucket/folder`.

    Raises:
        UsageError: fsspec does not support the store, or cannot write create-only there.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme, _, rest = self.url.partition("://")
        if scheme not in _CREATE_ONLY:
            raise UsageError(
                f"the output {url} is on {scheme}://, which does not support create-only writes; use one of "
                f"{', '.join(f'{s}://' for s in _CREATE_ONLY)} or a local folder."
            )
        try:
            self._fs: Any = file_system(scheme)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{scheme}:// cannot be used: {one_line(error)}") from error
        self._folder = rest
        if "/" not in rest.strip("/"):
            raise UsageError(
                f"the output {url} is a whole bucket; give a folder in it, such as {self.url}/results."
            )

    def names(self) -> set[str]:
        return {name for name, kind in self._entries().items() if kind == "file"}

    def unusual_entries(self) -> dict[str, str]:
        return {name: "folder" for name, kind in self._entries().items() if kind == "directory"}

    def _entries(self) -> dict[str, str]:
        """The names in the folder, without hidden ones, each with its type (file or directory)."""

        def listing() -> list[dict[str, str]]:
            self._fs.invalidate_cache()
            try:
                return cast(
                    list[dict[str, str]], call(self._fs, "ls", self._folder, detail=True, requests=_PAGES)
                )
            except FileNotFoundError:
                return []

        listed = {
            info["name"].rstrip("/").rsplit("/", 1)[1]: info["type"]
            for info in self._request("list", "", listing)
            if info["name"].rstrip("/") != self._folder
        }
        return {name: kind for name, kind in listed.items() if not name.startswith(".")}

    def create(self, name: str, data: bytes) -> Outcome:
        path = self._path(name)
        if len(data) >= LARGEST:
            raise PipelineError(
                f"{self.url}/{name} would have {len(data)} bytes; a store accepts fewer than {LARGEST} in "
                "one request. Choose a smaller --shard-documents."
            )

        def attempt() -> Outcome:
            try:
                call(self._fs, "pipe_file", path, data, mode="create", chunksize=LARGEST, size=len(data))
                return Outcome.CREATED
            except (PermissionError, NoCredentialsError):
                raise
            except FileNotFoundError as error:
                raise UsageError(
                    f"the output {self.url}: the bucket does not exist; create it, or give another."
                ) from error
            except Exception as error:
                stored = self._stored(path)
                if stored is None:
                    raise ConnectionError(one_line(error)) from error
                return Outcome.CREATED if stored == data else Outcome.EXISTS

        return self._request("write", name, attempt)

    def read(self, name: str) -> bytes:
        try:
            return self._request("read", name, lambda: read_all(self._fs, self._path(name)))
        except FileNotFoundError as error:
            raise CorruptOutput(f"{self.url}/{name} does not exist.") from error

    def exists(self, name: str) -> bool:
        try:
            self._request("find", name, lambda: stat(self._fs, self._path(name)))
            return True
        except FileNotFoundError:
            return False

    def open(self, name: str) -> BinaryIO:
        path = self._path(name)
        try:
            found = self._request("open", name, lambda: stat(self._fs, path))
        except FileNotFoundError as error:
            raise CorruptOutput(f"{self.url}/{name} does not exist.") from error
        return open_object(self._fs, path, found, _READ_AHEAD, lambda work: self._request("read", name, work))

    def replace(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._request("write", name, lambda: call(self._fs, "pipe_file", path, data, size=len(data)))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{plain_name(name)}"

    def _stored(self, path: str) -> bytes | None:
        """The content of an object, or None if it does not exist."""
        self._fs.invalidate_cache()
        try:
            return read_all(self._fs, path)
        except FileNotFoundError:
            return None

    def _request(self, action: str, name: str, work: Callable[[], T]) -> T:
        """The result of `work`. Transient faults are retried. `action` is used in error messages.

        Raises:
            FileNotFoundError: the object does not exist.
            UsageError: the credentials are missing, or do not permit the request.
            PipelineError: the last attempt failed.
        """
        what = f"the request to {action} {self.url}/{name}".rstrip("/")
        try:
            return retrying(work, ATTEMPTS)
        except (PipelineError, FileNotFoundError):
            raise
        except (PermissionError, NoCredentialsError) as error:
            said, remedy = refusal(error)
            if remedy is not None:
                raise PipelineError(
                    f"{what} was refused ({said}): {remedy}, then rerun the same command to resume."
                ) from error
            raise UsageError(
                f"{what} was refused ({said}); check the credentials and their permissions."
            ) from error
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise PipelineError(
                f"{what} failed after up to {ATTEMPTS} attempts ({reason}). Once the store answers, rerun "
                "the same command to resume."
            ) from error
