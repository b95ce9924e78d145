"""Checkpoint weights: read and written strictly, in the published layout.

Files: `model.safetensors` or `pytorch_model.bin` (read as plain tensors, no code is run), each also
sharded with an `.index.json`. Weight names are those of the models' own `state_dict`, except for the
aliases in the table below, and the prefix `led.`, which a file may have or lack.

Errors list every missing, unexpected and mis-shaped weight.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from led.checkpoint.files import CheckpointError, weight_files

# One tensor with four published names. A file has any of them, and all that it has must be equal.
SHARED_EMBEDDING = "led.shared.weight"
SHARED_ALIASES = (
    "led.shared.weight",
    "led.encoder.embed_tokens.weight",
    "led.decoder.embed_tokens.weight",
    "lm_head.weight",
)

# Zeros in every published checkpoint, and left out of some.
OPTIONAL = ("final_logits_bias",)

# The prefixes of the weights that the heads of the published models add to the bare LED.
HEADS = ("final_logits_bias", "lm_head.", "classification_head.", "qa_outputs.")

# Weights read at once.
_READERS = 4


class Loadable(Protocol):
    """What loading needs of a model: a module whose `head` has the prefixes of its head's weights."""

    @property
    def head(self) -> tuple[str, ...]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any: ...

    def tie_weights(self) -> None: ...


def load_weights(
    model: Loadable,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    init_std: float = 0.02,
    new_head: bool = False,
) -> None:
    """Load the weights of `folder` into a model on the meta device.

    `dtype` converts the weights. None keeps the file's own. Peak memory is about one copy of the weights.
    With `new_head`, and for weights that files may leave out, values are drawn with the standard deviation
    `init_std`.

    Raises:
        CheckpointError: no weights, unreadable weights, or weights that are missing, unexpected or of
            another shape.
    """
    entries = match_weights(model, folder, new_head)
    kind = dtype or entries[next(iter(entries))].load().dtype
    with ThreadPoolExecutor(_READERS) as readers:  # reading mapped pages and converting them release the GIL
        tensors = readers.map(lambda entry: entry.load().to(device=device, dtype=dtype), entries.values())
        loaded = dict(zip(entries, tensors, strict=True))
    state = model.state_dict()
    aliases = _aliases(state)
    loaded |= dict.fromkeys(aliases, next(loaded[name] for name in aliases if name in loaded))
    for name, tensor in state.items():
        if name not in loaded:
            spread = init_std if name.endswith(".weight") else 0.0
            loaded[name] = (torch.randn(tensor.shape) * spread).to(device=device, dtype=kind)
    model.load_state_dict(loaded, strict=True, assign=True)
    model.tie_weights()


def save_weights(state: dict[str, Tensor], folder: str | Path) -> None:
    """Write `model.safetensors`, the shared embedding once."""
    repeated = set(_aliases(state)[1:])
    tensors = {name: x.detach().contiguous().cpu() for name, x in state.items() if name not in repeated}
    save_file(tensors, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})


@dataclass(frozen=True)
class WeightEntry:
    """A weight in a file: its published name, its shape, and a function that loads it."""

    published: str
    shape: torch.Size
    load: Callable[[], Tensor]


def match_weights(model: Loadable, folder: str | Path, new_head: bool = False) -> dict[str, WeightEntry]:
    """The entry of each of the model's weights in `folder`. One alias of the shared embedding may stand for
    the others.

    Heads of other tasks are ignored if the bare model or a new head is requested.

    Raises:
        CheckpointError: names or shapes differ. All of them are listed.
    """
    drawn = model.head if new_head else ()
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if not name.startswith(drawn)}
    ignored_heads = HEADS if new_head or not model.head else ()
    found: dict[str, WeightEntry] = {}
    ignored: dict[str, WeightEntry] = {}
    unexpected: list[str] = []
    misshaped: dict[str, str] = {}
    for entry in _read_entries(Path(folder)):
        name = _own_name(entry.published, wanted)
        if name not in wanted and entry.published.startswith(ignored_heads):
            ignored[entry.published] = entry
        elif name not in wanted:
            unexpected.append(entry.published)
        elif entry.shape != wanted[name]:
            shapes = f"{tuple(entry.shape)}, the configuration says {tuple(wanted[name])}"
            misshaped[name] = f"{entry.published} is {shapes}"
        else:
            found[name] = entry
    aliases = _aliases(wanted)
    given = [name for name in aliases if name in found]
    if not given and "lm_head.weight" in ignored:  # some files keep the shared embedding only under this name
        found[aliases[0]] = ignored["lm_head.weight"]
        given = aliases[:1]
    for name in given[1:]:
        if not torch.equal(found[name].load(), found[given[0]].load()):
            misshaped[name] = (
                f"{found[name].published} differs from {found[given[0]].published}, which it should share"
            )
    shared = aliases if given or any(name in misshaped for name in aliases) else ()
    optional = {*OPTIONAL, *shared, *misshaped}
    missing = [name for name in wanted if name not in found and name not in optional]
    problems = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", list(misshaped.values())))
    if any(names for _, names in problems):
        listed = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
            for kind, names in problems
            if names
        )
        model_name = type(model).__name__
        raise CheckpointError(
            f"the weights in {folder} are not those of {model_name}: {listed}{_advice(model, missing)}"
        )
    return found


def _advice(model: Loadable, missing: list[str]) -> str:
    """What to do if only the head is missing."""
    if missing and model.head and all(name.startswith(model.head) for name in missing):
        return ". Load a checkpoint trained for this task, or pass new_head=True to train a new head."
    return ""


def _read_entries(folder: Path) -> Iterator[WeightEntry]:
    for path in weight_files(folder):
        if path.suffix not in (".safetensors", ".bin"):
            continue
        try:
            if path.suffix == ".bin":
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
                if not isinstance(state, dict) or any(not isinstance(x, Tensor) for x in state.values()):
                    raise CheckpointError(
                        f"{path} holds no weights by name; it is not a saved state of a model."
                    )
                for name, tensor in state.items():
                    yield WeightEntry(name, tensor.shape, partial(_itself, tensor))
            else:
                file = safe_open(str(path), framework="pt")
                for name in file.keys():  # noqa: SIM118
                    yield WeightEntry(
                        name, torch.Size(file.get_slice(name).get_shape()), partial(file.get_tensor, name)
                    )
        except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path} cannot be read as weights ({error}); download the file again."
            ) from error


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _own_name(published: str, wanted: dict[str, torch.Size]) -> str:
    """A published name as this model spells it: with or without the `led.` prefix."""
    if published in wanted:
        return published
    if f"led.{published}" in wanted:
        return f"led.{published}"
    return published.removeprefix("led.") if published.removeprefix("led.") in wanted else published


def _aliases(names: dict[str, torch.Size] | dict[str, Tensor]) -> list[str]:
    """The names of the shared embedding in a model whose state has these names, the one to save first."""
    known = {alias: alias if alias in names else alias.removeprefix("led.") for alias in SHARED_ALIASES}
    return [name for name in known.values() if name in names]
