"""Resolves a model name to a folder. Published checkpoints are downloaded from the Hugging Face hub.

Only files that this library reads are downloaded, and the weights in one format only. `huggingface_hub` keeps
complete files in its cache. If a connection is closed, it resumes the file in pieces of 10 MB. If a
connection is reset or the process ends, huggingface_hub 2.4 starts the file again, and 0.36 resumes it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from led.checkpoint.adapters import base_of, is_adapter, with_base
from led.checkpoint.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

logger = logging.getLogger(__name__)
T = TypeVar("T")

# The files of a model folder that are read besides its weights.
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    ADAPTER_CONFIG,
)

# The formats of weights, in the order in which `files.py` tries them. The first entry of a format is the file
# that identifies it.
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    *((name,) for name in ADAPTER_WEIGHTS),
)

# The responses of a busy or failing server, and the waits before each retry. A server may request longer
# waits, up to the maximum.
_BUSY_STATUSES = (408, 429, 500, 502, 503, 504)
_RETRY_WAITS_S = (1, 2, 4, 8)
_MAX_WAIT_S = 300

# Versions of `huggingface_hub` use different HTTP libraries. The base classes of its own error are the errors
# of its HTTP library.
_HTTP_ERRORS = tuple(
    base
    for base in HfHubHTTPError.__mro__
    if issubclass(base, Exception) and base not in (Exception, OSError)
)
# hf_xet raises RuntimeError for many errors of a transfer.
_DOWNLOAD_ERRORS: tuple[type[Exception], ...] = (*_HTTP_ERRORS, OSError, HFValidationError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a checkpoint's files, and its published commit (None for a local folder).

    Another machine finds it by `source`, which is an absolute path or a published name. For an adapter,
    `base_model` is the source of its base.
    """

    folder: Path
    revision: str | None
    source: str
    base_model: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether source and revision identify every byte of the files."""
        return self.revision is not None and self.base_model is None


def resolve(
    model: str,
    revision: str | None = None,
    *,
    base_model: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> Checkpoint:
    """The files of `model`, which is a folder or the name of a published checkpoint. A LoRA adapter is joined
    with its base: `base_model`, by default the one that the adapter names.

    Raises:
        FileNotFoundError: the checkpoint or an adapter's base does not exist, may not be read, cannot be
            reached or cannot be stored.
        CheckpointError: an adapter cannot be merged.
    """
    found = _resolve(model, revision, cache_dir, local_files_only, weights)
    if not is_adapter(found.folder):
        if base_model is not None:
            raise FileNotFoundError(
                f"{model} is not a LoRA adapter (no {ADAPTER_CONFIG}, or weights of its own), so it takes no "
                "base model; leave it out."
            )
        return found
    base = base_model or base_of(found.folder)
    if base is None:
        raise FileNotFoundError(f"the adapter {model} names no base; give one (--base-model).")
    try:
        below = _resolve(base, None, cache_dir, local_files_only, weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the base {base} of the adapter {model} cannot be found: {error} Give another by --base-model."
        ) from error
    if is_adapter(below.folder):
        raise FileNotFoundError(
            f"the base {base} of the adapter {model} is an adapter itself; merge it first."
        )
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    return replace(found, folder=with_base(found.folder, below.folder, cache), base_model=below.source)


def _resolve(
    model: str, revision: str | None, cache_dir: str | Path | None, local_files_only: bool, weights: bool
) -> Checkpoint:
    """The files of a folder or of one published checkpoint.

    A checkpoint that is not in the cache is downloaded. With `weights=False`, only its settings and its
    tokenizer's files are.

    A commit always has the same files, so cached files are used without a request to the hub. A branch or tag
    (None is `main`) is resolved at each call. If the hub does not answer, the last known commit is used and a
    warning is logged. A scheduled run then continues despite a network problem. If the hub refuses access
    (not found, private, gated), that is an error even if files are cached. To pin a run to fixed weights,
    give the commit.
    """
    if Path(model).is_dir():
        folder = Path(model).absolute()
        return Checkpoint(folder, None, str(folder))
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise FileNotFoundError(
            f"the model folder {model} does not exist; name a folder, or a checkpoint as owner/name."
        )
    formats = _WEIGHTS if weights else ((),)
    fetch = partial(_fetch, model, revision, cache_dir, formats)
    try:
        if local_files_only or constants.HF_HUB_OFFLINE:
            folder = fetch(local=True)
        elif revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
            folder = _with_retries(fetch, _is_transient)
        else:
            folder = _fetch_branch(model, revision, fetch)
    except _DOWNLOAD_ERRORS as error:
        raise FileNotFoundError(_explain(model, revision, cache_dir, error)) from error
    if weights and not any((folder / files[0]).is_file() for files in _WEIGHTS):
        raise FileNotFoundError(
            f"{model} at {folder.name} has no weights; it needs one of "
            f"{', '.join(files[0] for files in _WEIGHTS)}. Name another checkpoint or revision, or complete "
            "its download with a network connection."
        )
    return Checkpoint(folder, folder.name, model)


def _fetch_branch(model: str, revision: str | None, fetch: Callable[..., Path]) -> Path:
    """The files of a branch or tag. If the hub does not answer, those of its last known commit."""
    # `snapshot_download` silently returns cached files even if the hub refuses access. This request detects
    # the refusal.
    request = partial(HfApi().model_info, model, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    try:
        _with_retries(request, _is_busy)
    except _HTTP_ERRORS as error:
        if _status(error) is not None and not _is_busy(error):
            raise
        try:
            folder = fetch(local=True)
        except LocalEntryNotFoundError:
            raise error from None
        logger.warning(
            "%s: the hub does not answer; the cached commit %s of %s is used.",
            model,
            folder.name,
            revision or "main",
        )
        return folder
    return _with_retries(fetch, _is_transient)


def _fetch(
    model: str,
    revision: str | None,
    cache_dir: str | Path | None,
    formats: Sequence[Sequence[str]],
    local: bool = False,
) -> Path:
    """The folder of one commit, with its weights in the first of these formats that it has."""
    for files in formats:
        folder = Path(
            snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                allow_patterns=[*_SETTINGS, *files],
                local_files_only=local,
            )
        )
        if not files or (folder / files[0]).is_file():
            break
        revision = folder.name  # try the next format at the same commit, even if the branch moves
    return folder


def _with_retries(call: Callable[[], T], is_retried: Callable[[BaseException], bool]) -> T:
    """The result of `call`, repeated after a pause if it fails with an error that `is_retried` accepts."""
    for wait_s in _RETRY_WAITS_S:
        try:
            return call()
        except _DOWNLOAD_ERRORS as error:
            if not is_retried(error):
                raise
            pause_s = max(wait_s, _requested_wait_s(error))
        time.sleep(pause_s)
    return call()


def _cause(error: BaseException) -> BaseException:
    """The error of the request, if `huggingface_hub` only reports that the cache lacks the files."""
    return (error.__cause__ or error) if isinstance(error, LocalEntryNotFoundError) else error


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(_cause(error), "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_busy(error: BaseException) -> bool:
    return _status(error) in _BUSY_STATUSES


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed, because the server was busy or a connection broke."""
    broken = isinstance(error, _HTTP_ERRORS) and not isinstance(error, LocalEntryNotFoundError)
    return _is_busy(error) or (broken and _status(error) is None)


