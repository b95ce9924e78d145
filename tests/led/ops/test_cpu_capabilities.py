"""Capabilities are decided by the processor's flags, as /proc/cpuinfo lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from led.ops import cpu_capabilities
from led.ops.cpu_capabilities import bfloat16_is_fast, cpu_flags, is_intel, parse_field

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


@pytest.fixture
def use_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a text the machine's /proc/cpuinfo."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu_capabilities, "_CPUINFO", path)

    def use(text: str) -> None:
        path.write_text(text)
        forget()

    forget()
    yield use
    forget()


def forget() -> None:
    cpu_flags.cache_clear()
    is_intel.cache_clear()


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
    ("cpuinfo", "bfloat16", "intel"),
    [
        (SAPPHIRE_RAPIDS, True, True),
        (GENOA, True, False),
        (MILAN, False, False),
        (SKYLAKE, False, True),
        (GRAVITON, False, True),
        ("", False, True),
    ],
    ids=["amx_bf16", "avx512_bf16", "neither", "avx512 without bf16", "no flags", "empty"],
)
def test_flags_and_vendor_decide(
    cpuinfo: str, bfloat16: bool, intel: bool, use_cpuinfo: Callable[[str], None]
) -> None:
    use_cpuinfo(cpuinfo)
    assert bfloat16_is_fast() == bfloat16
    assert is_intel() == intel


def test_either_flag_is_enough() -> None:
    assert bfloat16_is_fast(frozenset({"amx_bf16", "avx2"}))
    assert bfloat16_is_fast(frozenset({"avx512_bf16"}))
    assert not bfloat16_is_fast(frozenset({"avx512f", "amx_int8", "bf16"}))
    assert not bfloat16_is_fast(frozenset())


def test_without_cpuinfo_no_flag_is_known(use_cpuinfo: Callable[[str], None]) -> None:
    """Then bfloat16 counts as slow, and the vendor as Intel."""
    assert cpu_flags() == frozenset() and not bfloat16_is_fast() and is_intel()


def test_cpuinfo_is_read_once(use_cpuinfo: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    use_cpuinfo(GENOA)
    reads, read = [], cpu_capabilities._read
    monkeypatch.setattr(cpu_capabilities, "_read", lambda: reads.append(1) or read())
    assert all(bfloat16_is_fast() and not is_intel() for _ in range(3))
    assert len(reads) == 2  # once for the flags, once for the vendor
