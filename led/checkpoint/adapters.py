"""Folders with a LoRA adapter: the adapter's files and its base's, side by side in one folder of links.

An adapter folder has `adapter_config.json` and `adapter_model.safetensors` (or `.bin`), and names its base.
`with_base` joins both, so that everything that reads a model folder reads the merged model. The weights are
merged when they are loaded (`lora.py`), so no copy of the base is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from led.checkpoint.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, WEIGHT_FILES, CheckpointError

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_VOCABULARY = ("vocab.json", "merges.txt")

# Names of one embedding. If an adapter brings one of them, it stands for all.
EMBEDDINGS = ("shared.weight", "embed_tokens.weight", "lm_head.weight")

# What PEFT puts around the model, and around the modules that an adapter stores whole.
_WRAPPER = "base_model.model."
_WHOLE = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")


def plain_name(name: str) -> str:
    """The base's name of a weight in an adapter's file."""
    return _WHOLE.sub("", name.removeprefix(_WRAPPER))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter without its base."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).is_file() for name in WEIGHT_FILES)


def base_of(folder: Path) -> str | None:
    """The base model that an adapter names. None if it names none.

    Raises:
        CheckpointError: the adapter's configuration is malformed.
    """
    base = read_adapter_config(folder).get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration.

    Raises:
        CheckpointError: it is not a JSON object, or the adapter is not of the type LORA.
    """
    path = folder / ADAPTER_CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again.") from error
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if kind != "LORA":
        raise CheckpointError(
            f"{path} has peft_type {kind!r}; only LORA adapters are merged. Merge it with PEFT's "
            "merge_and_unload, save the model, and give that folder."
        )
    return dict(values)


def with_base(adapter: Path, base: Path, cache: Path) -> Path:
    """A folder in `cache` with links to the files of the base and the adapter. It is made once.

    The adapter's tokenizer counts, if it has one. If it brings an embedding of another size, `config.json` is
    written with that size.

    Raises:
        FileNotFoundError: the folder cannot be written.
    """
    files = {path.name: path for path in sorted(base.iterdir()) if path.is_file()}
    own = {path.name: path for path in sorted(adapter.iterdir()) if path.is_file()}
    if {"tokenizer.json"} & own.keys() or set(_VOCABULARY) <= own.keys():
        files = {name: path for name, path in files.items() if name not in (*_TOKENIZER, *_VOCABULARY)}
        files |= {name: path for name, path in own.items() if name in (*_TOKENIZER, *_VOCABULARY)}
    files |= {name: path for name, path in own.items() if name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS)}
    rows = _embedding_rows(own)
    key = json.dumps([rows, sorted((name, str(path.absolute())) for name, path in files.items())])
    folder = cache / "led-adapters" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if folder.is_dir() and not (rows and _outdated(folder, files)):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, path in files.items():
            if name == "config.json" and rows:
                (made / name).write_text(json.dumps(_resized(path, rows), indent=2), "utf-8")
            else:
                (made / name).symlink_to(path.absolute())
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.rename(made, folder)
        except OSError:  # another process was faster, and its folder has the same links
            if not folder.is_dir():
                raise
            shutil.rmtree(made)
    except OSError as error:
        raise FileNotFoundError(
            f"the adapter {adapter} cannot be joined with its base in {folder.parent} ({error}); set another "
            "cache_dir or HF_HOME."
        ) from error
    return folder


def _resized(config: Path, rows: int) -> dict[str, Any]:
    return {**json.loads(config.read_text("utf-8")), "vocab_size": rows}


def _outdated(folder: Path, files: Mapping[str, Path]) -> bool:
    """Whether the base's config.json was replaced after this folder's own was written."""
    return (folder / "config.json").stat().st_mtime < files["config.json"].stat().st_mtime


def _embedding_rows(files: Mapping[str, Path]) -> int | None:
    """The rows of the embedding that an adapter brings. None if it brings none."""
    path = files.get("adapter_model.safetensors")
    if path is None:
        return None
    try:
        with safe_open(str(path), framework="np") as file:
            names = [n for n in file.keys() if plain_name(n).endswith(EMBEDDINGS)]  # noqa: SIM118
            return int(file.get_slice(names[0]).get_shape()[0]) if names else None
    except (SafetensorError, OSError):
        return None  # reading the weights reports it
