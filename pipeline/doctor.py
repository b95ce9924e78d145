"""Examine a machine before a run: what it has, what is missing, and what to do about it.

`examine` reads the machine. The other functions decide, and are pure.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from led.generation.memory_budget import free_bytes, usable_cpus
from led.ops.cpu_capabilities import CpuCapabilities, cpu
from led.ops.prepacked_linear import PrepackedLinear, can_quantize, has_kernels
from pipeline.cluster.session import cluster_nodes, join_cluster
from pipeline.errors import PipelineError

_SHM = Path("/dev/shm")

# Ray stops storing objects when a disk is fuller than this.
_FULL_DISK = 0.95

# The largest published checkpoint in float32, and as much again while it is downloaded.
_CHECKPOINT_BYTES = 4 * 2**30

# What Ray takes of a machine's memory for its object store, unless the cluster sets another size.
_OBJECT_STORE_SHARE = 0.3

# Free memory that one replica needs: weights of led-large, documents and Python.
_REPLICA_BYTES = 4 * 2**30

_PACKAGES = ("ray", "torch", "pyarrow", "tokenizers", "huggingface_hub", "s3fs")

_MEASURED_S = 0.3

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was examined. An error prevents runs, a warning slows or limits them."""

    state: State
    subject: str
    text: str


def examine(gpus: float = 0.0, ray_address: str | None = None, start_ray: bool = True) -> Iterator[Finding]:
    """Yield what is found on this machine. `gpus` is what a replica would use. Ray is started or joined last,
    unless `start_ray` is false."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    yield Finding("ok", "versions", f"Python {platform.python_version()}, {versions}")
    cache = f", {cpu().l2_cache_bytes / 2**20:.1f} MiB of second-level cache" if cpu().l2_cache_bytes else ""
    yield Finding("ok", "processor", f"{cpu().describe()}, {usable_cpus()} usable CPUs{cache}")
    yield Finding(
        "ok", "speed", f"one thread: {_products():.0f} GF/s in float32, {_reads():.0f} GB/s of reads"
    )
    yield from dtypes(cpu(), has_kernels(torch.float32), has_kernels(torch.bfloat16), can_quantize())
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield gpu_finding(torch.__version__, torch.version.cuda, names, gpus)
    yield memory_finding(free_bytes(torch.device("cpu")))
    for what, path in (("temporary files", _ray_folder()), ("checkpoints", _checkpoint_folder())):
        usage = shutil.disk_usage(_existing(path))
        yield disk_finding(what, str(path), usage.free, usage.total)
    if _SHM.is_dir():
        yield shared_memory_finding(shutil.disk_usage(_SHM).free, free_bytes(torch.device("cpu")))
    yield from tokens(_hub_token(), _aws_credentials(), os.environ)
    if start_ray:
        yield _ray(ray_address)


def dtypes(
    capabilities: CpuCapabilities, float32_kernels: bool, bfloat16_kernels: bool, int8: bool
) -> Iterator[Finding]:
    """What each dtype is worth on this processor."""
    if float32_kernels:
        yield Finding("ok", "float32", "prepacked products (oneDNN)")
    else:
        yield Finding("warning", "float32", "torch's plain products; this torch has no prepacked ones")
    if bfloat16_kernels and capabilities.has_fast_bfloat16:
        yield Finding("ok", "bfloat16", "fast")
    elif bfloat16_kernels:
        yield Finding("ok", "bfloat16", "documents are encoded in float32, only decoding uses bfloat16")
    else:
        yield Finding("warning", "bfloat16", "no products on this processor; float32 is used instead")
    if not int8:
        yield Finding("warning", "int8", "refused: this torch has no right 8-bit products for this processor")
    elif capabilities.int8_pairs_saturate:
        yield Finding("ok", "int8", "weights are rounded slightly more, since there is no VNNI")
    else:
        yield Finding("ok", "int8", "fast")


def gpu_finding(version: str, cuda: str | None, names: list[str], gpus: float) -> Finding:
    """Whether torch sees GPUs. `cuda` is the version of CUDA that torch was built for, if any."""
    if names:
        return Finding("ok", "GPU", f"{len(names)} x {names[0]}")
    if cuda is None and not gpus:
        return Finding("ok", "GPU", f"none; torch {version} is built for CPUs")
    if cuda is None:
        return Finding("error", "GPU", f"torch {version} is built for CPUs; install a build for CUDA")
    return Finding(
        "error" if gpus else "warning",
        "GPU",
        f"torch {version} is built for CUDA {cuda}, but sees no GPU. Check nvidia-smi and "
        "CUDA_VISIBLE_DEVICES, or install torch's CPU build, which is 2 GB smaller",
    )


def memory_finding(free: int) -> Finding:
    """Whether a replica fits into the free memory."""
    state: State = "ok" if free >= _REPLICA_BYTES else "warning"
    hint = "" if state == "ok" else f"; a replica of led-large needs about {_gib(_REPLICA_BYTES)}"
    return Finding(state, "memory", f"{_gib(free)} free{hint}")


def disk_finding(what: str, path: str, free: int, total: int) -> Finding:
    """Whether a disk has room for `what`."""
    text = f"{what} in {path}: {_gib(free)} of {_gib(total)} free"
    if 1 - free / max(1, total) > _FULL_DISK:
        hint = f"Ray stops above {_FULL_DISK:.0%}; free some space, or set RAY_TMPDIR and HF_HOME"
        return Finding("error", "disk", f"{text}; {hint}")
    if free < _CHECKPOINT_BYTES:
        return Finding("warning", "disk", f"{text}; a checkpoint may need {_gib(_CHECKPOINT_BYTES)}")
    return Finding("ok", "disk", text)


def shared_memory_finding(free: int, memory: int) -> Finding:
    """Whether Ray's object store fits into /dev/shm."""
    needed = int(_OBJECT_STORE_SHARE * memory)
    if free >= needed:
        return Finding("ok", "shared memory", f"{_gib(free)} free in /dev/shm")
    return Finding(
        "warning",
        "shared memory",
        f"{_gib(free)} free in /dev/shm; Ray wants {_gib(needed)} for its object store and uses the slower "
        f"/tmp instead. In a container, start it with --shm-size={needed // 2**30 + 1}g",
    )


