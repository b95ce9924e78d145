"""Code of a user's task: it is sent to the workers by value, so that they need no copy of its files."""

from __future__ import annotations

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import UsageError, one_line
from pipeline.tasks.base import Task
from pipeline.tasks.registry import is_built_in, modules_of


def send_by_value(task: Task) -> None:
    """Make Ray send the code of a task of one's own with it, and check that a worker can import it.

    The code is the module of the task and the files beside it that it imports. Installed packages that it
    imports must be installed on every machine.

    Raises:
        UsageError: the code cannot be sent, or a worker cannot import it.
    """
    if is_built_in(type(task)):
        return
    try:
        for module in modules_of(type(task)):
            if module.__name__ != "__main__":  # always sent by value
                cloudpickle.register_pickle_by_value(module)
        content = cloudpickle.dumps(task)
    except Exception as error:
        raise UsageError(
            f"the task {task.name} cannot be sent to the workers ({type(error).__name__}: "
            f"{one_line(error)}); create such objects inside its methods, not in its module."
        ) from error
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    strategies = [NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes]
    problems = ray.get([_import.options(scheduling_strategy=each).remote(content) for each in strategies])
    if any(problems):
        problem = next(filter(None, problems))
        raise UsageError(
            f"the task {task.name} cannot be imported by a worker ({problem}); install what it imports on "
            "every machine of the cluster."
        )


@ray.remote(num_cpus=0, max_retries=0)
def _import(content: bytes) -> str | None:
    """Why a task cannot be loaded on this worker. None if it can."""
    try:
        cloudpickle.loads(content)
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}"
    return None
