"""Code of a user's task: it is sent to the workers by value, so that they need no copy of its files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import ray
from ray import cloudpickle

from pipeline.errors import UsageError, one_line
from pipeline.tasks.base import Task
from pipeline.tasks.registry import is_built_in


def send_by_value(task: Task) -> None:
    """Make Ray send the code of a task of one's own with it, and check that a worker can import it.

    The code is the module of the task and the modules beside it that are loaded. Installed packages that it
    imports must be installed on every machine.

    Raises:
        UsageError: the code cannot be sent, or a worker cannot import it.
    """
    if is_built_in(type(task)):
        return
    for module in _modules_of(type(task)):
        cloudpickle.register_pickle_by_value(module)
    try:
        content = cloudpickle.dumps(task)
    except Exception as error:
        raise UsageError(
            f"the task {task.name} cannot be sent to the workers ({type(error).__name__}: "
            f"{one_line(error)}); create such objects inside its methods, not in its module."
        ) from error
    problem = ray.get(_import.options(scheduling_strategy="SPREAD").remote(content))
    if problem is not None:
        raise UsageError(
            f"the task {task.name} cannot be imported by a worker ({problem}); install what it imports on "
            "every machine of the cluster."
        )


def _modules_of(task: type[Task]) -> list[ModuleType]:
    """The module of a task, and those beside it. The classes of `__main__` are always sent by value."""
    module = sys.modules.get(task.__module__)
    if module is None or module.__name__ == "__main__" or getattr(module, "__file__", None) is None:
        return []
    folder = Path(str(module.__file__)).resolve().parent
    if "site-packages" in folder.parts:
        return [module]
    beside = [
        each
        for each in list(sys.modules.values())
        if isinstance(each, ModuleType)
        and each.__name__ != "__main__"
        and (file := getattr(each, "__file__", None)) is not None
        and Path(file).resolve().parent == folder
        and each.__name__.partition(".")[0] not in ("led", "pipeline", "jobs", "led_corpus")
    ]
    return beside


@ray.remote(num_cpus=0, max_retries=0)
def _import(content: bytes) -> str | None:
    """Why a task cannot be loaded on this worker. None if it can."""
    try:
        cloudpickle.loads(content)
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}"
    return None