def tokens(hub: bool, aws: bool, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Which credentials are present. None is needed for local files and public checkpoints."""
    yield Finding(
        "ok",
        "Hugging Face",
        "a token is set" if hub else "no token: public checkpoints only. Set HF_TOKEN for private ones",
    )
    yield Finding("ok", "S3", "credentials are set" if aws else "no credentials: local files only")
    mode = environment.get("RAY_AUTH_MODE")
    yield Finding("ok", "Ray token", f"RAY_AUTH_MODE={mode}" if mode else "RAY_AUTH_MODE is unset")


def _ray(address: str | None) -> Finding:
    start = time.monotonic()
    try:
        join_cluster(address)
        nodes = cluster_nodes()
    except PipelineError as error:
        return Finding("error", "Ray", str(error))
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    seconds = time.monotonic() - start
    how = "joined" if address or os.environ.get("RAY_ADDRESS") else "started on this machine"
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return Finding("ok", "Ray", f"{how} in {seconds:.0f} s: {count}, {cpus:g} CPUs, {gpus:g} GPUs")


def _products() -> float:
    """Billions of operations per second of a float32 product, by one thread."""
    rows, inputs, outputs = 512, 768, 3072
    linear, x = torch.nn.Linear(inputs, outputs), torch.randn(rows, inputs)
    layer = PrepackedLinear(linear) if has_kernels(torch.float32) else linear
    seconds = _seconds(lambda: layer(x))
    return 2 * rows * inputs * outputs / seconds / 1e9


def _reads() -> float:
    """Billions of bytes per second that one thread reads."""
    x = torch.ones(2**27 // 4)
    return x.nbytes / _seconds(x.sum) / 1e9


@torch.no_grad()
def _seconds(work: Callable[[], object]) -> float:
    """The fastest of several calls, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        end, best = time.monotonic() + _MEASURED_S, float("inf")
        while time.monotonic() < end:
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
        return best
    finally:
        torch.set_num_threads(threads)


def _hub_token() -> bool:
    import huggingface_hub

    return huggingface_hub.get_token() is not None


def _aws_credentials() -> bool:
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        return botocore.session.get_session().get_credentials() is not None
    except BotoCoreError:  # such as a broken configuration file
        return False


def _ray_folder() -> Path:
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def _checkpoint_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
