"""From the name of a checkpoint to a folder: a local folder as it is, a published name by way of the hub.

Only the files that are read here are downloaded, the weights in one format. `huggingface_hub` keeps what is
complete and resumes a file whose connection was closed, in pieces of 10 MB. Where the connection was reset or
the process ended, the file starts anew (huggingface_hub 2.4) or is resumed (0.36); complete files are not
asked for again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

logger = logging.getLogger(__name__)
T = TypeVar("T")

# What is read of a model folder besides its weights.
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)

# Weights in the order `checkpoint.py` looks for them: the file that shows the format is there, then what
# belongs to it.
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)

# What a busy or failing server answers, and how long to wait before each next try; a server may ask for more,
# up to a limit.
_BUSY = (408, 429, 500, 502, 503, 504)
_WAITS_S = (1, 2, 4, 8)
_LONGEST_WAIT_S = 300

# The HTTP library differs between versions of `huggingface_hub`; its base errors are those of the hub's own.
_CUT = tuple(
    base
    for base in HfHubHTTPError.__mro__
    if issubclass(base, Exception) and base not in (Exception, OSError)
)
# RuntimeError is what hf_xet raises for much of what goes wrong in a transfer.
_FAILURES: tuple[type[Exception], ...] = (*_CUT, OSError, HFValidationError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a checkpoint's files, and the commit it was published as (None for a local folder)."""

    folder: Path
    revision: str | None


