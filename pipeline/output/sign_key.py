"""The key that signs a manifest."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError

_SHORTEST = 16


def read_key(path: str) -> bytes:
    """The key in the file at `path`, without white space around it.

    Raises:
        UsageError: the file cannot be read, or the key has fewer than 16 bytes.
    """
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"--sign-key {path} cannot be read ({error.strerror}).") from error
    if len(key) < _SHORTEST:
        raise UsageError(
            f"--sign-key {path} has {len(key)} bytes; a key has at least {_SHORTEST}, such as the output of "
            "`openssl rand -hex 32`."
        )
    return key
