"""Requests to object stores. Each has a time limit and is retried, and its answer has the right length."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from fsspec.asyn import sync

from pipeline.errors import one_line
from pipeline.retry import retrying

# Seconds for a request to be answered, and bytes per second that it may take in addition. Otherwise a store
# that accepts a connection and never answers would hang a run.
REQUEST_SECONDS = 90.0
_BYTES_PER_SECOND = 1 << 20

# What a store says if a request is refused for a reason that does not lie in the command, and what to do.
_CURABLE = {
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "ExpiredToken": "the credentials have expired; renew them",
    "ExpiredTokenException": "the credentials have expired; renew them",
    "TokenRefreshRequired": "the credentials have expired; renew them",
}

# Codes of errors whose answer had no body.
_WITHOUT_REASON = ("400", "403")

Run = Callable[[Callable[[], bytes]], bytes]


def call(fs: Any, method: str, *args: Any, size: int = 0, requests: int = 1, **options: Any) -> Any:
    """Call a method of a file system that makes at most so many requests, with about `size` bytes of content.

    Raises:
        TimeoutError: it is not answered in time.
    """
    if getattr(fs, "async_impl", False):
        options["timeout"] = requests * REQUEST_SECONDS + size / _BYTES_PER_SECOND
    return getattr(fs, method)(*args, **options)


def stat(fs: Any, path: str) -> dict[str, Any]:
    """What a file system knows about a file, such as its size.

    Raises:
        FileNotFoundError: it does not exist.
    """
    try:
        return cast(dict[str, Any], call(fs, "info", path))
    except OSError as error:
        if error_code(error) in _WITHOUT_REASON:
            # The answer to HEAD has no body that says why. That to GET does.
            call(fs, "cat_file", path, start=0, end=1)
        raise


def read_range(fs: Any, path: str, start: int, stop: int, etag: str | None = None) -> bytes:
    """The bytes `start` to `stop`, exclusive, of an object. On S3 it must still have the `etag`, if given.

    Raises:
        ConnectionError: the answer has another length.
        OSError: the object has another etag.
    """
    seconds = REQUEST_SECONDS + (stop - start) / _BYTES_PER_SECOND
    if etag is not None and hasattr(fs, "_call_s3"):
        data = cast(bytes, sync(fs.loop, _get_unchanged, fs, path, start, stop, etag, timeout=seconds))
    else:
        data = cast(bytes, call(fs, "cat_file", path, start=start, end=stop, size=stop - start))
    if len(data) != stop - start:
        raise ConnectionError(f"the store sent {len(data)} bytes of {stop - start}")
    return data


async def _get_unchanged(fs: Any, path: str, start: int, stop: int, etag: str) -> bytes:
    bucket, key, _ = fs.split_path(path)
    reply = await fs._call_s3(
        "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=etag
    )
    async with reply["Body"] as body:
        return cast(bytes, await body.read())


def read_all(fs: Any, path: str) -> bytes:
    """The content of an object.

    Raises:
        FileNotFoundError: it does not exist.
        ConnectionError: the answer is not as long as the object.
    """
    size = int(stat(fs, path)["size"])
    return read_range(fs, path, 0, size) if size else b""


def open_object(
    fs: Any, path: str, found: Mapping[str, Any], read_ahead: int, run: Run = retrying
) -> BinaryIO:
    """An object as a file that is read by ranges. `found` is what `stat` says about it.

    With a `read_ahead` of 0, only the bytes that are asked for are fetched. `run` makes a request and handles
    its errors. An object on S3 that is replaced while it is read is an error.
    """
    opened = _Object(fs, path, found, run)
    return cast(BinaryIO, io.BufferedReader(opened, read_ahead) if read_ahead else opened)


class _Object(io.RawIOBase):
    """An object of a store, read by ranges."""

    def __init__(self, fs: Any, path: str, found: Mapping[str, Any], run: Run) -> None:
        super().__init__()
        self._fs, self._path, self._run = fs, path, run
        self._size, self._etag = int(found["size"]), found.get("ETag")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self._size)
        if stop <= start:
            return 0
        data = self._run(lambda: read_range(self._fs, self._path, start, stop, self._etag))
        view[: len(data)] = data
        self._position = stop
        return len(data)

    def readall(self) -> bytes:
        start = self._position
        if start >= self._size:
            return b""
        self._position = self._size
        return self._run(lambda: read_range(self._fs, self._path, start, self._size, self._etag))


def refusal(error: BaseException) -> tuple[str, str | None]:
    """What a store says about a request that it refused, and what to do if it may succeed later. None if the
    command or the permissions must change."""
    code, message = error_code(error), one_line(error)
    if code is None:
        return message, None
    return code if message in ("None", code) else f"{code}: {message}", _CURABLE.get(code)


def error_code(error: BaseException | None) -> str | None:
    """The code of a store's error, such as `SlowDown`."""
    while error is not None:
        response = getattr(error, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
        if code:
            return str(code)
        error = error.__cause__
    return None
