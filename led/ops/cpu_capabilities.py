"""Which operations are fast here, by CPU flags. Flags do not depend on what else runs on the machine."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags in Linux's names. Empty on other systems."""
    return frozenset(parse_field(_read(), "flags").split())


@lru_cache(maxsize=1)
def is_intel() -> bool:
    """Whether Intel made this processor. True if that is unknown, since then torch's own products are the
    safe choice."""
    vendor = parse_field(_read(), "vendor_id")
    return not vendor or vendor == "GenuineIntel"


def bfloat16_is_fast(flags: frozenset[str] | None = None) -> bool:
    """Whether products in bfloat16 are faster than in float32: with AMX, or with AVX-512's bfloat16
    instructions."""
    flags = cpu_flags() if flags is None else flags
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def parse_field(cpuinfo: str, name: str) -> str:
    """The value of the first line `name : value` of /proc/cpuinfo, or an empty text."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _read() -> str:
    try:
        return _CPUINFO.read_text()
    except OSError:
        return ""
