"""A scheduled run starts once, with the right command, and KubeRay gets the exit code of the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra import start_scheduled_run
from infra.start_scheduled_run import LABEL, RayJobs, scheduled_run, start
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "led-run", "labels": {"a": "b"}, "uid": "1"},
    "spec": {"suspend": True, "entrypoint": "bash run.sh --config c\n", "backoffLimit": 2},
    "status": {"jobDeploymentStatus": "Suspended"},
}


class Api:
    """An API server that has RayJobs, and what it was asked."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {"led-run": TEMPLATE}
        self.asked: list[str] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                api.asked.append(f"{self.command} {self.path}")
                assert self.headers["Authorization"] == "Bearer secret"
                name = self.path.split("?")[0].partition("/rayjobs")[2].strip("/")
                said: Any = {}
                if self.command == "POST":
                    said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    said["metadata"] |= {
                        "name": said["metadata"]["generateName"] + "x",
                        "creationTimestamp": "2026-11-24T22:00:00Z",
                    }
                    api.jobs[said["metadata"]["name"]] = said
                elif self.command == "DELETE":
                    del api.jobs[name]
                elif name and name not in api.jobs:
                    self.send_error(404)
                    return
                elif name:
                    said = api.jobs[name]
                else:
                    said = {
                        "items": [
                            job for job in api.jobs.values() if LABEL in job["metadata"].get("labels", {})
                        ]
                    }
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.client = RayJobs(f"http://127.0.0.1:{self.server.server_port}", "led", "secret", None)

    def add(self, name: str, status: str | None) -> None:
        self.jobs[f"led-{name}"] = {
            "metadata": {"name": f"led-{name}", "labels": {LABEL: name}, "creationTimestamp": name},
            **({"status": {"jobDeploymentStatus": status}} if status else {}),
        }


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.server.shutdown()
    api.server.server_close()


def test_a_scheduled_run_is_a_copy_of_the_suspended_rayjob(api: Api) -> None:
    words = ["--output", "n/2026-11-24", "--since", "n/2026-11-23", "n/2026-11-22", "--num-beams", "2"]
    assert start(api.client, "led-run", "2026-11-24", words, keep=14) == 0
    made = api.jobs["led-2026-11-24-x"]
    assert made["spec"] == {
        "suspend": False,
        "backoffLimit": 2,
        "entrypoint": "bash run.sh --config c --output n/2026-11-24 --since n/2026-11-23 n/2026-11-22 "
        "--num-beams 2",
    }
    assert made["metadata"]["labels"] == {"a": "b", LABEL: "2026-11-24"} and "status" not in made
    assert "fieldValidation=Strict" in next(asked for asked in api.asked if asked.startswith("POST"))


def test_no_run_starts_while_another_is_active(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.add("2026-11-23", "Running")
    assert start(api.client, "led-run", "2026-11-24", [], keep=14) == 1
    assert "led-2026-11-23 is still active; 2026-11-24 was not started." in capsys.readouterr().out
    assert start(api.client, "led-run", "2026-11-23", [], keep=14) == 0
    api.add("2026-11-23", None)  # KubeRay has not seen it yet
    assert start(api.client, "led-run", "2026-11-24", [], keep=14) == 1
    assert not any(asked.startswith(("POST", "DELETE")) for asked in api.asked)


def test_the_oldest_ended_rayjobs_are_deleted(api: Api, tmp_path: Path) -> None:
    for day in range(10, 16):
        api.add(f"2026-11-{day}", ["Complete", "Failed", "ValidationFailed"][day % 3])
    assert start(api.client, "led-run", "2026-11-24", [], keep=4) == 0
    assert set(api.jobs) == {"led-run", "led-2026-11-24-x", *(f"led-2026-11-{day}" for day in range(12, 16))}


def test_the_whole_command_on_a_cluster(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the CronJob's pod calls it; an hour to stop at gets its date."""
    (tmp_path / "namespace").write_text("led")
    (tmp_path / "token").write_text("secret")
    (tmp_path / "run.yaml").write_text(f"output: {tmp_path}/runs/\nstop_at: '06:00'\n", "utf-8")
    monkeypatch.setattr(start_scheduled_run, "ACCOUNT", tmp_path)
    monkeypatch.setattr(start_scheduled_run, "RayJobs", lambda *given: api.client)
    monkeypatch.setattr(
        sys,
        "argv",
        ["start_scheduled_run.py", "--config", str(tmp_path / "run.yaml"), "--template", "led-run"],
    )
    monkeypatch.setenv("NAME", "2026-11-24")
    assert start_scheduled_run.main() == 0
    words = api.jobs["led-2026-11-24-x"]["spec"]["entrypoint"].split()
    assert words[4:6] == ["--output", f"{tmp_path}/runs/2026-11-24"] and words[6] == "--stop-at"
    assert (
        timedelta(0) < datetime.fromisoformat(words[7]) - datetime.now().astimezone() <= timedelta(days=1)
        and datetime.fromisoformat(words[7]).strftime("%H:%M") == "06:00"
    )
    monkeypatch.setattr(
        sys, "argv", ["start_scheduled_run.py", "--config", str(tmp_path / "run.yaml"), "--template", "none"]
    )
    api.jobs.clear()
    assert start_scheduled_run.main() == 1


@pytest.mark.parametrize(
    "name, words", [("tonight", []), ("2026-11-24; rm", []), ("2026-11-24", ["--output", "a;b"])]
)
def test_arguments_that_need_quotes_are_refused(name: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match="without spaces or quotes"):
        scheduled_run(TEMPLATE, name, words)


def test_a_name_too_long_for_kuberay_is_refused() -> None:
    longest = scheduled_run(TEMPLATE, "2026-11-24-retry-after-the-store-was-", [])["metadata"]["generateName"]
    assert len(longest) + 5 == 47
    with pytest.raises(ValueError, match=r"has 38 characters; KubeRay allows 37\. Use a shorter name"):
        scheduled_run(TEMPLATE, "2026-11-24-retry-after-the-store-was-d", [])


def job_that(folder: Path, text: str) -> list[str]:
    (folder / "job.py").write_text(text, "utf-8")
    return ["bash", str(ROOT / "infra" / "run.sh"), str(folder / "job.py")]


ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("code, told", [(0, 0), (1, 1), (2, 2), (3, 3), (130, 0)])
def test_a_graceful_stop_is_not_a_failure(tmp_path: Path, code: int, told: int) -> None:
    done = subprocess.run(
        [*job_that(tmp_path, "import sys; sys.exit(int(sys.argv[1]))"), str(code)],
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == told


def test_the_shell_waits_for_the_job_after_a_signal(tmp_path: Path) -> None:
    """Ray stops a job by SIGTERM to its process group. The shell must outlive the job."""
    text = """import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), pathlib.Path(sys.argv[1]).touch(), sys.exit(130)))
print("ready", flush=True)
time.sleep(3600)
"""
    with subprocess.Popen(
        [*job_that(tmp_path, text), str(tmp_path / "ended")],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        os.killpg(run.pid, signal.SIGTERM)
        assert run.wait(HANG_S) == 0 and (tmp_path / "ended").exists()
