"""Runs a small job in processes of which one system call fails. See `faulty_calls.c`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.pipeline.crash import job
from tests.waiting import HANG_S

SOURCE = Path(__file__).parent / "output" / "faulty_calls.c"
ROOT = Path(__file__).parents[2]


class FaultyMachine:
    """A process that has imported everything and is forked for each run. Its calls can be made to fail."""

    def __init__(self, folder: Path) -> None:
        library = folder / "faulty_calls.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        faulty = {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.disk_faults"],
            env={**os.environ, **faulty},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, corpus: Path, model: Path, output: Path, **fault: str) -> tuple[int | None, str]:
        """The exit code of a run and what it printed. The code is None if it hangs."""
        case = {"corpus": str(corpus), "model": str(model), "output": str(output), "fault": fault}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(case) + "\n")
        self._server.stdin.flush()
        code, text = json.loads(self._server.stdout.readline())
        return code, text

    def close(self) -> None:
        """End the process."""
        self._server.kill()
        self._server.communicate()


def _run(case: dict[str, Any], printed: Path) -> int | None:
    """The exit code of a run in a forked process."""
    pid = os.fork()
    if not pid:
        descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        job(case["corpus"], Path(case["model"]), case["output"], case["fault"], "", {})
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


def main() -> None:
    """Run the cases of the standard input, one JSON object per line."""
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        for line in sys.stdin:
            code = _run(json.loads(line), printed)
            print(json.dumps([code, printed.read_text(errors="replace")]), flush=True)


if __name__ == "__main__":
    main()
