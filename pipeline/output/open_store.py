"""Open the output folder at a URL."""

from __future__ import annotations

from pipeline.errors import check_no_credentials
from pipeline.output.store import Store


def open_store(url: str, must_exist: bool = False) -> Store:
    """The store at `url`: a path, `file://` or `s3://bucket/folder`.

    With `must_exist`, a local folder is not created. A run that has started uses it.

    Raises:
        UsageError: the store has no create-only writes.
    """
    check_no_credentials(url, "the folder")
    scheme, _, rest = url.rpartition("://")
    if scheme not in ("", "file"):
        from pipeline.output.s3 import ObjectStore

        return ObjectStore(url)
    from pipeline.output.local import LocalStore

    return LocalStore(rest, must_exist)
