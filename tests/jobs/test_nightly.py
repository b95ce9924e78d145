"""The nightly wrapper around a job: its folder, its tries, and who is told."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.jobs.commands import command, environment

NIGHTLY = command("nightly", "--pause-seconds", 0)
ENVIRONMENT = environment()

# Notes how it was called, and ends with the codes that it is given, one after the other.
JOB = """import json, pathlib, sys
calls = pathlib.Path(sys.argv[1])
done = calls.read_text().splitlines() if calls.exists() else []
calls.write_text("\\n".join([*done, json.dumps(sys.argv[3:])]))
sys.exit(int(sys.argv[2].split(",")[len(done)]))
"""


def run(folder: Path, codes: str, *words: str) -> tuple[int, list[str], str]:
    """(exit code, how the job was called each time, what was said) of a night whose job ends with these
    codes."""
    (folder / "job.py").write_text(JOB, "utf-8")
    command = [
        *NIGHTLY,
        "--runs",
        str(folder / "out"),
        *words,
        "--",
        str(folder / "job.py"),
        str(folder / "calls"),
        codes,
    ]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    calls = folder / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stderr


def test_a_night_has_a_folder_and_the_nights_before(tmp_path: Path) -> None:
    for name in ("2026-11-22", "2026-11-23"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "_plan.json").touch()
    (tmp_path / "out" / "2026-11-22" / "_SUCCESS").touch()
    code, calls, _ = run(tmp_path, "0", "--name", "2026-11-24")
    out = tmp_path / "out"
    assert code == 0 and calls == [
        f'["--output", "{out}/2026-11-24", "--since", "{out}/2026-11-23", "{out}/2026-11-22"]'
    ]


def test_a_job_that_was_killed_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("""import os, pathlib, signal, sys
tried = pathlib.Path(sys.argv[1])
if not tried.exists():
    tried.touch()
    os.kill(os.getpid(), signal.SIGKILL)
""")
    command = [
        *NIGHTLY,
        "--runs",
        str(tmp_path / "out"),
        "--",
        str(tmp_path / "job.py"),
        str(tmp_path / "tried"),
    ]
    assert (
        subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 0
        and (tmp_path / "tried").exists()
    )


def test_what_may_be_tried_again_is(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code, calls, _ = run(tmp_path, "1,1,0", "--on-failure", f"touch {told}")
    assert code == 0 and len(calls) == 3 and len(set(calls)) == 1 and not told.exists()


@pytest.mark.parametrize("codes, tries", [("1,1,1", 3), ("2", 1), ("3", 1)])
def test_of_a_failure_somebody_is_told(codes: str, tries: int, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code, calls, said = run(
        tmp_path, codes, "--name", "2026-11-24", "--on-failure", f'echo "$NIGHT $CODE" >> {told}'
    )
    assert code == int(codes[-1]) and len(calls) == tries
    assert told.read_text() == f"2026-11-24 {code}\n" and f"failed with exit code {code}" in said


def test_an_end_that_was_asked_for_is_no_failure(tmp_path: Path) -> None:
    code, calls, _ = run(tmp_path, "130", "--on-failure", f"touch {tmp_path}/told")
    assert code == 0 and len(calls) == 1 and not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    "words, said", [(["--name", "tonight"], "name nights 2026-11-24"), ([], "no job is named")]
)
def test_what_is_no_night_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    job = ["--", "job.py"] if words else []
    command = [*NIGHTLY, "--runs", str(tmp_path), *words, *job]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_store_that_cannot_be_reached_is_tried_again_and_told_of(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = [
        *NIGHTLY,
        "--runs",
        "s3://bucket/out",
        "--attempts",
        "2",
        "--on-failure",
        f'echo "$CODE" >> {told}',
        "--",
        "job.py",
    ]
    asked = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "SK",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    done = subprocess.run(command, env={**ENVIRONMENT, **asked}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and told.read_text() == "1\n" and "Traceback" not in done.stderr
    assert done.stderr.count("error: the nights in s3://bucket/out cannot be listed") == 2


def test_an_hour_that_is_none_is_told_of(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, "0", "--stop-at", "25:00", "--on-failure", f"touch {tmp_path}/told")
    assert code == 2 and not calls and "--stop-at is '25:00'" in said and (tmp_path / "told").exists()


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_job_that_a_signal_ended_is_not_tried_again(number: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(f"""import os, pathlib, signal, sys
pathlib.Path(sys.argv[1]).open("a").write("x")
signal.signal(signal.{number}, signal.SIG_DFL)
os.kill(os.getpid(), signal.{number})
""")
    command = [
        *NIGHTLY,
        "--runs",
        str(tmp_path / "out"),
        "--",
        str(tmp_path / "job.py"),
        str(tmp_path / "tries"),
    ]
    assert (
        subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 0
        and (tmp_path / "tries").read_text() == "x"
    )


@pytest.mark.parametrize("code, ends", [(1, 0), (3, 3)])
def test_a_night_that_was_asked_to_end_does_so_however_its_job_ends(
    code: int, ends: int, tmp_path: Path
) -> None:
    (tmp_path / "job.py").write_text(f"""import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
print("ready", flush=True)
time.sleep(60)
""")
    command = [*NIGHTLY, "--runs", str(tmp_path / "out"), "--", str(tmp_path / "job.py")]
    night = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert night.stdout is not None and night.stdout.readline() == b"ready\n"
    night.send_signal(signal.SIGTERM)
    assert night.wait(30) == ends


def test_a_signal_ends_the_job_and_then_the_night(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("""import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), pathlib.Path(sys.argv[1]).touch(), sys.exit(130)))
print("ready", flush=True)
time.sleep(60)
""")
    command = [
        *NIGHTLY,
        "--runs",
        str(tmp_path / "out"),
        "--",
        str(tmp_path / "job.py"),
        str(tmp_path / "ended"),
    ]
    night = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert night.stdout is not None and night.stdout.readline() == b"ready\n"
    begun = time.monotonic()
    night.send_signal(signal.SIGTERM)
    assert night.wait(30) == 0 and (tmp_path / "ended").exists() and time.monotonic() - begun < 20
