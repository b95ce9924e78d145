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

# A LoRA adapter.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

# Weights that are not read, by the pattern of their file: what they are, and what to do.
_OTHER_WEIGHTS = {
    "tf_model*.h5": "TensorFlow weights; load them in transformers 4 with from_tf=True and save the model",
    "flax_model*.msgpack": "Flax weights; load them in transformers 4 with from_flax=True and save the model",
    "model.*.safetensors": "weights of a variant; rename the file to model.safetensors to read them",
    "pytorch_model.*.bin": "weights of a variant; rename the file to pytorch_model.bin to read them",
    "rust_model.ot": "weights for rust-bert; use the original checkpoint",
    "model.onnx": "an ONNX graph; use the original checkpoint",
    "*.gguf": "quantized GGUF weights; use the original checkpoint",
    "*.ckpt": "a training checkpoint; save the model from the tool that wrote it",
    "adapter_model.*": "an adapter; it needs adapter_config.json beside it, which names its base",
}


class CheckpointError(ValueError):
    """A folder's weights are missing, unreadable or belong to another model."""


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a folder's weights. If the weights are sharded, the index is the first. An adapter
    is the last.

    Raises:
        CheckpointError: the folder has no weights, or an index lists a file that does not exist.
    """
    folder = Path(folder)
    adapter = [folder / name for name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS) if (folder / name).is_file()]
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path, *adapter]
        shards = _shard_names(path)
        missing = [s for s in shards if not (folder / s).is_file()]
        if missing:
            raise CheckpointError(
                f"{path} lists {len(missing)} files that do not exist: {', '.join(missing[:8])}. Download "
                "the checkpoint again."
            )
        return [path, *(folder / s for s in shards), *adapter]
    others = [
        f" It has {path.name}, {what}."
        for pattern, what in _OTHER_WEIGHTS.items()
        for path in sorted(folder.glob(pattern))[:1]
    ]
    needed = f"it needs one of {', '.join(WEIGHT_FILES)}."
    raise CheckpointError(f"{folder} has no weights; {needed}{''.join(others)}")


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("weight_map must list files of this folder")
        return names
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is not an index of weights ({error!r}); download the file again."
        ) from error
