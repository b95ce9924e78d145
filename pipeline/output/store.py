"""The output folder. A file is written once, completely or not at all, and never changes.

`LocalStore` writes to disks. `ObjectStore` writes to S3 and similar stores. A store cannot delete files, so
committed results stay.
"""

from __future__ import annotations

import uuid
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.errors import UsageError

PROBE = "_probe"


class Outcome(Enum):
    """The result of a create-only write."""

    CREATED = "created"
    EXISTS = "exists"


class Store(Protocol):
    """A folder whose files are written create-only."""

    url: str

    def names(self) -> set[str]:
        """The names of all files, without hidden ones."""

    def exists(self, name: str) -> bool:
        """Whether the file `name` exists, which a listing may show late."""

    def unusual_entries(self) -> dict[str, str]:
        """The entries that are not plain files: their names, and what they are."""

    def create(self, name: str, data: bytes) -> Outcome:
        """Write the file `name` completely, unless it exists.

        `data` must be unique to this writer. If the file has this data, this writer has written it.
        """

    def read(self, name: str) -> bytes:
        """The content of the file `name`.

        Raises:
            CorruptOutput: the file does not exist.
        """

    def open(self, name: str) -> BinaryIO:
        """Open the file `name` to read parts of it.

        Raises:
            CorruptOutput: the file does not exist.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write the file `name` and replace what was there. Used for reports, never for results."""


def plain_name(name: str) -> str:
    """Check that `name` is the name of a file in this folder and not hidden. Returns it.

    Raises:
        ValueError: it is not such a name.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"{name!r} is not a plain file name.")
    return name


def probe(store: Store, *, must_refuse: bool = True) -> None:
    """Check that `store` can be written to, and refuses to write a name twice. Otherwise another writer could
    change results. Without `must_refuse`, a store that writes twice is accepted.

    Raises:
        UsageError: the store replaces existing files.
    """
    outcomes = [store.create(PROBE, uuid.uuid4().hex.encode()) for _ in range(2)]
    if must_refuse and all(outcome is Outcome.CREATED for outcome in outcomes):
        raise UsageError(
            f"{store.url} replaces existing files although the request forbids it (If-None-Match). Another "
            "run, or a late write of a dead one, could change results. Choose another store, or give "
            "--accept-unsafe-store if no other run writes there."
        )
