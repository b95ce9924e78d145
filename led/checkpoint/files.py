"""Which files of a folder hold a checkpoint's weights."""

from __future__ import annotations

import json
from pathlib import Path

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class CheckpointError(ValueError):
    """A folder's weights are absent, unreadable or not this model's."""


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a folder's weights, the index first where they are sharded.

    Raises:
        CheckpointError: there are none, or an index names a file that is not there.
    """
    folder = Path(folder)
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        shards = _shard_names(path)
        absent = [s for s in shards if not (folder / s).is_file()]
        if absent:
            raise CheckpointError(
                f"{path} names {len(absent)} files that are not there: {', '.join(absent[:8])}."
            )
        return [path, *(folder / s for s in shards)]
    raise CheckpointError(f"{folder} has no weights; looked for {', '.join(WEIGHT_FILES)}.")


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("weight_map must name files of this folder")
        return names
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weights ({error!r}); fetch the file again.") from error
