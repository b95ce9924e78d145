"""Which operations this processor computes fast and correctly. The only place that reads its flags.

Kernels and dtypes follow from instruction-set flags, which do not depend on what else runs on the machine. No
decision is made by a stopwatch.

Flags have Linux's names, as in /proc/cpuinfo. They leave out what the environment variables of oneDNN
(`ONEDNN_MAX_CPU_ISA`) and FBGEMM (`FBGEMM_ENABLE_INSTRUCTIONS`) forbid, because these libraries compute the
products.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

_CPUINFO = Path("/proc/cpuinfo")

# Names of torch.cpu.get_capabilities that differ from Linux's names.
_LINUX_NAMES = {
    "avx512_f": "avx512f",
    "avx512_bw": "avx512bw",
    "avx512_dq": "avx512dq",
    "avx512_vl": "avx512vl",
}

# Levels of ONEDNN_MAX_CPU_ISA in their order, and the flags that each adds. oneDNN reads DEFAULT as no limit.
_ONEDNN_LEVELS: tuple[tuple[str, frozenset[str]], ...] = (
    ("SSE41", frozenset({"sse4_1"})),
    ("AVX", frozenset({"avx"})),
    ("AVX2", frozenset({"avx2"})),
    ("AVX2_VNNI", frozenset({"avx_vnni"})),
    ("AVX2_VNNI_2", frozenset({"avx_ne_convert", "avx_vnni_int8"})),
    ("AVX512_CORE", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})),
    ("AVX512_CORE_VNNI", frozenset({"avx512_vnni"})),
    ("AVX512_CORE_BF16", frozenset({"avx512_bf16"})),
    ("AVX512_CORE_FP16", frozenset({"avx512_fp16"})),
    ("AVX512_CORE_AMX", frozenset({"amx_tile", "amx_int8", "amx_bf16"})),
    ("AVX512_CORE_AMX_FP16", frozenset({"amx_fp16"})),
)

# Values of FBGEMM_ENABLE_INSTRUCTIONS under which FBGEMM does not use VNNI.
_FBGEMM_WITHOUT_VNNI = ("avx2", "avx512", "avx512_256")

# Instruction sets from the fastest to the slowest: a name to print, and the flags that it needs.
_INSTRUCTION_SETS: tuple[tuple[str, frozenset[str]], ...] = (
    ("AMX", frozenset({"amx_bf16"})),
    ("AVX-512 with bfloat16", frozenset({"avx512_bf16"})),
    ("AVX-512 with VNNI", frozenset({"avx512bw", "avx512_vnni"})),
    ("AVX-512", frozenset({"avx512bw"})),
    ("AVX2 with VNNI", frozenset({"avx2", "avx_vnni"})),
    ("AVX2", frozenset({"avx2"})),
    ("AVX", frozenset({"avx"})),
    ("NEON with bfloat16", frozenset({"asimd", "bf16"})),
    ("NEON", frozenset({"asimd"})),
)

_AVX512 = frozenset({"avx512bw", "avx512vl", "avx512dq"})

_X86 = ("x86_64", "AMD64", "i686")


@dataclass(frozen=True)
class CpuCapabilities:
    """A processor: its name, its architecture as `platform.machine()` has it, its instruction-set flags, and
    the bytes of one core's second-level cache, or 0 if unknown."""

    name: str
    architecture: str
    vendor: str
    flags: frozenset[str]
    l2_cache_bytes: int = 0

    @property
    def is_x86(self) -> bool:
        return self.architecture in _X86

    @property
    def instruction_set(self) -> str:
        """The fastest instruction set that products can use, as a name to print."""
        return next((name for name, flags in _INSTRUCTION_SETS if flags <= self.flags), "baseline")

    @property
    def is_intel(self) -> bool:
        """Whether Intel made this processor. True if that is unknown on x86, since then torch's own products
        are the safe choice."""
        return self.is_x86 and self.vendor in ("", "GenuineIntel")

    @property
    def has_fast_bfloat16(self) -> bool:
        """Whether products in bfloat16 are faster than in float32."""
        return bool(self.flags & {"amx_bf16", "avx512_bf16"})

    @property
    def has_bfloat16_kernels(self) -> bool:
        """Whether oneDNN has bfloat16 products for this processor. Without them they are emulated, tens of
        times slower than float32."""
        return self.is_x86 and (self.flags >= _AVX512 or "avx_ne_convert" in self.flags)

    @property
    def int8_pairs_saturate(self) -> bool:
        """Whether 8-bit kernels add two neighboring products in 16 bits, which overflow. x86 without VNNI
        does, and FBGEMM uses VNNI only with AVX-512."""
        return self.is_x86 and "avx512_vnni" not in self.flags

    def describe(self) -> str:
        """Name and instruction set, as in `AMD EPYC 7763, AVX2`."""
        return f"{self.name or self.architecture}, {self.instruction_set}"


@lru_cache(maxsize=1)
def cpu() -> CpuCapabilities:
    """The processor of this machine."""
    reported = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return detect(reported, _read(), platform.machine(), os.environ)


def detect(
    reported: Mapping[str, Any], cpuinfo: str, architecture: str, environment: Mapping[str, str]
) -> CpuCapabilities:
    """The capabilities from what torch reports (from version 2.10 on) and from the text of /proc/cpuinfo.

    Torch's flags are those that its kernels check, so they are preferred.
    """
    flags = frozenset(_LINUX_NAMES.get(name, name) for name, value in reported.items() if value is True)
    if not flags:
        name = "flags" if architecture in _X86 else "Features"
        flags = frozenset(parse_field(cpuinfo, name).split())
    if architecture in ("aarch64", "arm64"):
        flags |= {"asimd"}  # part of the architecture
    return CpuCapabilities(
        name=str(reported.get("cpu_name") or parse_field(cpuinfo, "model name")),
        architecture=architecture,
        vendor=parse_field(cpuinfo, "vendor_id"),
        flags=allowed_flags(flags, environment),
        l2_cache_bytes=int(reported.get("l2_cache_size") or 0),
    )


def allowed_flags(flags: frozenset[str], environment: Mapping[str, str]) -> frozenset[str]:
    """The flags without those that the environment forbids oneDNN and FBGEMM to use."""
    names = [name for name, _ in _ONEDNN_LEVELS]
    limit = (environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or "").upper()
    if limit in names:
        for _, added in _ONEDNN_LEVELS[names.index(limit) + 1 :]:
            flags -= added
    if environment.get("FBGEMM_ENABLE_INSTRUCTIONS", "").lower() in _FBGEMM_WITHOUT_VNNI:
        flags -= {"avx512_vnni"}
    return flags


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