def resolve(
    model: str,
    revision: str | None = None,
    *,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> Checkpoint:
    """The files of `model`: a folder, or the name of a published checkpoint, downloaded where it is not kept
    yet.

    Without `weights` only its settings and its tokenizer's files are.

    A commit always means the same files, so kept ones are served whatever the hub says. A branch or tag (None
    is `main`) is looked up at each call; where the hub does not answer, the commit it named last is served if
    it is kept, with a warning, since a nightly run does better with last night's weights than with none.
    Where the hub answers no (not found, private, gated), that is an error even if files are kept. A run that
    must not follow a branch names the commit.

    Raises:
        FileNotFoundError: there is no such folder or checkpoint, it may not be read, cannot be reached or
            cannot be kept.
    """
    if Path(model).is_dir():
        return Checkpoint(Path(model).absolute(), None)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise FileNotFoundError(
            f"the model folder {model} does not exist; name a folder, or a checkpoint as owner/name."
        )
    kinds = _WEIGHTS if weights else ((),)
    fetch = partial(_fetch, model, revision, cache_dir, kinds)
    try:
        if local_files_only or constants.HF_HUB_OFFLINE:
            folder = fetch(local=True)
        elif revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
            folder = _patiently(fetch, _passing)
        else:
            folder = _looked_up(model, revision, fetch)
    except _FAILURES as error:
        raise FileNotFoundError(_explain(model, revision, cache_dir, error)) from error
    if weights and not any((folder / kind[0]).is_file() for kind in _WEIGHTS):
        raise FileNotFoundError(
            f"{model} at {folder.name} has no weights: none of {', '.join(kind[0] for kind in _WEIGHTS)}; "
            "name another checkpoint or revision, or let its download finish with a network."
        )
    return Checkpoint(folder, folder.name)


def _looked_up(model: str, revision: str | None, fetch: Callable[..., Path]) -> Path:
    """The files a branch or tag names now, or those it named last where the hub does not answer."""
    # `snapshot_download` serves kept files when it is refused, too, and does not say so; asking first tells
    # these apart.
    ask = partial(HfApi().model_info, model, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    try:
        _patiently(ask, _busy)
    except _CUT as error:
        if _status(error) is not None and not _busy(error):
            raise
        try:
            folder = fetch(local=True)
        except LocalEntryNotFoundError:
            raise error from None
        logger.warning(
            "%s: the hub does not answer; for %s the kept %s is taken.",
            model,
            revision or "main",
            folder.name,
        )
        return folder
    return _patiently(fetch, _passing)


def _fetch(
    model: str,
    revision: str | None,
    cache_dir: str | Path | None,
    kinds: Sequence[Sequence[str]],
    local: bool = False,
) -> Path:
    """The folder of one commit, with the first of `kinds` of weights that it has."""
    for kind in kinds:
        folder = Path(
            snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                allow_patterns=[*_SETTINGS, *kind],
                local_files_only=local,
            )
        )
        if not kind or (folder / kind[0]).is_file():
            break
        revision = folder.name  # the same commit for the next format, even if the branch moves
    return folder


def _patiently(call: Callable[[], T], may_pass: Callable[[BaseException], bool]) -> T:
    """What `call` returns, tried again after a pause while it fails in a way that may pass."""
    for wait_s in _WAITS_S:
        try:
            return call()
        except _FAILURES as error:
            if not may_pass(error):
                raise
            pause_s = max(wait_s, _asked_wait_s(error))
        time.sleep(pause_s)
    return call()


def _cause(error: BaseException) -> BaseException:
    """What kept the hub from answering, where `huggingface_hub` only says that nothing is kept."""
    return (error.__cause__ or error) if isinstance(error, LocalEntryNotFoundError) else error


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(_cause(error), "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _busy(error: BaseException) -> bool:
    return _status(error) in _BUSY


def _passing(error: BaseException) -> bool:
    """Whether a download that failed so may succeed in the next try: a busy server, or a connection that
    broke."""
    broke = isinstance(error, _CUT) and not isinstance(error, LocalEntryNotFoundError)
    return _busy(error) or (broke and _status(error) is None)


def _asked_wait_s(error: BaseException) -> int:
    """The pause the server asks for (`Retry-After: 5`, or the hub's `RateLimit: "api";r=0;t=5`), 0 where it
    asks for none."""
    # The hub sends `RateLimit` with every answer; only where nothing is left (r=0) is it a reason to wait.
    headers = getattr(getattr(_cause(error), "response", None), "headers", {})
    asked = re.search(
        r"^\d+$|\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("Retry-After") or headers.get("RateLimit") or ""
    )
    return min(int(asked[1] or asked[0]), _LONGEST_WAIT_S) if asked else 0


def _explain(model: str, revision: str | None, cache_dir: str | Path | None, error: BaseException) -> str:
    """What happened to whom, and the next step."""
    cause, status = _cause(error), _status(error)
    reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__).rstrip(".")
    if isinstance(cause, HFValidationError):
        return f"{model} cannot be the name of a checkpoint ({reason}); name a folder, or a checkpoint as owner/name."
    if isinstance(cause, GatedRepoError):
        return f"{model} is gated: ask its owners for access, then log in with `hf auth login` or HF_TOKEN."
    if isinstance(cause, RepositoryNotFoundError) or status == 401:
        return (
            f"the hub has no checkpoint {model}, or it is private, or the token is not valid; check the name, or log in "
            "with `hf auth login` or HF_TOKEN."
        )
    if isinstance(cause, RevisionNotFoundError):
        return f"{model} has no revision {revision}; name a branch, tag or commit of it."
    if status == 429:
        return f"{model} was not downloaded: the hub takes no more requests for now (429); wait some minutes, or log in."
    if status is not None:
        return f"{model} was not downloaded: the hub answered {status} ({reason}); try again later, or name a model folder."
    if isinstance(cause, LocalEntryNotFoundError):
        return (
            f"{model} is neither a folder here nor downloaded in full, and the hub may not be asked (HF_HUB_OFFLINE or "
            "local_files_only); download it once with a network, or name a model folder."
        )
    if isinstance(cause, _CUT):
        return (
            f"{model} is neither a folder here nor downloaded in full, and the hub cannot be reached or hung up ({reason})"
            "; check the network and HF_ENDPOINT, or name a model folder."
        )
    if isinstance(cause, OSError) and cause.errno is not None:
        where = cache_dir or constants.HF_HUB_CACHE
        return f"{model} cannot be kept under {where} ({reason}); make room there, or name another cache_dir or HF_HOME."
    return f"{model} could not be downloaded ({reason}); try again, or name a model folder."
