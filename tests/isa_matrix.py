"""Run the short tests of `led/` under every instruction set that this processor can imitate.

    python -m tests.isa_matrix

oneDNN, ATen and FBGEMM read limits from the environment. A limit that the processor does not reach is left
out, because it would repeat the row before. MKL reads its limit only on Intel processors.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time

from benchmarks.instruction_sets import LEVELS
from led.ops.cpu_capabilities import cpu

# Tests of kernels, caches, models and generation that take seconds each.
TESTS = (
    "tests/led/ops",
    "tests/led/kv_cache",
    "tests/led/heads",
    "tests/led/model/test_precision.py",
    "tests/led/generation/test_scheduler.py",
    "tests/led/generation/test_search.py",
    "tests/led/generation/test_memory_budget.py",
)


def counts(printed: str) -> dict[str, int]:
    """The counts in pytest's last line, by outcome."""
    found = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", printed.strip().splitlines()[-1])
    return {outcome.rstrip("s") if outcome.startswith("error") else outcome: int(n) for n, outcome in found}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    print(f"{cpu().describe()}\n")
    print("| instruction set | passed | skipped | failed | seconds |\n|---|---|---|---|---|")
    failed = False
    for level in LEVELS:
        if level.flag not in cpu().flags:
            print(f"| {level.name} | not on this processor | | | |", flush=True)
            continue
        processes = ("-n", str(args.processes), "--dist", "loadfile")
        command = [sys.executable, "-m", "pytest", "-q", *processes, *TESTS]
        start = time.monotonic()
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **level.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        found, seconds = counts(done.stdout), time.monotonic() - start
        broken = found.get("failed", 0) + found.get("error", 0)
        row = (level.name, found.get("passed", 0), found.get("skipped", 0), broken, round(seconds))
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        if done.returncode:
            failed = True
            print(done.stdout[-4000:], done.stderr[-1000:], file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
