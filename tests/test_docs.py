"""The documentation: snippets run, commands parse, links resolve, and generated pages are current. Docstrings
of public names are complete."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import led
from docs import make_settings, make_tree
from jobs import cli, commands, scheduled
from pipeline import errors, schema
from pipeline.monitor import prometheus
from pipeline.tasks.answer import Answer
from pipeline.tasks.classify import Classify
from pipeline.tasks.registry import BUILT_IN, is_task
from pipeline.tasks.settings import AnswerSettings, ClassifySettings, SummarizeSettings
from pipeline.tasks.summarize import Summarize
from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)

# The settings files that pages tell the reader to save.
SAVED = {
    "first.yaml": DOCS / "tutorials/first-run.md",
    "tickets.yaml": DOCS / "tutorials/own-corpus.md",
    "nightly.yaml": DOCS / "how-to/nightly.md",
}


def name(page: Path) -> str:
    """The path of a page below the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a page in these languages, without their indentation."""
    found = FENCE.findall(page.read_text("utf-8"))
    return [textwrap.dedent(code) for _, language, code in found if language in languages]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of every `led-corpus` command, and of every script of jobs/, in the blocks of a page."""
    scripts = {f"jobs/{task}_corpus.py": [task] for task in BUILT_IN} | {"jobs/nightly.py": ["nightly"]}
    for block in blocks(page, "bash", "console"):
        for line in block.replace("\\\n", " ").split("\n"):
            words = [] if line.startswith("#") else shlex.split(line.removeprefix("$ "), comments=False)
            for i, word in enumerate(words):
                if Path(word).name == "led-corpus" and (i == 0 or "/" in word):
                    yield words[i + 1 :]
                elif word in scripts:
                    yield [*scripts[word], *words[i + 1 :]]


COMMANDS = [(name(page), arguments) for page in PAGES for arguments in command_lines(page)]


