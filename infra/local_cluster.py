#!/usr/bin/env python3
"""A cluster of several raylets on this machine, to try things out on: each stands for a machine, and can be lost.

    infra/local_cluster.py up --machines 4 --cpus 2     a head (no CPUs) and four machines; prints what to export
    infra/local_cluster.py lose 2                       kill -9 of machine 2, with all that runs on it
    infra/local_cluster.py add --cpus 2                 another machine
    infra/local_cluster.py down

Jobs go to http://127.0.0.1:8265 (`ray job submit`). An S3 server for it: infra/s3-server.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

STATE = Path("/tmp/led-local-cluster.json")
PORT, DASHBOARD = 6380, 8265
RAY = Path(sys.executable).with_name("ray")

# One machine plays many: Ray must neither end waiting processes nor take what all use together for one machine's. Only this
# machine reaches it, so nobody needs a token.
ENVIRONMENT = {
    "RAY_idle_worker_killing_time_threshold_ms": "3600000",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_AUTH_MODE": "disabled",
}


def start(*words: str) -> int:
    """A node of the cluster as a session of processes of its own; the session's id."""
    # A job's `python` is the one that Ray runs on.
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    command = [str(RAY), "start", "--block", "--disable-usage-stats", "--object-store-memory", str(300 << 20), *words]
    with open(STATE.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True).pid


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


def wait_for(machines: int, longest_s: float = 90.0) -> None:
    """Wait until so many nodes are up, the head among them."""
    begun = time.monotonic()
    while time.monotonic() - begun < longest_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{DASHBOARD}/api/v0/nodes", timeout=10) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
            if sum(node["state"] == "ALIVE" for node in nodes) >= machines:
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the head's dashboard is not up yet
        time.sleep(1)
    raise SystemExit(f"the cluster is not up after {longest_s:.0f} s; see {STATE.with_suffix('.log')}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        nodes["head"] = start("--head", "--num-cpus", "0", "--port", str(PORT), "--dashboard-port", str(DASHBOARD))
        STATE.write_text(json.dumps(nodes))
        wait_for(1)
        for number in range(1, given.machines + 1):  # one after the other: they would take each other's ports
            nodes[str(number)] = _machine(given.cpus)
            STATE.write_text(json.dumps(nodes))
            wait_for(len(nodes))
        print(f"export RAY_AUTH_MODE=disabled RAY_API_SERVER_ADDRESS=http://127.0.0.1:{DASHBOARD} RAY_ADDRESS=127.0.0.1:{PORT}")
    elif given.verb == "add":
        nodes[str(max(map(int, nodes.keys() - {"head"}), default=0) + 1)] = _machine(given.cpus)
    elif given.verb == "lose":
        if str(given.number) not in nodes:
            raise SystemExit(f"there is no machine {given.number}; there are {', '.join(sorted(nodes.keys() - {'head'}))}.")
        kill(nodes.pop(str(given.number)))
    else:
        for session in nodes.values():
            kill(session)
        STATE.unlink()
        return
    STATE.write_text(json.dumps(nodes))


def _machine(cpus: int) -> int:
    return start("--address", f"127.0.0.1:{PORT}", "--num-cpus", str(cpus))


if __name__ == "__main__":
    main()
