"""Tasks are found by name, in a file or in an installed package, and what is wrong with one is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import UsageError
from pipeline.schema import TaskInfo
from pipeline.tasks import registry
from pipeline.tasks.classify import Classify
from pipeline.tasks.registry import BUILT_IN, code_of, describe_row_of, entry_of, find_task, is_task
from pipeline.tasks.summarize import Summarize
from pipeline.tasks.text import TextTask
from tests.pipeline.tasks.own_tasks import write_shout


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    """Modules that a test imports are forgotten after it."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("pipeline", "led", "torch", "ray")):
            del sys.modules[name]


def test_built_in_tasks_are_found_by_name() -> None:
    for name, entry in BUILT_IN.items():
        assert is_task(name) and find_task(name) is entry
        task = entry.load()
        assert (task.name, task.settings_class) == (name, entry.settings_class)
        assert code_of(task) == {}
    assert not is_task("sumarize")
    with pytest.raises(UsageError, match=r"no task 'sumarize'; give one of summarize, .*, or FILE\.py:CLASS"):
        find_task("sumarize")


def test_a_task_in_a_file_may_import_the_files_beside_it(tmp_path: Path) -> None:
    entry = find_task(write_shout(tmp_path))
    assert (entry.name, entry.help) == ("shout", "Shout what the model writes")
    task = entry.make(entry.settings_class(input=("a",), output="b", model="c"))
    assert task.info == TaskInfo("Shout", "shout", "score", hashes_text_alone=False)
    assert task.schema.names[:3] == ["shout", "letters", "output_tokens"]
    assert find_task(write_shout(tmp_path)).load() is entry.load()  # imported once


def test_the_code_of_a_task_is_part_of_the_plan(tmp_path: Path) -> None:
    first = code_of(find_task(write_shout(tmp_path / "a")).load())
    sys.modules.pop("shout_task")
    name = write_shout(tmp_path / "b")
    path = Path(name.partition(":")[0])
    path.write_text(path.read_text().replace('"!"', '"?"'))
    assert first["task_sha256"] != code_of(find_task(name).load())["task_sha256"]
    sys.modules.pop("shout_task")
    path.write_text(path.read_text().replace('name = "shout"', 'name = "shout"\n    version = "3"'))
    assert code_of(find_task(name).load()) == {"task_version": "3"}


NO_TASK = "class Shout: pass"
NO_NAME = "from led_corpus import TextTask\nimport pyarrow as pa\nclass Shout(TextTask):\n"
NO_NAME += "    columns = pa.schema([('a', pa.string())])\n"
NO_COLUMNS = "from led_corpus import TextTask\nclass Shout(TextTask):\n    name = 'shout'\n"
TAKEN = NO_NAME + "    name = 'classify'\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "import no_such_package",
            "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')",
        ),
        ("1 / 0", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("def broken(:", "cannot be imported (SyntaxError"),
        (NO_TASK, "is not a task; it must be a subclass of led_corpus.TextTask"),
        (NO_NAME, "defines no name; a task needs name, columns and row()"),
        (NO_COLUMNS, "defines no result_column; a task needs name, columns and row()"),
        (TAKEN, "has the name 'classify' of a built-in task; rename it"),
        ("Other = 3", "has no class 'Shout'; it has no subclass of led_corpus.TextTask"),
        (NO_NAME.replace("Shout", "Loud"), "has no class 'Shout'; it has Loud"),
    ],
)
def test_what_is_wrong_with_a_task_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd_task.py"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        find_task(f"{path}:Shout")
    assert message in str(error.value)
    assert "odd_task" not in sys.modules or "cannot be imported" not in message


def test_a_missing_file_and_a_taken_module_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*/none\.py"):
        find_task(f"{tmp_path}/none.py:Shout")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UsageError, match="a module 'json' exists already; rename the file"):
        find_task(f"{tmp_path}/json.py:Shout")


