"""Submits the three jobs to a cluster of four raylets, kills three of them, and adds two.

Each raylet plays one machine and is killed with all its processes (infra/local_cluster.py). The jobs run one
after the other. Each must succeed, and its output must verify. A shard may start twice only if it was in
flight on a machine that was lost.

    python -m tests.cluster_trial --documents 720
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

from pipeline.output.open_store import open_store
from pipeline.output.verify import status, verify

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
DASHBOARD = "http://127.0.0.1:8265"
LOGS = "/tmp/led-local-cluster/{machine}/session_*/logs/worker-*.err"
MACHINES = 4
SHARD_DOCUMENTS = 6
LONGEST_S = 900

JOBS = {
    "summarize": ["--model", "demo/checkpoints/led-reports-summary"],
    "classify": ["--model", "demo/checkpoints/led-reports-label"],
    "answer": ["--model", "demo/checkpoints/led-reports-answer", "--question-column", "questions"],
}
# The machines that are lost while a job runs, and whether one is added.
CHANGES = {"summarize": (["1", "2"], True), "classify": ([], True), "answer": (["3"], False)}


def cluster(*words: str) -> None:
    """Run a subcommand of the local cluster's script."""
    subprocess.run([sys.executable, str(ROOT / "infra/local_cluster.py"), *words], check=True)


def submit(task: str, corpus: Path, output: Path) -> str:
    """Submit a job. Returns its id."""
    words = [
        "python",
        f"jobs/{task}_corpus.py",
        "--input",
        str(corpus),
        "--output",
        str(output),
        "--shard-documents",
        str(SHARD_DOCUMENTS),
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
    states = ("SUCCEEDED", "FAILED", "STOPPED", "RUNNING")
    return next((s for s in states if s in (said.stdout + said.stderr).upper()), "PENDING")


def logs_of(job: str) -> str:
    """The output of a job."""
    return subprocess.run(
        [str(RAY), "job", "logs", "--address", DASHBOARD, job], capture_output=True, text=True
    ).stdout


def shard_starts(machine: str = "*") -> Counter[str]:
    """How often replicas of a machine started each shard, from the logs of its workers."""
    found: Counter[str] = Counter()
    logs = glob.glob(LOGS.format(machine=machine))
    for log in set(map(os.path.realpath, logs)):  # the newest session has a second name
        for line in Path(log).read_text(errors="replace").splitlines():
            if '"shard started"' in line:
                found[json.loads(line)["shard"]] += 1
    return found


def trial(task: str, corpus: Path, output: Path, lose: list[str], add: bool) -> dict[str, object]:
    """Run one job and lose the machines `lose` meanwhile. Returns a row of the report."""
    before = shard_starts()
    started, job = time.monotonic(), submit(task, corpus, output)
    store = open_store(str(output))
    # Wait for the first committed shard. More shards are in flight then.
    while not any(name.startswith("part-") for name in store.names()):
        assert state(job) in ("PENDING", "RUNNING") and time.monotonic() - started < LONGEST_S, logs_of(job)
        time.sleep(0.5)
    lost = set[str]()
    for machine in lose:
        cluster("lose", machine)
        lost |= (shard_starts(machine) - before).keys()
    # The last commits of a lost machine are visible now, because its processes are dead.
    lost = {shard for shard in lost if f"part-{shard}.parquet" not in store.names()}
    if add:
        cluster("add", "--cpus", "2")
    while (now := state(job)) in ("PENDING", "RUNNING"):
        assert time.monotonic() - started < LONGEST_S, f"{task} did not end in {LONGEST_S} seconds"
        time.sleep(1)
    print("\n".join(logs_of(job).splitlines()[-8:]), flush=True)
    assert now == "SUCCEEDED", now
    findings = verify(store)
    assert findings.problems == [] and status(store).finished
    times = shard_starts() - before
    again = {shard: count for shard, count in times.items() if count > 1}
    assert again.keys() <= lost and max(times.values()) <= 2, (
        f"started again: {again}. Only these were in flight on lost machines: {lost}"
    )
    return {
        "task": task,
        "shards": len(times),
        "lost machines": len(lose),
        "started again": len(again),
        "at most": len(lost),
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--documents", type=int, default=720, help="how many documents, repeated from the demo's 240"
    )
    parser.add_argument("--tasks", nargs="+", choices=JOBS, default=list(JOBS), help="the jobs to submit")
    parsed = parser.parse_args()
    documents: int = parsed.documents
    os.chdir(ROOT)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # like the local cluster
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = pq.read_table("demo/corpus")
        reports = pa.concat_tables([demo] * -(-documents // len(demo))).slice(0, documents)
        ids = pa.array([f"d{i}" for i in range(len(reports))])
        reports = reports.set_column(reports.schema.get_field_index("doc_id"), "doc_id", ids)
        pq.write_table(reports, folder / "corpus.parquet", row_group_size=SHARD_DOCUMENTS)
        cluster("up", "--machines", str(MACHINES), "--cpus", "2")
        try:
            rows = [
                trial(task, folder / "corpus.parquet", folder / task, *CHANGES[task]) for task in parsed.tasks
            ]
        finally:
            cluster("down")
    for row in rows:
        print(row)
    print(json.dumps({"trial": rows}))


if __name__ == "__main__":
    main()
