"""The output folder on an object store: S3, or another that fsspec writes create-only.

A name is written by one request that the store refuses where the name exists (`If-None-Match: *`). An answer
other than success says little: a lost reply, a rival and a request that never came look alike. So what stands
under the name is read and compared with what was sent, which is this writer's alone; where nothing stands,
the same request is made again.

Never in several parts: some stores ignore the condition when parts are put together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
from botocore.exceptions import NoCredentialsError

from pipeline.errors import CorruptOutput, PipelineError, UsageError, one_line
from pipeline.output.store import Outcome, plain_name
from pipeline.retry import retrying

# The most that S3 takes in one request.
LARGEST = 5 * 2**30

# Where fsspec's packages turn `mode="create"` into a condition of the request. S3 is tested; `store.probe`
# sees of the others what they do.
_CREATE_ONLY = ("s3", "gs", "abfs")

# A request is tried so often, over a minute: a store that answers 503 for longer has trouble of its own.
ATTEMPTS = 8

# Retries are `retry.py`'s; those of the libraries below would multiply with them.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 10, "read_timeout": 60}},
}

Result = TypeVar("Result")


class ObjectStore:
    """A folder of an object store, by its address such as `s3://bucket/folder`.

    Raises:
        UsageError: fsspec knows no such store, or cannot write create-only there.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme, _, rest = self.url.partition("://")
        if scheme not in _CREATE_ONLY:
            raise UsageError(
                f"the output {url}: a name cannot be written create-only on {scheme}://; take one of "
                f"{', '.join(f'{s}://' for s in _CREATE_ONLY)} or a folder."
            )
        self._fs = file_system(scheme)
        self._folder = rest
        if "/" not in rest.strip("/"):
            raise UsageError(
                f"the output {url} is a whole bucket; name a folder in it, such as {self.url}/results."
            )

    def names(self) -> set[str]:
        def listing() -> list[str]:
            self._fs.invalidate_cache()
            try:
                return [
                    path
                    for path in self._fs.ls(self._folder, detail=False)
                    if path.rstrip("/") != self._folder
                ]
            except FileNotFoundError:
                return []

        found = (
            path.rsplit("/", 1)[1] for path in self._asking("list", "", listing) if not path.endswith("/")
        )
        return {name for name in found if not name.startswith(".")}

    def create(self, name: str, data: bytes) -> Outcome:
        path = self._path(name)
        if len(data) >= LARGEST:
            raise PipelineError(
                f"{self.url}/{name} would have {len(data)} bytes; a store takes {LARGEST} in one request: make "
                "shards smaller, --shard-documents."
            )

        def attempt() -> Outcome:
            try:
                self._fs.pipe_file(path, data, mode="create", chunksize=LARGEST)
                return Outcome.CREATED
            except (PermissionError, NoCredentialsError):
                raise
            except FileNotFoundError as error:
                raise UsageError(
                    f"the output {self.url}: the bucket does not exist; make it, or name another."
                ) from error
            except Exception as error:
                standing = self._standing(path)
                if standing is None:
                    raise ConnectionError(one_line(error)) from error
                return Outcome.CREATED if standing == data else Outcome.EXISTS

        return self._asking("write", name, attempt)

    def read(self, name: str) -> bytes:
        try:
            return cast(bytes, self._asking("read", name, lambda: self._fs.cat_file(self._path(name))))
        except FileNotFoundError as error:
            raise CorruptOutput(f"{self.url}/{name} does not exist.") from error

    def open(self, name: str) -> BinaryIO:
        def opened() -> BinaryIO:
            return cast(BinaryIO, self._fs.open(self._path(name), "rb", block_size=2**16))

        try:
            return self._asking("open", name, opened)
        except FileNotFoundError as error:
            raise CorruptOutput(f"{self.url}/{name} does not exist.") from error

    def replace(self, name: str, data: bytes) -> None:
        self._asking("write", name, lambda: self._fs.pipe_file(self._path(name), data))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{plain_name(name)}"

    def _standing(self, path: str) -> bytes | None:
        """What stands under a name; None where nothing does."""
        self._fs.invalidate_cache()
        try:
            return cast(bytes, self._fs.cat_file(path))
        except FileNotFoundError:
            return None

    def _asking(self, verb: str, name: str, work: Callable[[], Result]) -> Result:
        """What `work` returns, tried again while the fault may pass.

        Raises:
            FileNotFoundError: there is no such name.
            UsageError: the store knows no such user, or forbids it.
            PipelineError: it failed to the last.
        """
        what = f"to {verb} {self.url}/{name}".rstrip("/")
        try:
            return retrying(work, ATTEMPTS)
        except (PipelineError, FileNotFoundError):
            raise
        except (PermissionError, NoCredentialsError) as error:
            raise UsageError(
                f"{what} was refused ({one_line(error)}); check the credentials and what they may do."
            ) from error
        except Exception as error:
            raise PipelineError(
                f"{what} failed after up to {ATTEMPTS} attempts ({type(error).__name__}: {one_line(error)}). The same command "
                "goes on from here once the store answers."
            ) from error


def file_system(scheme: str) -> Any:
    """fsspec's file system of a scheme, without memory of listings and without retries of its own.

    Raises:
        UsageError: there is none, or the package for it is not installed.
    """
    try:
        found = fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS.get(scheme, {}))
    except (ValueError, ImportError) as error:
        raise UsageError(f"{scheme}:// cannot be used: {one_line(error)}") from error
    if hasattr(found, "retries"):
        found.retries = 1
    return found
