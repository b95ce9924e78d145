"""The three jobs on a cluster of four raylets, through the Jobs API, while three machines are lost and two
are added.

Each raylet stands for a machine and is killed with all that runs on it (infra/local_cluster.py). The jobs
take turns; each must succeed, its output must verify, and no more shards may have been begun twice than were
in flight when machines were lost.

    python -m tests.cluster_trial --copies 3
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.store import open_store
from pipeline.output.verify import status, verify

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
DASHBOARD = "http://127.0.0.1:8265"
LOGS = "/tmp/led-local-cluster/*/session_*/logs/worker-*.err"
MACHINES = 4
LONGEST_S = 900

JOBS = {
    "summarize": ["--model", "demo/checkpoints/led-reports-summary"],
    "classify": ["--model", "demo/checkpoints/led-reports-label"],
    "answer": ["--model", "demo/checkpoints/led-reports-answer", "--question-column", "questions"],
}


def cluster(*words: str) -> None:
    """A verb of the local cluster's script."""
    subprocess.run([sys.executable, str(ROOT / "infra/local_cluster.py"), *words], check=True)


def submit(task: str, corpus: Path, output: Path) -> str:
    """The id of a job that was sent off."""
    words = [
        "python",
        f"jobs/{task}_corpus.py",
        "--input",
        str(corpus),
        "--output",
        str(output),
        "--shard-documents",
        "8",
        *JOBS[task],
    ]
    command = [
        str(RAY),
        "job",
        "submit",
        "--address",
        DASHBOARD,
        "--working-dir",
        ".",
        "--no-wait",
        "--",
        *words,
    ]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return next(
        word.strip("'")
        for word in (said.stdout + said.stderr).split()
        if word.strip("'").startswith("raysubmit_")
    )


def state(job: str) -> str:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    said = subprocess.run(
        [str(RAY), "job", "status", "--address", DASHBOARD, job], capture_output=True, text=True
    )
    return next(
        (
            s
            for s in ("SUCCEEDED", "FAILED", "STOPPED", "RUNNING")
            if s in (said.stdout + said.stderr).upper()
        ),
        "PENDING",
    )


def logs_of(job: str) -> str:
    """What a job has printed."""
    return subprocess.run(
        [str(RAY), "job", "logs", "--address", DASHBOARD, job], capture_output=True, text=True
    ).stdout


def begun() -> Counter[str]:
    """How often each shard was begun by a model copy, from the workers' logs."""
    found: Counter[str] = Counter()
    for log in set(map(os.path.realpath, glob.glob(LOGS))):  # the newest session has a second name
        for line in Path(log).read_text(errors="replace").splitlines():
            if '"shard begun"' in line:
                found[json.loads(line)["shard"]] += 1
    return found


def trial(task: str, corpus: Path, output: Path, lose: list[str], add: bool) -> dict[str, object]:
    """One job, and the machines lost while it runs; what was seen."""
    before = begun()
    started, job = time.monotonic(), submit(task, corpus, output)
    store = open_store(str(output))
    while not any(
        name.startswith("part-") for name in store.names()
    ):  # something is done, and more is in flight
        assert state(job) in ("PENDING", "RUNNING") and time.monotonic() - started < LONGEST_S, logs_of(job)
        time.sleep(0.5)
    for machine in lose:
        cluster("lose", machine)
    if add:
        cluster("add", "--cpus", "2")
    while (now := state(job)) in ("PENDING", "RUNNING"):
        assert time.monotonic() - started < LONGEST_S, f"{task} does not end"
        time.sleep(1)
    print("\n".join(logs_of(job).splitlines()[-8:]), flush=True)
    assert now == "SUCCEEDED", now
    findings = verify(store)
    assert findings.problems == [] and status(store).finished
    times = begun() - before
    again = sum(times.values()) - len(times)
    in_flight = 2 * len(lose)  # each machine has two model copies, each at one shard
    assert again <= in_flight, f"{again} shards were begun again; {in_flight} were in flight"
    return {
        "task": task,
        "shards": len(times),
        "lost machines": len(lose),
        "begun again": again,
        "in flight there": in_flight,
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--copies", type=int, default=3, help="how often the corpus of the demo is taken: 30 shards each time"
    )
    copies = parser.parse_args().copies
    os.chdir(ROOT)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # as the local cluster has it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reports = pa.concat_tables([pq.read_table("demo/corpus")] * copies)
        ids = pa.array([f"d{i}" for i in range(len(reports))])
        reports = reports.set_column(reports.schema.get_field_index("doc_id"), "doc_id", ids)
        pq.write_table(reports, folder / "corpus.parquet", row_group_size=8)
        cluster("up", "--machines", str(MACHINES), "--cpus", "2")
        try:
            rows = [
                trial("summarize", folder / "corpus.parquet", folder / "summaries", ["1", "2"], add=True),
                trial("classify", folder / "corpus.parquet", folder / "labels", [], add=True),
                trial("answer", folder / "corpus.parquet", folder / "answers", ["3"], add=False),
            ]
        finally:
            cluster("down")
    for row in rows:
        print(row)
    print(json.dumps({"trial": rows}))


if __name__ == "__main__":
    main()
