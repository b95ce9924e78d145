"""How much memory a document takes while it is decoded, how much a device has left, and how many CPUs a process may use.

Units: bytes. Containers are those of cgroup v2, as the process sees its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from led.config import LEDConfig

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def decoding_bytes(
    config: LEDConfig, tokens: int, rows: int, max_length: int, bytes_per_number: int, bytes_remembered: int | None = None
) -> int:
    """What one document holds while `rows` rows of at most `max_length` tokens are decoded from its `tokens` tokens.

    Two numbers (key and value) per layer and dimension for every token of the document, once, and of every row; those of the
    document may have other bytes, `bytes_remembered`.
    """
    each = 2 * config.decoder_layers * config.d_model
    return each * (tokens * (bytes_remembered or bytes_per_number) + rows * max_length * bytes_per_number)


def free_bytes(device: torch.device) -> int:
    """What is left on a GPU, or on this machine within the limit of the container that the process runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    files = (_MEMINFO, *(_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat")))
    return free_of(*map(_lines, files))


def free_of(meminfo: Sequence[str], limit: Sequence[str], used: Sequence[str], stat: Sequence[str]) -> int:
    """The least that the lines of /proc/meminfo and of the container's files leave; 8 GiB where they say nothing.

    File pages that nobody touched of late count as used in the container, and are given back when memory runs short.
    """
    available = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    if limit and used and limit[0].isdigit():
        idle = next((int(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0)
        available.append(max(0, int(limit[0]) - max(0, int(used[0]) - idle)))
    return min(available, default=2**33)


def cpus() -> int:
    """CPUs that this process may use: those it is bound to, within the share of the container that it runs in."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpus_of(bound, _lines(_CGROUP / "cpu.max"))


def cpus_of(bound: int, cpu_max: Sequence[str]) -> int:
    """Whole CPUs, at least one, of so many within the line of a container's cpu.max: `<quota or max> <period>`."""
    quota, _, period = (cpu_max[0] if cpu_max else "").partition(" ")
    return max(1, min(bound, int(quota) // int(period))) if quota.isdigit() and period.isdigit() else max(1, bound)


def _lines(path: Path) -> list[str]:
    """The lines of a file of the system, none where it is not there."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
