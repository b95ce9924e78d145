"""The parts that all comparisons with transformers' LED share.

Both libraries have models with the same weights. They run alternately in one process with one thread, in two
environments. `stock` is the environment with the default allocator. In `tuned`, the allocator keeps freed
memory. Without this, the reference spends a third of its time on page faults.

Times are medians of the CPU seconds of the process, since the machines are shared. Attention and logits of
the random weights are far from uniform, so that rounding rarely changes a token.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from led import LEDConfig, LEDForConditionalGeneration
from led.testing import spread_weights

LED_BASE: dict[str, Any] = {
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "attention_window": [1024] * 6,
}

TUNED = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.top_pad=268435456:glibc.malloc.hugetlb=1"
)
ENVIRONMENTS: dict[str, dict[str, str]] = {"stock": {}, "tuned": {"GLIBC_TUNABLES": TUNED}}


def pair(
    dtype: str, shape: dict[str, Any] = LED_BASE, rival: str = "float32"
) -> tuple[LEDForConditionalGeneration, Any]:
    """This library's model, prepacked for inference in `dtype`, and the reference in the dtype `rival`.

    Both have the same weights and use one thread.
    """
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    reference = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**shape)).eval()
    spread_weights(reference, seed=0, scale=2)
    ours = LEDForConditionalGeneration(LEDConfig(**shape)).eval()
    ours.load_state_dict(reference.state_dict())
    packed = ours.pack(int8=True) if dtype == "int8" else ours.to(getattr(torch, dtype)).pack()
    return packed, reference.to(getattr(torch, rival))


def documents(lengths: Sequence[int], seed: int = 0) -> list[torch.Tensor]:
    """Random documents of these lengths, in tokens including special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.cat(
            [torch.tensor([0]), torch.randint(5, 50000, (n - 2,), generator=generator), torch.tensor([2])]
        )
        for n in lengths
    ]


def padded(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A padded batch of documents with its masks. `<s>` is global."""
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=1)
    mask = (ids != 1).long()
    global_positions = torch.zeros_like(mask)
    global_positions[:, 0] = 1
    return {"input_ids": ids, "attention_mask": mask, "global_attention_mask": global_positions}


def cpu_seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """The CPU seconds of this process for `call`, and its result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The median CPU seconds and the last result of each call. The calls run alternately."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds, results[name] = cpu_seconds(call)
            times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}, results


def matrix_rate(dtype: str) -> float:
    """Operations per second of the faster of two matrix products, for the encoder's shapes and one thread.

    The median of eight measurements.
    """
    torch_dtype = getattr(torch, "float32" if dtype == "int8" else dtype)
    x, weight = torch.randn(2048, 768).to(torch_dtype), torch.randn(3072, 768).to(torch_dtype)
    prepacked = torch.ops.mkldnn._reorder_linear_weight(weight)
    products: list[Callable[[], Any]] = [
        lambda: [torch.nn.functional.linear(x, weight) for _ in range(4)],
        lambda: [
            torch.ops.mkldnn._linear_pointwise(x, prepacked, None, "none", [], "none") for _ in range(4)
        ],
    ]
    seconds = (statistics.median(cpu_seconds(product)[0] / 4 for _ in range(8)) for product in products)
    return 2 * 2048 * weight.numel() / min(seconds)


def machine() -> dict[str, Any]:
    """The machine, torch and commit of a measurement."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "processor": model[0].split(":")[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "commit": commit,
        "load": round(os.getloadavg()[0], 1),
    }


def in_both_environments(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `python -m module …` in each environment. Returns the last lines of the outputs, parsed as JSON."""
    results = {}
    for name, settings in ENVIRONMENTS.items():
        inherited = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
        command = [sys.executable, "-W", "ignore", "-m", module, "--here", *arguments]
        process = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env={**inherited, **settings}
        )
        results[name] = json.loads(process.stdout.splitlines()[-1])
    return results
