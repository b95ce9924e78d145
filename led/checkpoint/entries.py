"""The weights in the files of a folder, by name and without loading them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from led.checkpoint.files import CheckpointError


@dataclass(frozen=True)
class WeightEntry:
    """A weight in a file: its published name, its shape, and a function that loads it."""

    published: str
    shape: torch.Size
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, published: str, tensor: Tensor) -> Self:
        """The entry of a tensor in memory."""
        return cls(published, tensor.shape, lambda: tensor)


def read_file(path: Path) -> Iterator[WeightEntry]:
    """The entries of one file. A `.bin` file is read as plain tensors, and no code is run.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".bin":
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            if not isinstance(state, dict) or any(not isinstance(x, Tensor) for x in state.values()):
                raise CheckpointError(f"{path} holds no weights by name; it is not a saved state of a model.")
            for name, tensor in state.items():
                yield WeightEntry.of(name, tensor)
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
