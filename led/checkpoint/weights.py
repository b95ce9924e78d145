"""Checkpoints: folders in the published layout, read and written strictly.

Files: `model.safetensors` or `pytorch_model.bin` (read as plain tensors, no code is run), each also in shards with an
`.index.json`. Weight names are those of the models' own `state_dict`, but for the table below.

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
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from led.config import LEDConfig
from led.weight_files import CheckpointError, weight_files

if TYPE_CHECKING:
    from led.pretrained import LEDPreTrainedModel

Model = TypeVar("Model", bound="LEDPreTrainedModel")

# One tensor, four published names: a file holds any of them, and all it holds must be equal.
SHARED_EMBEDDING = "led.shared.weight"
SHARED_ALIASES = (
    "led.shared.weight",
    "led.encoder.embed_tokens.weight",
    "led.decoder.embed_tokens.weight",
    "lm_head.weight",
)

# Zeros in every published checkpoint, and left out of some.
OPTIONAL = ("final_logits_bias",)

# What the heads of the published models add to the bare LED, by prefix.
HEADS = ("final_logits_bias", "lm_head.", "classification_head.", "qa_outputs.")

# Weights read at once.
_READERS = 4


class _WithoutInitialWeights(TorchFunctionMode):
    """Modules are made without drawing initial weights, which loading would overwrite."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def load_weights(
    cls: type[Model],
    config: LEDConfig,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    new_head: bool = False,
) -> Model:
    """A model of `cls` with the weights of `folder`.

    `dtype` converts the weights; None keeps the file's own. The model is laid out without memory first, so the peak is
    about one copy of the weights. With `new_head` the head's weights are drawn, whatever the files hold.

    Raises:
        CheckpointError: no weights, unreadable weights, or weights that are missing, unexpected or of another shape.
    """
    model, entries = _match(cls, config, folder, new_head)
    kind = dtype or entries[next(iter(entries))].load().dtype
    with ThreadPoolExecutor(_READERS) as readers:  # reading mapped pages and converting them hold no lock
        tensors = readers.map(lambda entry: entry.load().to(device=device, dtype=dtype), entries.values())
        loaded = dict(zip(entries, tensors, strict=True))
    state = model.state_dict()
    aliases = _aliases(state)
    loaded |= dict.fromkeys(aliases, next(loaded[name] for name in aliases if name in loaded))
    for name, tensor in state.items():
        if name not in loaded:
            spread = config.init_std if name.endswith(".weight") else 0.0
            loaded[name] = (torch.randn(tensor.shape) * spread).to(device=device, dtype=kind)
    model.load_state_dict(loaded, strict=True, assign=True)
    model.tie_weights()
    return model


def check_weights(cls: type[LEDPreTrainedModel], folder: str | Path) -> None:
    """See that a model of `cls` would find every weight in `folder`, with its shape, without loading them.

    Raises:
        FileNotFoundError: no config.json.
        CheckpointError: as `load_weights`.
    """
    _match(cls, LEDConfig.from_pretrained(folder), folder)


def save_weights(state: dict[str, Tensor], folder: str | Path) -> None:
    """Write `model.safetensors`, the shared embedding once."""
    repeated = set(_aliases(state)[1:])
    tensors = {name: x.detach().contiguous().cpu() for name, x in state.items() if name not in repeated}
    save_file(tensors, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})


@dataclass(frozen=True)
class _Entry:
    """A weight in a file: its published name, its shape, and how to bring it into memory."""

    published: str
    shape: torch.Size
    load: Callable[[], Tensor]


def _match(cls: type[Model], config: LEDConfig, folder: str | Path, new_head: bool = False) -> tuple[Model, dict[str, _Entry]]:
    """A model of `cls` without memory, and the entry for each of its weights; an alias may stand for the others.

    Heads of other tasks are passed over where the bare model or a new head is asked for.

    Raises:
        CheckpointError: names or shapes differ; all of them are listed.
    """
    with torch.device("meta"), _WithoutInitialWeights():
        model = cls(config)
    drawn = cls.head if new_head else ()
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if not name.startswith(drawn)}
    passed_over = HEADS if new_head or not cls.head else ()
    found: dict[str, _Entry] = {}
    passed: dict[str, _Entry] = {}
    unexpected: list[str] = []
    misshaped: dict[str, str] = {}
    for entry in _read_entries(Path(folder)):
        name = _own_name(entry.published, wanted)
        if name not in wanted and entry.published.startswith(passed_over):
            passed[entry.published] = entry
        elif name not in wanted:
            unexpected.append(entry.published)
        elif entry.shape != wanted[name]:
            misshaped[name] = f"{entry.published} is {tuple(entry.shape)}, the configuration says {tuple(wanted[name])}"
        else:
            found[name] = entry
    aliases = _aliases(wanted)
    given = [name for name in aliases if name in found]
    if not given and "lm_head.weight" in passed:  # the one name under which some files keep the shared embedding
        found[aliases[0]] = passed["lm_head.weight"]
        given = aliases[:1]
    for name in given[1:]:
        if not torch.equal(found[name].load(), found[given[0]].load()):
            misshaped[name] = f"{found[name].published} differs from {found[given[0]].published}, which it should share"
    shared = aliases if given or any(name in misshaped for name in aliases) else ()
    optional = {*OPTIONAL, *shared, *misshaped}
    missing = [name for name in wanted if name not in found and name not in optional]
    problems = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", list(misshaped.values())))
    if any(names for _, names in problems):
        raise CheckpointError(
            f"the weights in {folder} are not those of {cls.__name__}: "
            + "; ".join(
                f"{len(names)} {what}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
                for what, names in problems
                if names
            )
            + _advice(cls, missing)
        )
    return model, found


def _advice(cls: type[LEDPreTrainedModel], missing: list[str]) -> str:
    """What to do where only the head is missing."""
    if missing and cls.head and all(name.startswith(cls.head) for name in missing):
        return ". Load a checkpoint trained for this task, or pass new_head=True to train a new head."
    return ""


def _read_entries(folder: Path) -> Iterator[_Entry]:
    for path in weight_files(folder):
        if path.suffix not in (".safetensors", ".bin"):
            continue
        try:
            if path.suffix == ".bin":
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
                if not isinstance(state, dict) or any(not isinstance(x, Tensor) for x in state.values()):
                    raise CheckpointError(f"{path} holds no weights by name; it is not a saved state of a model.")
                for name, tensor in state.items():
                    yield _Entry(name, tensor.shape, partial(_itself, tensor))
            else:
                file = safe_open(str(path), framework="pt")
                for name in file.keys():  # noqa: SIM118
                    yield _Entry(name, torch.Size(file.get_slice(name).get_shape()), partial(file.get_tensor, name))
        except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read as weights ({error}); fetch the file again.") from error


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
