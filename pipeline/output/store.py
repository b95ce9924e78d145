"""The output folder: a place where a name is written once, whole or not at all, and never changes.

`LocalStore` writes to disks, `ObjectStore` to S3 and what is like it. Not here: deleting. Nothing that was
committed is ever removed.
"""

from __future__ import annotations

import uuid
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.errors import UsageError

PROBE = "_probe"


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
        """Write `name` whole, unless it exists. `data` is this writer's own: where it stands, this writer has
        written it."""

    def read(self, name: str) -> bytes:
        """The content of `name`.

        Raises:
            CorruptOutput: it does not exist.
        """

    def open(self, name: str) -> BinaryIO:
        """`name`, to read parts of.

        Raises:
            CorruptOutput: it does not exist.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write `name` whole, over what was there: for reports, never for results."""


def plain_name(name: str) -> str:
    """`name`, if it is one of a file in this folder and not hidden.

    Raises:
        ValueError: it is not.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"{name!r} is not a plain file name.")
    return name


def open_store(url: str, begun: bool = False) -> Store:
    """The store at `url`, a folder's path, `file://` or `s3://bucket/folder`; of a run that has `begun` it is
    there already.

    Raises:
        UsageError: nothing can be written there create-only.
    """
    scheme, _, rest = url.rpartition("://")
    if scheme not in ("", "file"):
        from pipeline.output.s3 import ObjectStore

        return ObjectStore(url)
    from pipeline.output.local import LocalStore

    return LocalStore(rest, begun)


def probe(store: Store) -> None:
    """See that `store` refuses to write a name twice; without that, rivals and late writers could change
    results.

    Raises:
        UsageError: it does not refuse.
    """
    written = (store.create(PROBE, uuid.uuid4().hex.encode()) for _ in range(2))
    if all(outcome is Outcome.CREATED for outcome in written):
        raise UsageError(
            f"{store.url} writes over what exists although it was asked not to (If-None-Match): two runs, or a late write of "
            "a dead one, could change results. Choose another store, or --accept-unsafe-store if this run is alone there."
        )
