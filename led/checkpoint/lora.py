"""Merges a LoRA adapter (arXiv:2106.09685) into the weights of its base while they are loaded.

A linear layer's weight W (out, in) becomes W + s B A, with A (r, in), B (out, r) and the scale s = alpha / r,
or alpha / sqrt(r) for rank-stabilized adapters (arXiv:2312.03732). With DoRA (arXiv:2402.09353) each row of
the sum is scaled to a learned length. An embedding E (rows, d) becomes E + s (B A)^T, with A (r, rows) and B
(d, r). Weights that an adapter stores whole replace those of the base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from led.checkpoint.adapters import EMBEDDINGS, plain_name, read_adapter_config
from led.checkpoint.entries import WeightEntry, read_file
from led.checkpoint.files import ADAPTER_WEIGHTS, CheckpointError

# The parts of a module's update, under PEFT's names.
_PART = re.compile(
    r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.default)?(\.weight)?$"
)


@dataclass(frozen=True)
class Adapter:
    """The parts of a LoRA adapter: by module those of its update, and by weight those that it replaces."""

    updates: dict[str, dict[str, Tensor]]
    replaced: dict[str, Tensor]
    config: Mapping[str, Any]

    def scale(self, module: str, rank: int) -> float:
        """The factor of a module's update."""
        alpha = self.config.get("lora_alpha") or rank
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = value
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def merge(self, entry: WeightEntry, module: str) -> Tensor:
        """The base's weight of `module` with its update, in the base's dtype."""
        base, parts = entry.load(), self.updates[module]
        if "lora_embedding_A" in parts:
            a, b = parts["lora_embedding_A"].float(), parts["lora_embedding_B"].float()
            update = (b @ a).T
        else:
            a, b = parts["lora_A"].float(), parts["lora_B"].float()
            update = b @ a
        if update.shape != base.shape:
            raise CheckpointError(
                f"the adapter's update of {module} is {tuple(update.shape)}, its base {tuple(base.shape)}; "
                "give the adapter's own base."
            )
        merged = base.float() + self.scale(module, a.shape[0]) * update
        if "lora_magnitude_vector" in parts:
            length = merged.norm(dim=1)
            merged = merged * (parts["lora_magnitude_vector"].float().flatten() / length)[:, None]
        return merged.to(base.dtype)


def read_adapter(folder: Path) -> Adapter | None:
    """The adapter in a folder. None if there is none.

    Raises:
        CheckpointError: it cannot be read, or has a part that cannot be merged.
    """
    path = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        return None
    updates: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for entry in read_file(path):
        name = plain_name(entry.published)
        part = _PART.search(name)
        if part:
            updates.setdefault(name[: part.start()], {})[part[1]] = entry.load()
        elif "lora_" in name:
            raise CheckpointError(
                f"{path} has {entry.published}, which cannot be merged here; merge it with PEFT's "
                "merge_and_unload, save the model, and give that folder."
            )
        else:
            replaced[name] = entry.load()
    for module, parts in updates.items():
        if not (
            {"lora_A", "lora_B"} <= parts.keys() or {"lora_embedding_A", "lora_embedding_B"} <= parts.keys()
        ):
            raise CheckpointError(
                f"{path} has only {', '.join(sorted(parts))} of {module}; download it again."
            )
    return Adapter(updates, replaced, read_adapter_config(folder))


def adapted(entries: Iterator[WeightEntry], folder: Path) -> Iterator[WeightEntry]:
    """The base's entries, with the adapter in `folder` merged into them if there is one.

    Raises:
        CheckpointError: the adapter has a module that the base lacks.
    """
    adapter = read_adapter(folder)
    if adapter is None:
        yield from entries
        return
    left = {*adapter.updates, *adapter.replaced}
    embedding = _embedding(adapter, folder)
    for entry in entries:
        module = entry.published.removesuffix(".weight")
        shared = embedding if entry.published.endswith(EMBEDDINGS) else None
        whole = adapter.replaced.get(entry.published, shared)
        if module in adapter.updates and entry.published.endswith(".weight"):
            left.discard(module)
            yield replace(entry, load=partial(adapter.merge, entry, module))
        elif whole is not None:
            left.discard(entry.published)
            yield WeightEntry.of(entry.published, whole)
        else:
            yield entry
    for name in sorted(left & adapter.replaced.keys()):  # a head that the base lacks
        left.discard(name)
        yield WeightEntry.of(name, adapter.replaced[name])
    if left:
        raise CheckpointError(
            f"the adapter in {folder} changes {len(left)} modules that its base lacks: "
            f"{', '.join(sorted(left)[:8])}. Give the adapter's own base."
        )


def _embedding(adapter: Adapter, folder: Path) -> Tensor | None:
    """The embedding that an adapter brings, or None.

    Raises:
        CheckpointError: its head differs from it, so the merged model would need two.
    """
    found = {name: x for name, x in adapter.replaced.items() if name.endswith(EMBEDDINGS)}
    if not found:
        return None
    first = next(iter(found.values()))
    if set(found) == {"lm_head.weight"} or any(not torch.equal(x, first) for x in found.values()):
        raise CheckpointError(
            f"the adapter in {folder} gives the language-model head weights of its own, apart from the token "
            "embedding; merge it with PEFT's merge_and_unload, save the model, and give that folder."
        )
    return first
