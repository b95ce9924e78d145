"""Finds the files that hold a checkpoint's weights."""

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
    """A folder's weights are missing, unreadable or belong to another model."""


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a folder's weights. If the weights are sharded, the index is the first.

    Raises:
        CheckpointError: the folder has no weights, or an index lists a file that does not exist.
    """
    folder = Path(folder)
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        shards = _shard_names(path)
        missing = [s for s in shards if not (folder / s).is_file()]
        if missing:
            raise CheckpointError(
                f"{path} lists {len(missing)} files that do not exist: {', '.join(missing[:8])}. Download "
                "the checkpoint again."
            )
        return [path, *(folder / s for s in shards)]
    raise CheckpointError(f"{folder} has no weights; it needs one of {', '.join(WEIGHT_FILES)}.")


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("weight_map must list files of this folder")
        return names
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is not an index of weights ({error!r}); download the file again."
        ) from error