def _requested_wait_s(error: BaseException) -> int:
    """The pause that the server requests, or 0.

    It is in the header `Retry-After: 5`, or in the hub's `RateLimit: "api";r=0;t=5`.
    """
    # The hub sends `RateLimit` with every response. A wait is needed only if no requests are left (r=0).
    headers = getattr(getattr(_cause(error), "response", None), "headers", {})
    wait = re.search(
        r"^\d+$|\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("Retry-After") or headers.get("RateLimit") or ""
    )
    return min(int(wait[1] or wait[0]), _MAX_WAIT_S) if wait else 0


def _explain(model: str, revision: str | None, cache_dir: str | Path | None, error: BaseException) -> str:
    """The message for the user: the model, what failed and why, and the next step."""
    cause, status = _cause(error), _status(error)
    reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__).rstrip(".")
    if isinstance(cause, HFValidationError):
        return (
            f"{model} is not a valid checkpoint name ({reason}); name a folder, or a checkpoint as "
            "owner/name."
        )
    if isinstance(cause, GatedRepoError):
        return f"{model} is gated: ask its owners for access, then log in with `hf auth login` or HF_TOKEN."
    if isinstance(cause, RepositoryNotFoundError) or status == 401:
        return (
            f"the hub has no checkpoint {model}, or it is private, or the token is not valid; check the "
            "name, or log in with `hf auth login` or HF_TOKEN."
        )
    if isinstance(cause, RevisionNotFoundError):
        return f"{model} has no revision {revision}; name a branch, tag or commit of it."
    if status == 429:
        return (
            f"{model} was not downloaded: the hub accepts no more requests for now (429); wait a few "
            "minutes, or log in."
        )
    if status is not None:
        return (
            f"{model} was not downloaded: the hub answered {status} ({reason}); try again later, or name a "
            "model folder."
        )
    if isinstance(cause, LocalEntryNotFoundError):
        return (
            f"{model} is neither a local folder nor completely downloaded, and requests to the hub are "
            "turned off (HF_HUB_OFFLINE or local_files_only); download it once with a network connection, "
            "or name a model folder."
        )
    if isinstance(cause, _HTTP_ERRORS):
        return (
            f"{model} is neither a local folder nor completely downloaded, and the connection to the hub "
            f"failed ({reason}); check the network and HF_ENDPOINT, or name a model folder."
        )
    if isinstance(cause, OSError) and cause.errno is not None:
        folder = cache_dir or constants.HF_HUB_CACHE
        return (
            f"{model} cannot be stored in {folder} ({reason}); free some space there, or set another "
            "cache_dir or HF_HOME."
        )
    return f"{model} could not be downloaded ({reason}); try again, or name a model folder."
