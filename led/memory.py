"""How much memory a document takes while it is decoded, and how much a device has left. Units: bytes."""

from __future__ import annotations

from pathlib import Path

import torch

from led.config import LEDConfig

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def decoding_bytes(config: LEDConfig, tokens: int, rows: int, max_length: int, bytes_per_number: int) -> int:
    """What one document holds while `rows` rows of at most `max_length` tokens are decoded from its `tokens` tokens.

    Two numbers (key and value) per layer and dimension for every token of the document, once, and of every row.
    """
    return 2 * config.decoder_layers * config.d_model * bytes_per_number * (tokens + rows * max_length)


def free_bytes(device: torch.device) -> int:
    """What is left on a GPU, or on this machine within the limit of the container that the process runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = [int(line.split()[1]) * 1024 for line in _lines(_MEMINFO) if line.startswith("MemAvailable")]
    limit, used = (_lines(_CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdigit():
        available.append(max(0, int(limit[0]) - int(used[0])))
    return min(available, default=2**33)


def _lines(path: Path) -> list[str]:
    """The lines of a file of the system, none where it is not there."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
