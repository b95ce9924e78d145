"""From the name of a checkpoint to a folder: a local folder as it is, a published name by way of the hub.

Downloads are kept and resumed by `huggingface_hub`; a revision is pinned to its commit, so that every machine of a run reads
the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# What a model folder may hold that is read here; weights in other formats stay where they are.
_FILES = ("*.json", "merges.txt", "*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a checkpoint's files, and the commit it was published as (None for a local folder)."""

    folder: Path
    revision: str | None


def resolve(model: str, revision: str | None = None, *, cache_dir: str | Path | None = None,
            local_files_only: bool = False) -> Checkpoint:  # fmt: skip
    """The files of `model`: a folder, or the name of a published checkpoint, downloaded where it is not kept yet.

    Raises:
        FileNotFoundError: there is no such folder or checkpoint, it may not be read, or it cannot be reached.
    """
    if Path(model).is_dir():
        return Checkpoint(Path(model).absolute(), None)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise FileNotFoundError(f"the model folder {model} does not exist; name a folder, or a checkpoint as owner/name.")
    try:
        folder = Path(snapshot_download(model, revision=revision, cache_dir=cache_dir, allow_patterns=list(_FILES),
                                        local_files_only=local_files_only))  # fmt: skip
    except GatedRepoError as error:
        raise FileNotFoundError(f"{model} is gated: ask its owners for access, then log in with `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"the hub has no checkpoint {model}, or it is private; check the name, or log in.") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{model} has no revision {revision}; name a branch, tag or commit of it.") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{model} is neither a folder here nor downloaded, and the hub cannot be reached; "
                                "check the network, or name a model folder.") from error  # fmt: skip
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"{model} could not be downloaded ({first}); try again, or name a model folder.") from error
    return Checkpoint(folder, folder.name)
