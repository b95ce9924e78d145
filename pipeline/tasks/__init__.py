"""Tasks: what a run computes for each document. `TASKS` maps the name in a plan to the task's class."""

from pipeline.tasks.answer import Answer
from pipeline.tasks.base import Task
from pipeline.tasks.classify import Classify
from pipeline.tasks.summarize import Summarize

__all__ = ["TASKS", "Answer", "Classify", "Summarize", "Task"]

TASKS: dict[str, type[Summarize] | type[Classify] | type[Answer]] = {
    "summarize": Summarize,
    "classify": Classify,
    "answer": Answer,
}
