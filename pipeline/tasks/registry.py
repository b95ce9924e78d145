"""The tasks that a command can name: those of this package, of installed packages, and of a user's file.

This module imports no task until it is needed, so that `--help` is fast.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError, one_line
from pipeline.settings import RunSettings
from pipeline.tasks.settings import AnswerSettings, ClassifySettings, SummarizeSettings

if TYPE_CHECKING:
    from pipeline.schema import TaskInfo
    from pipeline.tasks.base import Row, Task

# Names of options of subcommands, which no setting may have.
_OPTIONS = {"json", "documents", "draw", "sample_documents", "calibration_seconds", "picture", "config"}

# Installed packages name their tasks in this group of entry points.
ENTRY_POINTS = "led_corpus.tasks"


@dataclass(frozen=True)
class TaskEntry:
    """A task that a command can name. `help` completes "led-corpus NAME: …". `load` imports its class."""

    name: str
    help: str
    settings_class: type[RunSettings]
    load: Callable[[], type[Task]]

    def make(self, settings: RunSettings) -> Task:
        """The task with these settings.

        Raises:
            UsageError: they name something that cannot be read.
        """
        return self.load().of(settings)


def _built_in(name: str, help: str, settings_class: type[RunSettings], class_name: str) -> TaskEntry:
    def load() -> type[Task]:
        loaded: type[Task] = getattr(importlib.import_module(f"pipeline.tasks.{name}"), class_name)
        return loaded

    return TaskEntry(name, help, settings_class, load)


BUILT_IN = {
    entry.name: entry
    for entry in (
        _built_in("summarize", "summarize every document of a corpus", SummarizeSettings, "Summarize"),
        _built_in("classify", "label every document of a corpus", ClassifySettings, "Classify"),
        _built_in(
            "answer",
            "answer questions over every document of a corpus, one row per question",
            AnswerSettings,
            "Answer",
        ),
    )
}


def installed_tasks() -> dict[str, EntryPoint]:
    """The tasks of installed packages by name. None of them is imported."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def is_task(reference: str) -> bool:
    """Whether this names a task: one of this package, one of an installed package, or `FILE.py:CLASS`."""
    return reference in BUILT_IN or _is_path(reference) or reference in installed_tasks()


def _is_path(reference: str) -> bool:
    return ".py:" in reference


