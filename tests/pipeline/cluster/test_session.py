"""A local cluster that starts slowly is tried again. One that cannot start is reported at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.cluster import session
from pipeline.cluster.session import check_temporary_folder, start_cluster
from pipeline.errors import PipelineError
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]


class Clock:
    """Attempts to start a cluster, each of which takes some seconds on a clock of its own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[tuple[float, Exception | None]]
    ) -> None:
        self.now, self.attempts, self.killed = 0.0, iter(attempts), 0
        monkeypatch.setattr(session.time, "monotonic", lambda: self.now)

    def init(self) -> None:
        seconds, error = next(self.attempts)
        self.now += seconds
        if error is not None:
            raise error

    def kill_all_processes(self, check_alive: bool, allow_graceful: bool) -> None:
        self.killed += 1


TIMED_OUT = Exception("The current node timed out during startup. This could happen because …")


def test_a_start_that_times_out_is_repeated_without_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [(61, TIMED_OUT), (25, RuntimeError("no GCS")), (40, None)])
    start_cluster(clock.init, 300)
    assert clock.now == 126 and clock.killed == 2


def test_a_start_that_never_succeeds_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [(61, TIMED_OUT)] * 9)
    with pytest.raises(PipelineError) as caught:
        start_cluster(clock.init, 150)
    assert str(caught.value) == (
        "Ray did not start on this machine within 183 seconds, in 3 attempts: The current node timed out "
        "during startup. This could happen because … The machine is too busy or short of memory. Rerun the "
        "same command later, or raise --ray-start-seconds."
    )
    assert caught.value.exit_code == 1


def test_a_start_that_fails_at_once_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [(2, ValueError("no space left in /tmp/ray"))])
    with pytest.raises(PipelineError, match=r"Ray cannot start.*: no space left in /tmp/ray `led-corpus doc"):
        start_cluster(clock.init, 300)


def test_a_temporary_folder_that_ray_cannot_use_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_temporary_folder("/tmp")
    with pytest.raises(
        PipelineError, match=r"has 90 characters, and its sockets need one of at most 39\. Set TMP"
    ):
        check_temporary_folder("/" + "a" * 89)
    folder = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(
        PipelineError, match=rf"the disk of the temporary folder {folder} is full\. Make room"
    ):
        check_temporary_folder(folder)
    monkeypatch.setattr(os, "access", lambda path, _: not path.endswith("/ray"))
    os.mkdir(f"{folder}/ray")
    with pytest.raises(PipelineError, match=rf"this user may not write to {folder}/ray, perhaps because it"):
        check_temporary_folder(folder)
    shutil.rmtree(folder)


LISTENERS = """
import os, re, sys
from pathlib import Path
from pipeline.cluster.session import join_cluster

join_cluster()
import ray

ray.get(ray.remote(lambda: 1).remote())
inodes = set()
for process in Path("/proc").glob("[0-9]*"):
    try:
        if os.getsid(int(process.name)) == os.getsid(0):
            links = [os.readlink(fd) for fd in (process / "fd").iterdir()]
            inodes.update(re.findall(r"socket:\\[(\\d+)\\]", " ".join(links)))
    except OSError:
        continue
for table in ("tcp", "tcp6"):
    for line in Path("/proc/net", table).read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            print("listens on", fields[1].split(":")[0])
"""

# 127.0.0.1, also in an address of IPv6, and ::1, as the kernel prints them.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_local_cluster_listens_on_this_machine_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        cwd=ROOT,
        start_new_session=True,
    )
    found = {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("listens on")}
    assert found and found <= LOOPBACK, (found, done.stderr)
