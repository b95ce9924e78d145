"""Memory: what a document's KV cache takes, and what a device has free. Also how many CPUs a process may use.

The scheduler and the runners decide with these figures how many documents are decoded together.

Units: bytes. Container limits are those of cgroup v2, as the process sees its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from led.config import LEDConfig

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def kv_cache_bytes(
    config: LEDConfig,
    tokens: int,
    rows: int,
    max_length: int,
    itemsize: int,
    cross_itemsize: int | None = None,
) -> int:
    """The KV cache of one document of `tokens` tokens with `rows` rows of at most `max_length` tokens.

    It holds two numbers (key and value) per layer and dimension: for every token of the document once, and
    for every token of every row. `cross_itemsize` is the size of a number of the document, by default that of
    the rows.
    """
    numbers = 2 * config.decoder_layers * config.d_model
    return numbers * (tokens * (cross_itemsize or itemsize) + rows * max_length * itemsize)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or of this machine within the limit of the process's container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    files = (_MEMINFO, *(_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat")))
    return available_bytes(*map(_lines, files))


def available_bytes(
    meminfo: Sequence[str], limit: Sequence[str], used: Sequence[str], stat: Sequence[str]
) -> int:
    """The smaller of the machine's and the container's free memory, from the lines of their files. 8 GiB if
    unknown.

    Inactive file pages count as used in the container, but are freed when memory runs short.
    """
    available = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    if limit and used and limit[0].isdigit():
        inactive = next((int(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0)
        available.append(max(0, int(limit[0]) - max(0, int(used[0]) - inactive)))
    return min(available, default=2**33)


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, within its container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpus_within_quota(bound, _lines(_CGROUP / "cpu.max"))


def cpus_within_quota(bound: int, cpu_max: Sequence[str]) -> int:
    """Whole CPUs, at least one, of `bound` within the line `<quota or max> <period>` of a container's
    cpu.max."""
    quota, _, period = (cpu_max[0] if cpu_max else "").partition(" ")
    limited = quota.isdigit() and period.isdigit()
    return max(1, min(bound, int(quota) // int(period))) if limited else max(1, bound)


def _lines(path: Path) -> list[str]:
    """The lines of a system file, none if it does not exist."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
