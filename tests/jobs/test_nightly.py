"""The nightly wrapper around a job: its folder, its tries, and who is told."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.jobs.commands import command, environment
from tests.waiting import HANG_S

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


def test_a_run_has_its_own_folder_and_since_has_the_earlier_runs(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("codes, attempts", [("1,1,1", 3), ("2", 1), ("3", 1)])
def test_on_failure_gets_the_name_and_exit_code(codes: str, attempts: int, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code, calls, said = run(
        tmp_path, codes, "--name", "2026-11-24", "--on-failure", f'echo "$NAME $CODE" >> {told}'
    )
    assert code == int(codes[-1]) and len(calls) == attempts
    assert told.read_text() == f"2026-11-24 {code}\n" and f"failed with exit code {code}" in said


def test_an_end_that_was_asked_for_is_no_failure(tmp_path: Path) -> None:
    code, calls, _ = run(tmp_path, "130", "--on-failure", f"touch {tmp_path}/told")
    assert code == 0 and len(calls) == 1 and not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    "words, said", [(["--name", "tonight"], "name runs 2026-11-24"), ([], "no task is given")]
)
def test_what_is_no_night_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    job = ["--", "job.py"] if words else []
    command = [*NIGHTLY, "--runs", str(tmp_path), *words, *job]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_an_unreachable_store_is_retried_and_reported(tmp_path: Path) -> None:
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
    assert done.stderr.count("error: the scheduled runs in s3://bucket/out cannot be listed") == 2


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
def test_an_interrupted_run_ends_for_every_exit_code_of_its_job(code: int, ends: int, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(f"""import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
print("ready", flush=True)
time.sleep(3600)
""")
    command = [*NIGHTLY, "--runs", str(tmp_path / "out"), "--", str(tmp_path / "job.py")]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGTERM)
        assert run.wait(HANG_S) == ends


def test_a_signal_ends_the_job_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("""import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), pathlib.Path(sys.argv[1]).touch(), sys.exit(130)))
print("ready", flush=True)
time.sleep(3600)
""")
    command = [
        *NIGHTLY,
        "--runs",
        str(tmp_path / "out"),
        "--",
        str(tmp_path / "job.py"),
        str(tmp_path / "ended"),
    ]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGTERM)
        assert run.wait(HANG_S) == 0 and (tmp_path / "ended").exists()
