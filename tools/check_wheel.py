"""Builds the wheel, installs it in a new environment without constraints, and runs it from another folder.

    python -m tools.check_wheel --versions lowest --torch torch==2.13.0

`lowest` installs the lowest version that pyproject.toml allows of every dependency, `newest` the newest.
`--torch` is the PyTorch to install in either case, since its newest wheels bring gigabytes of CUDA.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "demo" / "checkpoints" / "led-reports-summary"

# Packages of the working directory that must not hide those of the wheel.
HIDING = ("led", "pipeline", "jobs")


def lowest(requirement: str) -> str:
    """The lowest version that a requirement allows: `a[b]>=1.0,<2` becomes `a[b]==1.0`.

    Raises:
        ValueError: the requirement names none.
    """
    found = re.fullmatch(r"([\w.\-]+(?:\[[\w,]+\])?)>=([\w.]+)(?:,.*)?", requirement)
    if found is None:
        raise ValueError(f"{requirement} names no lowest version; write name>=version.")
    return f"{found[1]}=={found[2]}"


def requirements() -> list[str]:
    """The dependencies of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return list(project["dependencies"])


def check(versions: str, torch: str, folder: Path) -> None:
    """Build, install and run.

    Raises:
        subprocess.CalledProcessError: a command failed.
        AssertionError: the run has not the rows of the demo.
    """
    _run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "wheels", ROOT])
    [wheel] = (folder / "wheels").glob("led_corpus-*.whl")
    venv.create(folder / "venv", with_pip=True)
    bin = folder / "venv" / "bin"
    pinned = [torch]
    if versions == "lowest":
        pinned += [lowest(each) for each in requirements() if not each.startswith("torch")]
    _run([bin / "pip", "install", "-q", "--disable-pip-version-check", wheel, *pinned])
    elsewhere = folder / "elsewhere"
    for name in HIDING:
        (elsewhere / name).mkdir(parents=True)
        (elsewhere / name / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    _run([bin / "led-corpus", "--version"], elsewhere)
    corpus = elsewhere / "corpus.parquet"
    pq.write_table(pq.read_table(ROOT / "demo" / "corpus").slice(0, 8), corpus)
    given = ["--input", corpus, "--model", MODEL, "--replicas", "1"]
    _run([bin / "led-corpus", "summarize", *given, "--output", "out"], elsewhere)
    _run([bin / "led-corpus", "verify", "--output", "out"], elsewhere)
    [part] = (elsewhere / "out").glob("part-*.parquet")
    assert pq.read_table(part)["status"].to_pylist() == ["ok"] * 8
    code = "import led_corpus; print(led_corpus.read_results('out').pandas(['summary']).head(1))"
    _run([bin / "python", "-c", code], elsewhere)
    packages = subprocess.run([bin / "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    names = {re.split(r"[\[<>=]", each)[0].lower().replace("_", "-") for each in requirements()}
    shown = [each for each in packages.split() if each.partition("==")[0].lower().replace("_", "-") in names]
    print(f"{versions}: 8 of 8 documents with {', '.join(shown)}", flush=True)


def _run(command: Sequence[str | Path], folder: Path = ROOT) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), cwd=folder, check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", choices=["lowest", "newest"], default="newest")
    parser.add_argument("--torch", default="torch==2.13.0")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check(given.versions, given.torch, Path(folder))


if __name__ == "__main__":
    main()
