"""Capabilities are decided by the processor's flags, as /proc/cpuinfo lists them."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from led.ops import cpu_capabilities
from led.ops.cpu_capabilities import allowed_flags, cpu, detect, parse_field

SAPPHIRE_RAPIDS = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu vme avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8
vmx flags\t: vnmi amx_tile_of_vmx
bogomips\t: 5400.00

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu
"""
GENOA = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9B14
flags\t\t: fpu vme avx2 avx512f avx512_bf16 avx512_vnni
"""
MILAN = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7B13
flags\t\t: fpu vme avx2 bmi2
"""
SKYLAKE = """\
processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu avx2 avx512f
"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd bf16 i8mm
CPU implementer\t: 0x41
"""


@pytest.mark.parametrize(
    ("cpuinfo", "name", "value"),
    [
        (SAPPHIRE_RAPIDS, "vendor_id", "GenuineIntel"),
        (SAPPHIRE_RAPIDS, "model name", "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"),
        (SAPPHIRE_RAPIDS, "flags", "fpu vme avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8"),
        (GENOA, "vendor_id", "AuthenticAMD"),
        (GRAVITON, "vendor_id", ""),
        (GRAVITON, "flags", ""),
        ("flags\t: a : b\n", "flags", "a : b"),
        ("flags\n", "flags", ""),
        ("vmx flags\t: a\nflags\t: b\n", "flags", "b"),
        ("", "flags", ""),
    ],
)
def test_a_field_is_that_of_the_first_processor(cpuinfo: str, name: str, value: str) -> None:
    assert parse_field(cpuinfo, name) == value


@pytest.mark.parametrize(
    ("cpuinfo", "architecture", "name", "fast_bfloat16", "bfloat16", "saturates", "intel"),
    [
        (SAPPHIRE_RAPIDS, "x86_64", "AMX", True, False, True, True),
        (GENOA, "x86_64", "AVX-512 with bfloat16", True, False, False, False),
        (MILAN, "x86_64", "AVX2", False, False, True, False),
        (SKYLAKE, "x86_64", "AVX2", False, False, True, True),
        (GRAVITON, "aarch64", "NEON with bfloat16", False, False, False, False),
        ("", "aarch64", "NEON", False, False, False, False),
        ("", "x86_64", "baseline", False, False, True, True),
    ],
    ids=["sapphire rapids", "genoa", "milan", "no avx512bw", "graviton", "unknown arm", "unknown x86"],
)
def test_flags_and_vendor_decide(
    cpuinfo: str,
    architecture: str,
    name: str,
    fast_bfloat16: bool,
    bfloat16: bool,
    saturates: bool,
    intel: bool,
) -> None:
    found = detect({}, cpuinfo, architecture, {})
    assert found.instruction_set == name
    assert found.has_fast_bfloat16 == fast_bfloat16 and found.has_bfloat16_kernels == bfloat16
    assert found.int8_pairs_saturate == saturates and found.is_intel == intel


def test_flags_of_torch_are_preferred_and_take_linux_names() -> None:
    reported = {
        "cpu_name": "AMD EPYC 9654",
        "avx2": True,
        "avx512_f": True,
        "avx512_bw": True,
        "avx512_dq": True,
        "avx512_vl": True,
        "avx512_vnni": True,
        "avx512_bf16": False,
        "l2_cache_size": 1 << 20,
    }
    found = detect(reported, MILAN, "x86_64", {})
    assert found.flags == {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
    assert found.has_bfloat16_kernels and not found.has_fast_bfloat16 and not found.int8_pairs_saturate
    assert found.l2_cache_bytes == 1 << 20 and not found.is_intel
    assert found.describe() == "AMD EPYC 9654, AVX-512 with VNNI"


@pytest.mark.parametrize(
    ("environment", "name", "saturates"),
    [
        ({}, "AMX", False),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, "AMX", False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "AVX-512 with bfloat16", False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "AVX-512 with VNNI", False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "AVX-512", True),
        ({"ONEDNN_MAX_CPU_ISA": "avx2_vnni"}, "AVX2 with VNNI", True),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, "AVX2", True),
        ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, "baseline", True),
        ({"FBGEMM_ENABLE_INSTRUCTIONS": "avx2"}, "AMX", True),
        ({"FBGEMM_ENABLE_INSTRUCTIONS": "avx512_vnni"}, "AMX", False),
    ],
)
def test_the_environment_limits_what_may_be_used(
    environment: dict[str, str], name: str, saturates: bool
) -> None:
    flags = "avx avx2 avx_vnni avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 amx_bf16 amx_int8"
    found = detect({}, f"flags\t: {flags}\nvendor_id\t: GenuineIntel\n", "x86_64", environment)
    assert found.instruction_set == name and found.int8_pairs_saturate == saturates
    assert allowed_flags(frozenset(), environment) == frozenset()


def test_the_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu_capabilities, "_CPUINFO", tmp_path / "missing")
    cpu.cache_clear()
    try:
        found = cpu()
        assert found is cpu() and found.architecture == platform.machine()
    finally:
        cpu.cache_clear()
