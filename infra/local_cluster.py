#!/usr/bin/env python3
"""A Ray cluster of several raylets on this machine, for experiments and tests.

Each raylet plays one machine and can be killed.

    infra/local_cluster.py up --machines 4 --cpus 2     # start a head without CPUs, and four machines
    infra/local_cluster.py lose 2                       # kill machine 2 and its processes
    infra/local_cluster.py add --cpus 2                 # start another machine
    infra/local_cluster.py down                         # stop the cluster

`up` prints the environment variables to export. Submit jobs to http://127.0.0.1:8265 (`ray job submit`). Logs
are kept in /tmp/led-local-cluster until the next `up`. infra/s3-server.sh starts an S3 server for the jobs.
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

FOLDER = Path("/tmp/led-local-cluster")  # short, because paths of sockets must be short
STATE, LOG = FOLDER / "nodes.json", FOLDER / "log"
PORT, DASHBOARD, AGENTS = 6380, 8265, 52370
RAY = Path(sys.executable).with_name("ray")

# Many nodes share this machine. Ray must not stop idle workers, and must not act on the memory use of all
# nodes together. The cluster is reachable from this machine only, so it needs no token.
ENVIRONMENT = {
    "RAY_idle_worker_killing_time_threshold_ms": "3600000",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_AUTH_MODE": "disabled",
}


def start(number: int, *arguments: str) -> int:
    """Start a node in its own process session and wait until it is up. Returns the session's id."""
    # The `python` of a job is the one that runs Ray.
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    # Each node has its own port and folder, as on a machine of its own. In a shared folder, a new node would
    # replace the files of jobs.
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
        *arguments,
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
    """Kill every process of a session."""
    stats = (path / "stat" for path in Path("/proc").iterdir() if path.name.isdigit())
    for path in stats:
        try:
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def wait_for(url: str, timeout_s: float = 90.0) -> None:
    """Wait until a request to this URL succeeds.

    Raises:
        SystemExit: it did not succeed within `timeout_s`.
    """
    start_time = time.monotonic()
    while time.monotonic() - start_time < timeout_s:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"the cluster is not up after {timeout_s:.0f} s; see {LOG}.")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up, lose, add = commands.add_parser("up"), commands.add_parser("lose"), commands.add_parser("add")
    commands.add_parser("down")
    up.add_argument("--machines", type=int, default=4)
    lose.add_argument("number", type=int)
    for command in (up, add):
        command.add_argument("--cpus", type=int, default=2)
    args = parser.parse_args(argv)
    if args.command == "up" and STATE.exists():
        raise SystemExit("a cluster is already up; stop it with infra/local_cluster.py down.")
    if args.command != "up" and not STATE.exists():
        raise SystemExit("no cluster is up; start one with infra/local_cluster.py up.")
    nodes: dict[str, int] = json.loads(STATE.read_text()) if STATE.exists() else {}
    if args.command == "up":
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        nodes["head"] = start(
            0, "--head", "--num-cpus", "0", "--port", str(PORT), "--dashboard-port", str(DASHBOARD)
        )
        STATE.write_text(json.dumps(nodes))
        for number in range(1, args.machines + 1):
            nodes[str(number)] = _start_machine(number, args.cpus)
            STATE.write_text(json.dumps(nodes))
        print(
            f"export RAY_AUTH_MODE=disabled RAY_API_SERVER_ADDRESS=http://127.0.0.1:{DASHBOARD} "
            f"RAY_ADDRESS=127.0.0.1:{PORT}"
        )
    elif args.command == "add":
        number = max(map(int, nodes.keys() - {"head"}), default=0) + 1
        nodes[str(number)] = _start_machine(number, args.cpus)
    elif args.command == "lose":
        if str(args.number) not in nodes:
            machines = ", ".join(sorted(nodes.keys() - {"head"}))
            raise SystemExit(f"there is no machine {args.number}; the machines are {machines}.")
        kill(nodes.pop(str(args.number)))
    else:
        for session in nodes.values():
            kill(session)
        STATE.unlink()
        return
    STATE.write_text(json.dumps(nodes))


def _start_machine(number: int, cpus: int) -> int:
    return start(number, "--address", f"127.0.0.1:{PORT}", "--num-cpus", str(cpus))


if __name__ == "__main__":
    main()
