"""What the README shows runs, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path("README.md").read_text("utf-8")


def test_the_python_of_the_readme_runs() -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 50


def test_the_make_targets_and_flags_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", Path("Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE)) <= targets
    jobs = [
        path
        for path in sorted(Path("jobs").glob("*.py"))
        if path.name not in ("__init__.py", "cli.py", "commands.py")
    ]
    asked = [*([job, "--help"] for job in jobs), ["jobs/summarize_corpus.py", "plan", "--help"]]
    helps = [
        subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True).stdout
        for words in asked
    ]
    used = set(re.findall(r"`(--[a-z-]+)", README))
    assert {flag for flag in used if not any(flag in shown for shown in helps)} == set()
    assert all("usage:" in shown for shown in helps)
