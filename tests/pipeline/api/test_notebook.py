"""The Python API in a real notebook kernel: a run, a task that is defined in a cell, an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.conftest import words
from tests.waiting import long_test

ROOT = Path(__file__).parents[3]

TASK = """
import pyarrow as pa
from led_corpus import TextTask

class Shout(TextTask):
    name = "shout"
    version = "1"
    columns = pa.schema([("shout", pa.string())])

    def row(self, generated):
        return {"shout": generated.text.upper() + "!"}
"""


def execute(folder: Path, *cells: str) -> list[str]:
    """What each cell of a notebook shows."""
    path = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (path, *cells)])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return ["".join(_text(output) for output in cell.outputs) for cell in notebook.cells[1:]]


def _text(output: nbformat.NotebookNode) -> str:
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@long_test
def test_runs_in_a_notebook(write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path) -> None:
    write_corpus([words(5 + n, n) for n in range(6)])
    settings = f'input="corpus", model={str(model_folder)!r}, shard_documents=2, replicas=1'
    before = "import signal; handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]"
    shown = execute(
        tmp_path,
        f"import led_corpus\n{before}",
        TASK,
        f'results = led_corpus.run(Shout, output="shouts", {settings})',
        'print(results.ok, results.pandas()["doc_id"].tolist())',
        'results.arrow(["shout"])["shout"].to_pylist()',
        "print(handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)])",
        f'try:\n    led_corpus.run(Shout, output="x", inputs=1, {settings})\n'
        "except led_corpus.UsageError as error:\n    print(error)",
    )
    assert "6/6 documents, 4/4 shards" in shown[2] and shown[2].count("documents,") <= 2
    assert shown[3] == "6 ['d0', 'd1', 'd2', 'd3', 'd4', 'd5']\n"
    assert shown[4].count("!") == 6
    assert shown[5] == "True\n"
    assert shown[6] == "'inputs' is not a setting; did you mean input?\n"


def test_an_error_of_a_run_is_an_exception_and_not_an_exit(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="UsageError"):
        execute(tmp_path, 'import led_corpus\nled_corpus.summarize(input="none", output="o", model="m")')
