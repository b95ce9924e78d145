#!/usr/bin/env python3
"""A cluster of several raylets on this machine, to try things out on: each stands for a machine, and can be
lost.

    infra/local_cluster.py up --machines 4 --cpus 2     a head (no CPUs) and four machines; prints what to
    export infra/local_cluster.py lose 2                       kill -9 of machine 2, with all that runs on it
    infra/local_cluster.py add --cpus 2                 another machine infra/local_cluster.py down

Jobs go to http://127.0.0.1:8265 (`ray job submit`); logs stay below /tmp/led-local-cluster until the next
`up`. An S3 server for it: infra/s3-server.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

FOLDER = Path("/tmp/led-local-cluster")  # short, as sockets' paths must be
STATE, LOG = FOLDER / "nodes.json", FOLDER / "log"
PORT, DASHBOARD, AGENTS = 6380, 8265, 52370
RAY = Path(sys.executable).with_name("ray")

# One machine plays many: Ray must neither end waiting processes nor take what all use together for one
# machine's. Only this machine reaches it, so nobody needs a token.
ENVIRONMENT = {
    "RAY_idle_worker_killing_time_threshold_ms": "3600000",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_AUTH_MODE": "disabled",
}


def start(number: int, *words: str) -> int:
    """A node of the cluster as a session of processes of its own, once it is up; the session's id."""
    # A job's `python` is the one that Ray runs on.
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    # Each has a port and a folder of its own, as on machines: in a shared folder, a node that comes replaces
    # jobs' files.
    agent, folder = AGENTS + number, FOLDER / str(number)
    command = [
        str(RAY),
        "start",
        "--block",
        "--disable-usage-stats",
        "--object-store-memory",
        str(300 << 20),
        "--dashboard-agent-listen-port",
        str(agent),
        "--temp-dir",
        str(folder),
        *words,
    ]
    with open(LOG, "a") as log:
        session = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        ).pid
    try:
        wait_for(f"http://127.0.0.1:{agent}/api/local_raylet_healthz")
    except BaseException:
        kill(session)
        raise
    return session


def kill(session: int) -> None:
    """End every process of a session at once."""
    stat = (path / "stat" for path in Path("/proc").iterdir() if path.name.isdigit())
    for path in stat:
        try:
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def wait_for(url: str, longest_s: float = 90.0) -> None:
    """Wait until an address answers that all is well."""
    begun = time.monotonic()
    while time.monotonic() - begun < longest_s:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"the cluster is not up after {longest_s:.0f} s; see {LOG}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up, lose, add = verbs.add_parser("up"), verbs.add_parser("lose"), verbs.add_parser("add")
    verbs.add_parser("down")
    up.add_argument("--machines", type=int, default=4)
    lose.add_argument("number", type=int)
    for verb in (up, add):
        verb.add_argument("--cpus", type=int, default=2)
    given = parser.parse_args(argv)
    if given.verb == "up" and STATE.exists():
        raise SystemExit("a cluster is up already; infra/local_cluster.py down ends it.")
    if given.verb != "up" and not STATE.exists():
        raise SystemExit("no cluster is up; infra/local_cluster.py up starts one.")
    nodes: dict[str, int] = json.loads(STATE.read_text()) if STATE.exists() else {}
    if given.verb == "up":
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        nodes["head"] = start(
            0, "--head", "--num-cpus", "0", "--port", str(PORT), "--dashboard-port", str(DASHBOARD)
        )
        STATE.write_text(json.dumps(nodes))
        for number in range(1, given.machines + 1):
            nodes[str(number)] = _machine(number, given.cpus)
            STATE.write_text(json.dumps(nodes))
        print(
            f"export RAY_AUTH_MODE=disabled RAY_API_SERVER_ADDRESS=http://127.0.0.1:{DASHBOARD} RAY_ADDRESS=127.0.0.1:{PORT}"
        )
    elif given.verb == "add":
        number = max(map(int, nodes.keys() - {"head"}), default=0) + 1
        nodes[str(number)] = _machine(number, given.cpus)
    elif given.verb == "lose":
        if str(given.number) not in nodes:
            raise SystemExit(
                f"there is no machine {given.number}; there are {', '.join(sorted(nodes.keys() - {'head'}))}."
            )
        kill(nodes.pop(str(given.number)))
    else:
        for session in nodes.values():
            kill(session)
        STATE.unlink()
        return
    STATE.write_text(json.dumps(nodes))


def _machine(number: int, cpus: int) -> int:
    return start(number, "--address", f"127.0.0.1:{PORT}", "--num-cpus", str(cpus))


if __name__ == "__main__":
    main()
