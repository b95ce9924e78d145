"""What the doctor says of machines that lack something, and of this one."""

from __future__ import annotations

import pytest

from pipeline.doctor import (
    disk_finding,
    dtypes,
    examine,
    gpu_finding,
    memory_finding,
    shared_memory_finding,
    tokens,
)
from tests.led.kernels import processor

GIB = 2**30


@pytest.mark.parametrize(
    ("cuda", "names", "gpus", "state", "text"),
    [
        (None, [], 0.0, "ok", "none; torch 2.13.0 is built for CPUs"),
        (None, [], 0.5, "error", "torch 2.13.0 is built for CPUs; install a build for CUDA"),
        ("13.0", [], 0.0, "warning", "built for CUDA 13.0, but sees no GPU. Check nvidia-smi"),
        ("13.0", [], 1.0, "error", "built for CUDA 13.0, but sees no GPU. Check nvidia-smi"),
        ("13.0", ["NVIDIA H200", "NVIDIA H200"], 1.0, "ok", "2 x NVIDIA H200"),
    ],
)
def test_gpus(cuda: str | None, names: list[str], gpus: float, state: str, text: str) -> None:
    found = gpu_finding("2.13.0", cuda, names, gpus)
    assert found.state == state and text in found.text


@pytest.mark.parametrize(
    ("free", "total", "state", "text"),
    [
        (50, 100, "ok", "50.0 GiB of 100.0 GiB free"),
        (4, 100, "error", "Ray stops above 95%; free some space, or set RAY_TMPDIR and HF_HOME"),
        (3, 20, "warning", "a checkpoint may need 4.0 GiB"),
        (0, 0, "error", "0.0 GiB of 0.0 GiB free"),
    ],
)
def test_disks(free: int, total: int, state: str, text: str) -> None:
    found = disk_finding("temporary files", "/tmp", free * GIB, total * GIB)
    assert found.state == state and text in found.text


def test_memory_and_shared_memory() -> None:
    assert memory_finding(4 * GIB).state == "ok"
    assert memory_finding(2 * GIB).text == "2.0 GiB free; a replica of led-large needs about 4.0 GiB"
    assert shared_memory_finding(8 * GIB, 20 * GIB).state == "ok"
    small = shared_memory_finding(64 * 2**20, 20 * GIB)
    assert small.state == "warning" and small.text == (
        "0.1 GiB free in /dev/shm; Ray wants 6.0 GiB for its object store and uses the slower /tmp instead. "
        "In a container, start it with --shm-size=7g"
    )


@pytest.mark.parametrize(
    ("flags", "bfloat16", "int8", "states", "text"),
    [
        (("avx512bw", "avx512_bf16", "avx512_vnni"), True, True, ["ok", "ok", "ok"], "fast"),
        (("avx512bw", "avx512_vnni"), True, True, ["ok", "ok", "ok"], "only decoding uses bfloat16"),
        (("avx2",), False, True, ["ok", "warning", "ok"], "float32 is used instead"),
        (("avx2",), False, False, ["ok", "warning", "warning"], "no right 8-bit products"),
    ],
)
def test_dtypes(flags: tuple[str, ...], bfloat16: bool, int8: bool, states: list[str], text: str) -> None:
    found = list(dtypes(processor(*flags), True, bfloat16, int8))
    assert [each.state for each in found] == states and any(text in each.text for each in found)


def test_credentials() -> None:
    assert [each.text for each in tokens(True, True, {"RAY_AUTH_MODE": "token"})] == [
        "a token is set",
        "credentials are set",
        "RAY_AUTH_MODE=token",
    ]
    assert "no token" in next(iter(tokens(False, False, {}))).text


def test_this_machine() -> None:
    found = {each.subject: each for each in examine(start_ray=False)}
    assert list(found)[:4] == ["versions", "processor", "speed", "float32"]
    assert "usable CPUs" in found["processor"].text and " GF/s in float32" in found["speed"].text
    assert found["S3"].state == "ok" and "Ray" not in found