def find_task(reference: str) -> TaskEntry:
    """The task of this name: one of this package, one of an installed package, or `FILE.py:CLASS`.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    if reference in BUILT_IN:
        return BUILT_IN[reference]
    if _is_path(reference):
        return entry_of(_task_in_file(reference), reference)
    installed = installed_tasks()
    if reference not in installed:
        known = ", ".join([*BUILT_IN, *installed])
        raise UsageError(f"there is no task {reference!r}; give one of {known}, or FILE.py:CLASS.")
    try:
        found = installed[reference].load()
    except Exception as error:
        raise UsageError(_import_error(reference, error)) from error
    return entry_of(found, reference)


def entry_of(task: Any, reference: str = "") -> TaskEntry:
    """The entry of a task's class. `reference` is how the user named it.

    Raises:
        UsageError: it is not a task, or it lacks what a task must define.
    """
    from pipeline.tasks.base import Task

    reference = reference or getattr(task, "__qualname__", repr(task))
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UsageError(f"{reference} is not a task; it must be a subclass of led_corpus.TextTask.")
    missing = [name for name in ("name", "title", "result_column") if not hasattr(task, name)]
    if missing or inspect.isabstract(task):
        lacks = ", ".join([*missing, *sorted(getattr(task, "__abstractmethods__", ()))])
        raise UsageError(f"the task {reference} defines no {lacks}; a task needs name, columns and row().")
    if task.name in BUILT_IN and not is_built_in(task):
        raise UsageError(f"the task {reference} has the name {task.name!r} of a built-in task; rename it.")
    taken = sorted(_OPTIONS & {field.name for field in fields(task.settings_class)})
    if taken:
        raise UsageError(
            f"the task {reference} has the setting {', '.join(taken)}, which subcommands use; rename it."
        )
    lines = inspect.getdoc(task) or task.title
    return TaskEntry(task.name, lines.splitlines()[0].rstrip("."), task.settings_class, lambda: task)


def is_built_in(task: type[Task]) -> bool:
    """Whether this class is one of this package."""
    return is_own_module(task.__module__)


def code_of(task: type[Task]) -> dict[str, str]:
    """What identifies the code of a task of one's own in a plan: its version, or else the SHA-256 of its file
    and of those beside it that it imports. Empty for tasks of this package, whose code has a version of its
    own.

    Raises:
        UsageError: the class is defined in no file, and has no version.
    """
    if is_built_in(task):
        return {}
    version = getattr(task, "version", None)
    if version is not None:
        return {"task_version": str(version)}
    modules = modules_of(task)
    if not modules:
        raise UsageError(
            f"the task {task.name} is defined in no file, as in a notebook, so that its rows could not be "
            'told from those of another version. Set version = "1" in the class, and raise it when the rows '
            "change."
        )
    digest = hashlib.sha256()
    for module in sorted(modules, key=lambda module: Path(str(module.__file__)).name):
        digest.update(Path(str(module.__file__)).read_bytes())
    return {"task_sha256": digest.hexdigest()}


def modules_of(task: type[Task]) -> list[ModuleType]:
    """The modules with the code of a task of one's own: those of its class and of the classes above it, and
    the files beside them that these import. Of an installed package, only the modules of the classes."""
    found: dict[str, ModuleType] = {}
    for each in task.__mro__:
        module = sys.modules.get(each.__module__)
        file = getattr(module, "__file__", None)
        if module is None or file is None or not file.endswith(".py"):
            continue
        if is_own_module(each.__module__) or each.__module__ in sys.stdlib_module_names:
            continue
        found[module.__name__] = module
        if "site-packages" not in Path(file).parts:
            _add_imported(module, found)
    return list(found.values())


def _add_imported(module: ModuleType, found: dict[str, ModuleType]) -> None:
    """Add the modules beside a module that it imports, and those that they import."""
    path = Path(str(module.__file__))
    beside = {each.__name__: each for each in _modules_in(path.resolve().parent)}
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            imported = beside.get(name)
            if imported is not None and name not in found:
                found[name] = imported
                _add_imported(imported, found)


def _modules_in(folder: Path) -> list[ModuleType]:
    """The loaded modules whose files are in this folder, without those of this package."""
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
        and module.__name__ == name
        and (file := getattr(module, "__file__", None)) is not None
        and file.endswith(".py")
        and Path(file).resolve().parent == folder
        and not is_own_module(name)
    ]


def is_own_module(name: str) -> bool:
    """Whether a module belongs to this package."""
    return name.partition(".")[0] in ("led", "pipeline", "jobs", "led_corpus")


def describe_row_of(task: str, info: TaskInfo, row: Row) -> tuple[str, str]:
    """(details, result) of a written row of the task of this name."""
    from pipeline.tasks.base import describe_row

    if task in BUILT_IN:
        return BUILT_IN[task].load().describe(row)
    return describe_row(row, info.result, info.score)


def _task_in_file(reference: str) -> Any:
    """The class that `FILE.py:CLASS` names.

    Raises:
        UsageError: there is no such file or class, or an error while it is imported.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"--task {reference}: there is no file {path}.")
    module = _import_file(path, reference)
    if not hasattr(module, name):
        classes = [each for each, value in vars(module).items() if _is_own_task(value, module)]
        known = f"it has {', '.join(classes)}" if classes else "it has no subclass of led_corpus.TextTask"
        raise UsageError(f"--task {reference}: {path} has no class {name!r}; {known}.")
    return getattr(module, name)


def _is_own_task(value: Any, module: ModuleType) -> bool:
    from pipeline.tasks.base import Task

    return isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__


# The content of each file of a task when it was imported, by path.
_IMPORTED: dict[Path, bytes] = {}


def _import_file(path: Path, reference: str) -> ModuleType:
    """Import a file as a module of its own name. It may import the files beside it. Files that have changed
    are imported again.

    Raises:
        UsageError: another module has the name, or an error occurs in the file.
    """
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None:
        if getattr(loaded, "__file__", None) is None or Path(str(loaded.__file__)).resolve() != path:
            raise UsageError(f"--task {reference}: a module {name!r} exists already; rename the file.")
        beside = _modules_in(path.parent)
        files = {module: Path(str(module.__file__)).resolve() for module in beside}
        if all(_IMPORTED.get(file) == file.read_bytes() for file in files.values() if file in _IMPORTED):
            return loaded
        for module, file in files.items():
            if file in _IMPORTED:
                del sys.modules[module.__name__]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    try:
        importlib.invalidate_caches()
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise UsageError(_import_error(reference, error)) from error
    finally:
        sys.path.remove(str(path.parent))
    for imported in _modules_in(path.parent):
        if imported is module or imported.__name__ not in before:
            file = Path(str(imported.__file__)).resolve()
            _IMPORTED[file] = file.read_bytes()
    return module


def _import_error(reference: str, error: BaseException) -> str:
    return f"--task {reference} cannot be imported ({type(error).__name__}: {one_line(error)}); correct it."
