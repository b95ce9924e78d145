"""Checkpoint weights: read and written strictly, in the published layout.

Files: `model.safetensors` or `pytorch_model.bin` (read as plain tensors, no code is run), each also
sharded with an `.index.json`. Weight names are those of the models' own `state_dict`, except for the
aliases in the table below, the prefix `led.`, which a file may have or lack, and the prefixes of tools such
as `module.`. A LoRA adapter in the folder is merged.

Errors list every missing, unexpected and mis-shaped weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from led.checkpoint.entries import WeightEntry, read_file
from led.checkpoint.files import ADAPTER_WEIGHTS, CheckpointError, weight_files
from led.checkpoint.lora import adapted

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

# Prefixes that other tools put before every name: DataParallel, torch.compile, Lightning, DeepSpeed, and
# classes that hold the model in an attribute.
_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "model.")

# Buffers that versions of other libraries saved. They follow from the configuration.
_STRAY = re.compile(r"(^|\.)(position_ids|version|_float_tensor)$")

# A model of so many weights is built without regard to the size of the files.
_SMALL = 1 << 24

# Weights read at once.
_READERS = 4


class Loadable(Protocol):
    """What loading needs of a model: a module whose `head` has the prefixes of its head's weights."""

    @property
    def head(self) -> tuple[str, ...]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any: ...

    @property
    def has_tied_head(self) -> bool: ...

    def tie_weights(self) -> None: ...


def load_weights(
    model: Loadable,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    init_std: float = 0.02,
    new_head: bool = False,
    read: Sequence[WeightEntry] | None = None,
) -> None:
    """Load the weights of `folder`, whose entries may be `read` already, into a model on the meta device.

    `dtype` converts the weights. None keeps the file's own. Peak memory is about one copy of the weights.
    With `new_head`, and for weights that files may leave out, values are drawn with the standard deviation
    `init_std`.

    Raises:
        CheckpointError: no weights, unreadable weights, or weights that are missing, unexpected or of
            another shape.
    """
    entries = match_weights(model, folder, new_head, read)
    kind = dtype or entries[next(iter(entries))].load().dtype

    def load(entry: WeightEntry) -> Tensor:
        tensor = entry.load().to(device=device, dtype=dtype)
        if not entry.published.endswith(OPTIONAL):  # this bias may forbid tokens
            _check_finite(entry.published, tensor)
        return tensor

    with ThreadPoolExecutor(_READERS) as readers:  # reading mapped pages and converting them release the GIL
        tensors = readers.map(load, entries.values())
        loaded = dict(zip(entries, tensors, strict=True))
    state = model.state_dict()
    aliases = _aliases(state, model.has_tied_head)
    loaded |= dict.fromkeys(aliases, next(loaded[name] for name in aliases if name in loaded))
    for name, tensor in state.items():
        if name not in loaded:
            spread = init_std if name.endswith(".weight") else 0.0
            loaded[name] = (torch.randn(tensor.shape) * spread).to(device=device, dtype=kind)
    model.load_state_dict(loaded, strict=True, assign=True)
    model.tie_weights()


def read_entries(parameters: int, folder: str | Path) -> list[WeightEntry]:
    """The entries of a folder for a model of so many weights, before it is built.

    Raises:
        CheckpointError: the model is far larger than the files, or they are absent or unreadable.
    """
    entries = list(_read_entries(Path(folder)))
    stored = sum(entry.shape.numel() for entry in entries)
    if parameters > 2 * stored + _SMALL:
        raise CheckpointError(
            f"config.json in {folder} describes a model of {parameters:,} weights or more; the files have "
            f"{stored:,}. Download the checkpoint again."
        )
    return entries


def save_weights(state: dict[str, Tensor], folder: str | Path, *, tied: bool = True) -> None:
    """Write `model.safetensors`, the shared embedding once. `tied` says whether a head shares it."""
    repeated = set(_aliases(state, tied)[1:])
    tensors = {name: x.detach().contiguous().cpu() for name, x in state.items() if name not in repeated}
    save_file(tensors, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})


def _check_finite(name: str, tensor: Tensor) -> None:
    """Check that all values of a weight are numbers.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    # The sum takes a fraction of the time, and is finite only if the values are.
    if not tensor.is_floating_point() or torch.isfinite(tensor.sum(dtype=torch.float32)):
        return
    if not torch.isfinite(tensor).all():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"the weight {name} has values that are NaN or infinite in {kind}; download the checkpoint "
            "again, or choose a dtype with a wider range."
        )


def match_weights(
    model: Loadable,
    folder: str | Path,
    new_head: bool = False,
    read: Sequence[WeightEntry] | None = None,
) -> dict[str, WeightEntry]:
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
    for entry in _unwrapped(list(_read_entries(Path(folder)) if read is None else read), wanted):
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
    aliases = _aliases(wanted, model.has_tied_head)
    given = [name for name in aliases if name in found]
    if (
        not given and model.has_tied_head and "lm_head.weight" in ignored
    ):  # some files keep the shared embedding only under this name
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
    """The entries of a folder, with its adapter merged into them, without buffers of other versions."""
    files = (path for path in weight_files(folder) if path.suffix in (".safetensors", ".bin"))
    base = (path for path in files if path.name not in ADAPTER_WEIGHTS)
    for entry in adapted((entry for path in base for entry in read_file(path)), folder):
        if not _STRAY.search(entry.published):
            yield entry


def _unwrapped(entries: list[WeightEntry], wanted: dict[str, torch.Size]) -> list[WeightEntry]:
    """The entries without the prefix of another tool, if that gives more of them a name of this model."""

    def known(prefix: str) -> int:
        return sum(_own_name(entry.published.removeprefix(prefix), wanted) in wanted for entry in entries)

    best = ""
    for first in ("", *_WRAPPERS):
        for second in ("", *_WRAPPERS):
            best = max(best, first + second, key=known)
    return [replace(entry, published=entry.published.removeprefix(best)) for entry in entries]


def _own_name(published: str, wanted: dict[str, torch.Size]) -> str:
    """A published name as this model spells it: with or without the `led.` prefix."""
    if published in wanted:
        return published
    if f"led.{published}" in wanted:
        return f"led.{published}"
    return published.removeprefix("led.") if published.removeprefix("led.") in wanted else published


def _aliases(names: dict[str, torch.Size] | dict[str, Tensor], tied: bool) -> list[str]:
    """The names of the shared embedding in a model whose state has these names, the one to save first. A head
    that is not tied has weights of its own."""
    aliases = SHARED_ALIASES if tied else SHARED_ALIASES[:-1]
    known = {alias: alias if alias in names else alias.removeprefix("led.") for alias in aliases}
    return [name for name in known.values() if name in names]