def test_an_installed_package_brings_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shout(tmp_path)
    folder = tmp_path / "shouting_tasks-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting-tasks\nVersion: 1.0\n")
    entries = "[led_corpus.tasks]\nloud = shout_task:Shout\nbroken = no_such_module:Task\n"
    (folder / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(registry.installed_tasks()) == {"loud", "broken"} and is_task("loud")
    assert find_task("loud").name == "shout"
    with pytest.raises(UsageError, match="broken cannot be imported"):
        find_task("broken")


def test_entries_of_classes() -> None:
    assert entry_of(Summarize).settings_class is Summarize.settings_class
    for wrong in (3, TextTask, "summarize"):
        with pytest.raises(UsageError):
            entry_of(wrong)


def test_rows_of_unknown_tasks_are_described() -> None:
    info = TaskInfo(result="keywords", score="score")

    def described(**row: Any) -> tuple[str, str]:
        return describe_row_of("not-known-here", info, row)

    generated = {"output_tokens": 3, "finish_reason": "stop", "score": -0.5}
    assert described(keywords=["a", "b"], **generated) == ("3 tokens out, stop, score -0.500", "a, b")
    assert described(keywords={"site": "x"}, score=None) == ("", '{"site": "x"}')
    assert described(keywords=None) == ("", "no result")
    row = {"label": "x", "labels": ["x"], "label_score": 0.5, "chunks": 1}
    assert describe_row_of("classify", info, row) == Classify.describe(row)


def test_the_columns_of_a_task_decide_its_result() -> None:
    class Own(TextTask):
        name = "own"
        columns = pa.schema([("second", pa.string()), ("first", pa.string())])
        result_column = "first"

    assert (Own.result_column, Own.title) == ("first", "Own")


def test_helpers_count_as_code_and_changed_files_are_imported_again(tmp_path: Path) -> None:
    name = write_shout(tmp_path)
    before = find_task(name).load()
    first = code_of(before)
    helper = tmp_path / "shouting.py"
    helper.write_text(helper.read_text().replace("upper", "lower"))
    after = find_task(name).load()
    assert after is not before and code_of(after) != first
    assert sys.modules["shouting"].shout("Aa") == "aa"
    (tmp_path / "other_task.py").write_text((tmp_path / "shout_task.py").read_text() + "# another task")
    alone = code_of(find_task(name).load())
    find_task(f"{tmp_path}/other_task.py:Shout")
    assert code_of(find_task(name).load()) == alone
    assert find_task(name).load() is after


def test_a_file_that_exits_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "exits_task.py"
    path.write_text("import sys\nsys.exit(3)")
    with pytest.raises(UsageError, match=r"cannot be imported \(SystemExit: 3\)"):
        find_task(f"{path}:Shout")
    assert "exits_task" not in sys.modules


def test_a_class_without_a_file_needs_a_version() -> None:
    namespace: dict[str, Any] = {"__name__": "no_such_module", "pa": pa, "TextTask": TextTask}
    exec("class Own(TextTask):\n    name = 'own'\n    columns = pa.schema([('a', pa.string())])", namespace)
    with pytest.raises(UsageError, match='Set version = "1" in the class'):
        code_of(namespace["Own"])
    namespace["Own"].version = "2"
    assert code_of(namespace["Own"]) == {"task_version": "2"}


def test_columns_of_a_subclass_have_a_result_of_their_own() -> None:
    class First(TextTask):
        name = "first"
        columns = pa.schema([("one", pa.string())])

    class Second(First):
        columns = pa.schema([("two", pa.string())])

    class Third(Second):
        pass

    assert (First.result_column, Second.result_column, Third.result_column) == ("one", "two", "two")


def test_settings_of_a_task_may_not_be_those_of_a_subcommand(tmp_path: Path) -> None:
    path = tmp_path / "json_task.py"
    path.write_text(
        "from dataclasses import dataclass\nimport pyarrow as pa\n"
        "from led_corpus import TextSettings, TextTask\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Own(TextSettings):\n    json: bool = False\n"
        "class Shout(TextTask):\n    name = 'own'\n    settings_class = Own\n"
        "    columns = pa.schema([('a', pa.string())])\n"
    )
    with pytest.raises(UsageError, match="has the setting json, which subcommands use"):
        find_task(f"{path}:Shout")
