"""The functions of the Python API: the subcommands of `led-corpus` as calls.

They raise errors instead of ending the process, and install no signal handlers. The settings of a task are
keyword arguments with the names of the flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from typing import Any, Unpack

from pipeline.api.keywords import AnswerKeywords, ClassifyKeywords, SummarizeKeywords
from pipeline.api.progress import ShowProgress, observer_of
from pipeline.api.results import Results, read_results
from pipeline.forecast import calibrate
from pipeline.forecast.calibrate import Forecast
from pipeline.monitor.limits import StopRequest
from pipeline.output import verify as verification
from pipeline.output.open_store import open_store
from pipeline.output.sign_key import read_key
from pipeline.output.verify import Status, Verification
from pipeline.planning.plan import FORECAST
from pipeline.report import scores
from pipeline.run import Caller, run as run_task
from pipeline.settings import make_settings
from pipeline.tasks.base import Task
from pipeline.tasks.registry import entry_of, find_task

# An address that is in no input.
_NO_OUTPUT = f"{os.devnull}/no-output"


def summarize(
    *, progress: ShowProgress = True, stop: StopRequest | None = None, **settings: Unpack[SummarizeKeywords]
) -> Results:
    """Summarize every document of a corpus. Like `run`."""
    return run("summarize", progress=progress, stop=stop, **settings)


def classify(
    *, progress: ShowProgress = True, stop: StopRequest | None = None, **settings: Unpack[ClassifyKeywords]
) -> Results:
    """Label every document of a corpus. Like `run`."""
    return run("classify", progress=progress, stop=stop, **settings)


def answer(
    *, progress: ShowProgress = True, stop: StopRequest | None = None, **settings: Unpack[AnswerKeywords]
) -> Results:
    """Answer questions over every document of a corpus. Like `run`."""
    return run("answer", progress=progress, stop=stop, **settings)


def run(
    task: str | type[Task],
    *,
    progress: ShowProgress = True,
    stop: StopRequest | None = None,
    **settings: Any,
) -> Results:
    """Run a task over a corpus, or resume a run that was interrupted.

    `task` is a subclass of `TextTask`, `FILE.py:CLASS`, or a name as on the command line. `progress` shows
    the progress, or is a function that receives a `ProgressReport` every few seconds. `stop.cancel()`, from
    another thread, stops the run after the shards in flight.

    Raises:
        UsageError: settings, input, model and output do not fit together. Nothing was run.
        TooManyFailures: more documents failed than `max_failed` allows.
        Stopped: the run stopped gracefully. The same call resumes it.
        PipelineError: the run failed. The same call resumes it.
    """
    made = make_task(task, settings)
    observer = observer_of(progress, made.settings)
    caller = Caller(
        stop=stop or StopRequest(),
        handles_signals=False,
        shows_progress=progress is True and observer is None,
        observers=() if observer is None else (observer,),
    )
    return read_results(run_task(made, caller).output)


def plan(
    task: str | type[Task],
    *,
    sample_documents: int = 2000,
    calibration_seconds: float = 60.0,
    **settings: Any,
) -> Forecast:
    """Forecast a run: documents, tokens, time, memory and cost. Writes `_forecast.json` to the output folder.

    Raises:
        UsageError: settings, input, model and output do not fit together.
        PipelineError: no document could be read or predicted.
    """
    made = make_task(task, settings)
    forecast = calibrate.forecast(made, sample_documents, calibration_seconds)
    open_store(made.settings.output).replace(FORECAST, forecast.to_json())
    return forecast


def preview(
    task: str | type[Task], *, documents: int = 5, draw: int = 0, **settings: Any
) -> list[dict[str, Any]]:
    """The rows of a few random documents, computed in this process, each with the document's text (`text`).

    Raises:
        UsageError: settings, input and model do not fit together.
    """
    # A preview writes nothing.
    rows = calibrate.preview(make_task(task, {"output": _NO_OUTPUT, **settings}), documents, draw)
    return [{"text": text, **row} for text, row in rows]


def status(output: str | PathLike[str]) -> Status:
    """The progress of the run in a folder.

    Raises:
        UsageError: the folder holds no run.
    """
    return verification.status(open_store(os.path.expanduser(output)))


def verify(
    output: str | PathLike[str], *, against_input: bool = False, sign_key: str | None = None
) -> Verification:
    """Check every byte of the run in a folder. The result lists the problems that were found.

    Raises:
        UsageError: the folder holds no run.
        PipelineError: the folder or the input cannot be read now.
    """
    key = None if sign_key is None else read_key(sign_key)
    return verification.verify(open_store(os.path.expanduser(output)), key=key, against_input=against_input)


def evaluate(
    output: str | PathLike[str],
    reference_column: str,
    *,
    facts_column: str | None = None,
    stemmer: bool = False,
) -> dict[str, float | int]:
    """The scores of a finished run against a column with references, by name, in the way that fits its task.

    Raises:
        UsageError: the folder holds no finished run, or lacks the column.
    """
    store = open_store(os.path.expanduser(output))
    task = verification.read_plan(store).task
    return scores.evaluate(store, task, task.evaluation, reference_column, facts_column, stemmer=stemmer)


def make_task(task: str | type[Task], settings: Mapping[str, Any]) -> Task:
    """A task with these settings.

    Raises:
        UsageError: there is no such task or setting, or a value breaks a rule.
    """
    entry = find_task(task) if isinstance(task, str) else entry_of(task)
    return entry.make(make_settings(entry.settings_class, settings))
