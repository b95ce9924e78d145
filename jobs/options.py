"""The options of single subcommands, besides the settings of a run.

The text under a field is its help text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

# Exit code after an interruption or a graceful shutdown.
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class PrintOptions:
    """How a subcommand prints."""

    json: bool = False
    """Print the result as one JSON object on stdout. Progress, warnings and errors stay on stderr."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(PrintOptions):
    """How to estimate a run."""

    sample_documents: int = 2000
    """Documents whose lengths are sampled."""
    calibration_seconds: float = 60.0
    """Seconds of work to measure on the run's own devices."""
    picture: str | None = None
    """File for a picture of the document lengths (.svg)."""


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(PrintOptions):
    """Which documents to preview."""

    documents: int = 5
    """Number of documents, drawn at random."""
    draw: int = 0
    """Seed of the draw. Another number draws other documents."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions(PrintOptions):
    """The output folder of a run."""

    output: str
    """Output folder of a run: a path or s3://bucket/folder."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(OutputOptions):
    """The output folder of a finished run, and what its plan does not contain."""

    reference_column: str | None = None
    """Column of the output with the reference summaries."""
    price_per_hour: float | None = None
    """Price of one device-hour: a GPU's, or without GPUs that of one replica's CPUs."""
    gpus: float = 0.0
    """GPUs that each replica had."""
    compare_previous: bool = False
    """Read the manifest of the previous run, at the address that the plan names, to show what changed. Give
    it only for folders that you trust."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(OutputOptions):
    """The output folder, and what else to compare it with."""

    against_input: bool = False
    """Read the input again, and compare its document IDs and texts with the rows."""
    sign_key: str | None = None
    """File with the key that the run was given to sign the manifest."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(OutputOptions):
    """The output folder of a finished run, and the references to compare with."""

    reference_column: str
    """Column of the output with the references. A run copies it by --passthrough."""


@dataclass(frozen=True, kw_only=True)
class EvaluateTextsOptions(OutputOptions):
    """The output folder of a finished run, and the references to compare with."""

    reference_column: str = "reference_summary"
    """Column of the output with the reference texts. A run copies it by --passthrough."""
    facts_column: str | None = None
    """Column with a list of texts that the result should contain word for word."""
    stemmer: bool = False
    """Compare word stems instead of words."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(PrintOptions):
    """What a run would use."""

    gpus: float = 0.0
    """GPUs that each replica would use. With more than 0, a missing GPU is an error."""
    ray_address: str | None = None
    """Address of the cluster to join. Default: RAY_ADDRESS, otherwise a new local cluster."""
    start_ray: bool = True
    """Start or join a Ray cluster, as a run does."""


@dataclass(frozen=True, kw_only=True)
class NightlyOptions:
    """The folder of scheduled runs, and how to handle failures."""

    runs: str
    """Folder of all scheduled runs: a path or s3://bucket/folder."""
    name: str = field(default_factory=lambda: date.today().isoformat())
    """Name of this run: a date, optionally with a suffix, such as 2026-11-24-retry."""
    stop_at: str | None = None
    """Stop gracefully at this time, such as 06:00. The next run continues."""
    attempts: int = 3
    """How often to try a job that fails with exit code 1."""
    pause_seconds: float = 60.0
    """Seconds before the next attempt."""
    on_failure: str | None = None
    """Shell command to run if the last attempt fails."""
