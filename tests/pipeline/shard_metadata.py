"""Shard metadata for tests."""

from __future__ import annotations

from typing import Any

from pipeline.output.commit import ShardMetadata

NOTHING: dict[str, Any] = {
    **dict.fromkeys(("documents", "rows", "ok", "failed", "skipped", "failed_documents", "reused"), 0),
    **dict.fromkeys(("input_tokens", "truncated", "output_tokens"), 0),
    **{name: {} for name in ("failures", "flags", "measured")},
    "attempt": "a",
    "finished_at": 0.0,
    "seconds": 0.0,
}


def shard_metadata(shard_id: str = "s", **given: Any) -> ShardMetadata:
    """Shard metadata with the given counts and one row per document. All other counts are 0."""
    return ShardMetadata(shard_id=shard_id, **{**NOTHING, "rows": given.get("documents", 0), **given})
