"""The checkpoint of a run. Its hashes identify it, and every worker checks that it has the same one."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from led.checkpoint.files import CheckpointError, weight_files
from led.checkpoint.hub import Checkpoint, resolve
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import PipelineError, PlanMismatch, UsageError
from pipeline.retry import is_transient
from pipeline.settings import RunSettings

# The tokenizer's setting split_special_tokens for each value of --special-tokens.
_SPLIT = {"parse": False, "none": True, "additional": None}
SPECIAL_TOKENS_MODES = {split: mode for mode, split in _SPLIT.items()}


def load_tokenizer(folder: Path, special_tokens: str | None) -> LEDTokenizer:
    """The tokenizer in `folder`, with --special-tokens in force.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its files are malformed.
    """
    tokenizer = LEDTokenizer.from_pretrained(folder)
    if special_tokens is not None:
        tokenizer.split_special_tokens = _SPLIT[special_tokens]
    return tokenizer


def find_checkpoint(settings: RunSettings) -> Checkpoint:
    """Find or download the checkpoint of --model.

    Raises:
        UsageError: it does not exist, or has no weights.
        PipelineError: it could not be fetched because of a transient fault.
    """
    try:
        checkpoint = resolve(settings.model, settings.revision, base_model=settings.base_model)
        weight_files(checkpoint.folder)
        return checkpoint
    except (FileNotFoundError, CheckpointError) as error:
        raise (PipelineError if is_transient(error) else UsageError)(f"--model: {error}") from error


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of a checkpoint's weights, tokenizer and configuration."""
    return {
        "weights_sha256": _sha256(weight_files(folder)),
        "tokenizer_sha256": _tokenizer_sha256(LEDTokenizer.from_pretrained(folder)),
        "config_sha256": _sha256([folder / "config.json"]),
    }


def worker_checkpoint(
    model: str, revision: str | None, config: Mapping[str, Any], base_model: str | None = None
) -> Path:
    """The folder of the checkpoint on a worker's machine, checked against the `weights_sha256` of the plan.

    Raises:
        PipelineError: the checkpoint is missing on this machine.
        PlanMismatch: it differs from the plan.
    """
    checkpoint = _on_this_machine(model, revision, base_model, weights=True)
    # A commit identifies its bytes. A folder may differ between machines, or be replaced during the run.
    if not checkpoint.is_pinned and "weights_sha256" in config:
        _check(checkpoint.folder, "weights_sha256", _sha256(weight_files(checkpoint.folder)), config)
    return checkpoint.folder


@lru_cache(maxsize=2)
def worker_tokenizer(
    model: str,
    revision: str | None,
    sha256: str | None,
    special_tokens: str | None = None,
    base_model: str | None = None,
) -> LEDTokenizer:
    """The tokenizer on a worker's machine, with --special-tokens in force. No weights are loaded.

    It is checked against `sha256` if that is given.

    Raises:
        PipelineError: the tokenizer is missing on this machine.
        PlanMismatch: it differs from the plan.
    """
    folder = _on_this_machine(model, revision, base_model, weights=False).folder
    try:
        tokenizer = load_tokenizer(folder, special_tokens)
    except (FileNotFoundError, ValueError) as error:
        raise PipelineError(f"--model {model} on {socket.gethostname()}: {error}") from error
    if sha256 is not None:
        _check(folder, "tokenizer_sha256", _tokenizer_sha256(tokenizer), {"tokenizer_sha256": sha256})
    return tokenizer


def _on_this_machine(
    model: str, revision: str | None, base_model: str | None, *, weights: bool
) -> Checkpoint:
    try:
        return resolve(model, revision, base_model=base_model, weights=weights)
    except FileNotFoundError as error:
        raise PipelineError(
            f"--model {model} is not available on {socket.gethostname()}: {error} Every machine of the "
            "cluster needs it. Give a folder that all machines mount, or the name of a published checkpoint."
        ) from error


def _check(folder: Path, name: str, sha256: str, config: Mapping[str, Any]) -> None:
    if sha256 != config[name]:
        raise PlanMismatch(
            f"the checkpoint {folder} on {socket.gethostname()} differs from the plan ({name} is "
            f"{sha256[:12]}, was {str(config[name])[:12]}); every machine must have the same files until the "
            "run ends."
        )


def _sha256(paths: Sequence[Path]) -> str:
    """The hash of the hashes of these files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _tokenizer_sha256(tokenizer: LEDTokenizer) -> str:
    return hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()
