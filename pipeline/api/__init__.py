"""The Python API: what `import led_corpus` gives."""

from pipeline import __version__
from pipeline.api.functions import (
    answer,
    classify,
    evaluate,
    plan,
    preview,
    run,
    status,
    summarize,
    verify,
)
from pipeline.api.processor import build_processor
from pipeline.api.progress import ProgressReport
from pipeline.api.results import Results, read_results
from pipeline.cluster.processing import Processor
from pipeline.errors import (
    CorruptInput,
    CorruptOutput,
    PipelineError,
    PlanMismatch,
    Stopped,
    TooManyFailures,
    Unreachable,
    UsageError,
)
from pipeline.monitor.limits import StopRequest
from pipeline.tasks.base import Document
from pipeline.tasks.generated import Generated, TextPart
from pipeline.tasks.settings import TextSettings
from pipeline.tasks.text import TextInput, TextTask

__all__ = [
    "CorruptInput",
    "CorruptOutput",
    "Document",
    "Generated",
    "PipelineError",
    "PlanMismatch",
    "Processor",
    "ProgressReport",
    "Results",
    "StopRequest",
    "Stopped",
    "TextInput",
    "TextPart",
    "TextSettings",
    "TextTask",
    "TooManyFailures",
    "Unreachable",
    "UsageError",
    "__version__",
    "answer",
    "build_processor",
    "classify",
    "evaluate",
    "plan",
    "preview",
    "read_results",
    "run",
    "status",
    "summarize",
    "verify",
]