# The how-to guides whose Python runs, besides the tutorials.
GUIDES = (DOCS / "how-to/own-tasks.md", DOCS / "how-to/ray-data.md")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the pages assume: the demo, settings files, results."""
    for shared in ("demo", "examples"):
        (tmp_path / shared).symlink_to(ROOT / shared)
    for file, page in SAVED.items():
        [settings] = [block for block in blocks(page, "yaml") if "model:" in block]
        (tmp_path / file).write_text(settings, "utf-8")
    (tmp_path / "out/first").mkdir(parents=True)
    (tmp_path / "out/tickets").mkdir()
    numbers = pa.array([4711, 4712, 4713])
    first = {"doc_id": ["report-0040"], "summary": ["A summary."]}
    tickets = {
        "Ticket No": numbers,
        "status": ["ok", "failed", "ok"],
        "reason": [None, "the text is null", None],
        "summary": ["The pump failed.", None, "The valve leaked."],
        "flags": [["numbers"], None, []],
    }
    pq.write_table(pa.table(first), tmp_path / "out/first/part-0.parquet")
    pq.write_table(pa.table(tickets), tmp_path / "out/tickets/part-0.parquet")
    pq.write_table(pa.table({"Ticket No": numbers}), tmp_path / "tickets.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [*TUTORIALS, *GUIDES], ids=name)
def test_python_blocks_run(page: Path, folder: Path) -> None:
    script = "import torch\ntorch.set_num_threads(1)\n" + "\n".join(blocks(page, "python"))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG_S)
    assert result.returncode == 0, result.stderr
    if page.name == "python.md":
        saved = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"}
        assert saved <= {path.name for path in (folder / "out/my-model").iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_imports_from_led_work(page: Path) -> None:
    for block in blocks(page, "python"):
        for line in re.findall(r"^from (?:led|led_corpus|pipeline)\b.*$", block, re.MULTILINE):
            exec(line, {})


@pytest.mark.parametrize(("page", "arguments"), COMMANDS, ids=[f"{p}:{' '.join(a)}" for p, a in COMMANDS])
def test_commands_parse(
    page: str, arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for action in ("status", "verify", "report", "evaluate"):
        monkeypatch.setattr(commands, action, lambda *_: None)
    monkeypatch.setattr(scheduled, "_run_attempts", lambda *_: 0)
    if "--" in arguments:  # nightly: the task after its own options
        task = arguments[arguments.index("--") + 1 :]
        parse([*task, "--output", "out/x", "--since", "out/first"])
    parse(arguments)


def parse(arguments: list[str]) -> None:
    """Parse a command without running it."""
    if arguments[0] == "--task" or is_task(arguments[0]):
        with pytest.raises(SystemExit) as end:
            cli.main([*arguments, "--print-config"])
        assert end.value.code in (0, None)
    else:
        assert cli.main(arguments) == 0


def test_commands_are_found_on_many_pages() -> None:
    assert len(COMMANDS) > 35 and len({page for page, _ in COMMANDS}) > 10


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor} does not exist"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", word) for word in words}


def test_every_page_is_in_the_navigation() -> None:
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    nav = str(yaml.safe_load(text)["nav"])
    listed = re.findall(r"[\w/-]+\.md", nav)
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_settings_page_is_current() -> None:
    page = DOCS / "reference/settings.md"
    assert page.read_text("utf-8") == make_settings.page(), (
        "run: python -m docs.make_settings > docs/reference/settings.md"
    )


def test_the_tree_page_is_current() -> None:
    page = DOCS / "develop/tree.md"
    assert page.read_text("utf-8") == make_tree.page(), "run: python -m docs.make_tree > docs/develop/tree.md"


def source_strings() -> list[str]:
    """The strings of led, pipeline and jobs, with `…` for values."""
    strings = []
    for package in ("led", "pipeline", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    strings.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    strings.append(node.value)
    return strings


# Messages of the shell, of Python and of Ray, and those that are put together of several strings.
FOREIGN = (
    "led-corpus: command not found",
    "ModuleNotFoundError",
    "zsh:",
    "Unrecognized options",
    "AuthenticationError",
    "--question is …; give",
    "--replicas is …: each takes",
    "there is no room for a replica: each takes",
    "the process died",
)


def test_messages_of_the_troubleshooting_page_exist() -> None:
    strings = [" ".join(string.split()) for string in source_strings()]
    text = (DOCS / "how-to/troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert len(messages) > 70
    missing = [
        message
        for message in messages
        if not message.startswith(FOREIGN) and not any(in_order(message, string) for string in strings)
    ]
    assert missing == []


def in_order(message: str, string: str) -> bool:
    """Whether the parts of a message between its values are in a string, in this order."""
    parts = [part.strip() for part in message.split("…") if part.strip(" ;.:")]
    return re.search(".*".join(map(re.escape, parts)), string, re.DOTALL) is not None


def test_the_exit_code_page_has_every_error() -> None:
    text = (DOCS / "reference/exit-codes.md").read_text("utf-8")
    for error in vars(errors).values():
        if inspect.isclass(error) and issubclass(error, errors.PipelineError):
            assert f"| `{error.__name__}` | {error.exit_code} |" in text


def test_the_schema_page_has_every_column() -> None:
    text = (DOCS / "reference/output-schema.md").read_text("utf-8")
    given: dict[str, Any] = {"input": ("x",), "output": "x", "model": "x"}
    tasks = (
        Summarize(SummarizeSettings(**given, attention=True)),
        Classify(ClassifySettings(**given)),
        Answer(AnswerSettings(**given, question=("Who?",))),
    )
    columns = {column for task in tasks for column in schema.output_columns(task.schema)}
    assert {column for column in columns if f"`{column}`" not in text} == set()


def test_the_metrics_page_has_every_metric() -> None:
    text = (DOCS / "reference/metrics.md").read_text("utf-8")
    source = inspect.getsource(prometheus)
    metrics = {*re.findall(r'"(led_\w+)"', source), *(f"led_{gauge}" for gauge in prometheus._GAUGES)}
    assert set(re.findall(r"^\| `(led_\w+)`", text, re.MULTILINE)) == metrics


def test_the_alerts_are_on_the_monitoring_page() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "infra/alerts.yml").read_text("utf-8"))
    text = (DOCS / "how-to/monitor.md").read_text("utf-8")
    assert re.findall(r"^\| `(Led\w+)`", text, re.MULTILINE) == alerts


def test_the_api_page_has_every_public_name_of_led() -> None:
    text = (DOCS / "reference/led.md").read_text("utf-8")
    names = set(re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE))
    assert set(led.__all__) - {"LEDTokenizerFast"} <= names


def public_callables() -> list[tuple[str, Any]]:
    """(name, object) for every public class and function, and their own methods."""
    found: list[tuple[str, Any]] = []
    for public in led.__all__:
        thing = getattr(led, public)
        found.append((public, thing))
        if inspect.isclass(thing):
            for key, value in vars(thing).items():
                value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                if isinstance(value, FunctionType) and (not key.startswith("_") or key == "__call__"):
                    found.append((f"{public}.{key}", value))
                elif isinstance(value, property) and not key.startswith("_"):
                    found.append((f"{public}.{key}", value.fget))
    return found


@pytest.mark.parametrize(("public", "thing"), public_callables(), ids=[n for n, _ in public_callables()])
def test_public_names_have_complete_docstrings(public: str, thing: Any) -> None:
    own = inspect.getdoc(thing) or ""  # a method may inherit its docstring
    if "." in public and not own:
        cls, method = public.split(".")
        own = next(
            (
                inspect.getdoc(vars(base)[method]) or ""
                for base in getattr(led, cls).__mro__
                if method in vars(base) and inspect.getdoc(vars(base)[method])
            ),
            "",
        )
    assert own.strip(), "no docstring"
    assert own.strip().split("\n\n")[0].rstrip()[-1] in ".:?", "the first paragraph is no sentence"
    if not isinstance(thing, FunctionType):
        return
    source = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    raises = {
        node.exc.func.id
        for node in ast.walk(source)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    for error in raises:
        assert "Raises:" in own and (error in own or error == "KeyError"), (
            f"{error} is raised and not documented"
        )
    annotations = " ".join(str(a) for a in thing.__annotations__.values())
    if re.search(r"\bTensor\b", annotations):
        assert re.search(r"\([A-Zn.][\w.,*+ ]*\)|\(\)|LEDInputs|led\.generate", own), "tensors without shapes"


def test_every_model_names_its_source() -> None:
    for public in led.__all__:
        thing = getattr(led, public)
        if inspect.isclass(thing) and public.startswith("LED") and "Tokenizer" not in public:
            text = (inspect.getdoc(thing) or "") + (inspect.getdoc(sys.modules[thing.__module__]) or "")
            assert "arXiv:2004.05150" in text, public
