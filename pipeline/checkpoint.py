"""The checkpoint of a run: found once, named by its bytes, and the same wherever a worker loads it."""

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


def find_checkpoint(settings: RunSettings) -> Checkpoint:
    """The checkpoint's files.

    Raises:
        UsageError: there is none, or it has no weights.
        PipelineError: it could not be fetched; a later try may well do.
    """
    try:
        checkpoint = resolve(settings.model, settings.revision)
        weight_files(checkpoint.folder)
        return checkpoint
    except (FileNotFoundError, CheckpointError) as error:
        raise (PipelineError if is_transient(error) else UsageError)(f"--model: {error}") from error


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """What names a checkpoint's files by their bytes: weights, configuration, tokenizer."""
    return {
        "weights_sha256": _sha256(weight_files(folder)),
        "tokenizer_sha256": _tokenizer_sha256(LEDTokenizer.from_pretrained(folder)),
        "config_sha256": _sha256([folder / "config.json"]),
    }


def worker_checkpoint(model: str, revision: str | None, config: Mapping[str, Any]) -> Path:
    """The checkpoint's folder on a worker's machine; the one that was planned with, if `facts` name it.

    Raises:
        PipelineError: it cannot be had there.
        PlanMismatch: it is another.
    """
    found = _on_this_machine(model, revision, weights=True)
    # A commit names its bytes; a folder may be another on each machine, or be replaced while the run goes on.
    if found.revision is None and "weights_sha256" in config:
        _check(found.folder, "weights_sha256", _sha256(weight_files(found.folder)), config)
    return found.folder


@lru_cache(maxsize=2)
def worker_tokenizer(model: str, revision: str | None, sha256: str | None) -> LEDTokenizer:
    """The checkpoint's tokenizer on a worker's machine, without its weights; of these bytes, if they are
    named.

    Raises:
        PipelineError: it cannot be had there.
        PlanMismatch: it is another.
    """
    folder = _on_this_machine(model, revision, weights=False).folder
    try:
        tokenizer = LEDTokenizer.from_pretrained(folder)
    except (FileNotFoundError, ValueError) as error:
        raise PipelineError(f"--model {model} on {socket.gethostname()}: {error}") from error
    if sha256 is not None:
        _check(folder, "tokenizer_sha256", _tokenizer_sha256(tokenizer), {"tokenizer_sha256": sha256})
    return tokenizer


def _on_this_machine(model: str, revision: str | None, *, weights: bool) -> Checkpoint:
    try:
        return resolve(model, revision, weights=weights)
    except FileNotFoundError as error:
        raise PipelineError(
            f"--model {model} cannot be had on {socket.gethostname()}: {error} Every machine of the cluster must see it: give "
            "a folder that all mount, or the name of a published checkpoint that all can reach."
        ) from error


def _check(folder: Path, name: str, found: str, config: Mapping[str, Any]) -> None:
    if found != config[name]:
        raise PlanMismatch(
            f"{folder} on {socket.gethostname()} is another checkpoint than was planned with ({name} is {found[:12]}, was "
            f"{str(config[name])[:12]}); every machine must have the same files until the run ends."
        )


def _sha256(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _tokenizer_sha256(tokenizer: LEDTokenizer) -> str:
    return hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()
