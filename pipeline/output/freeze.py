"""The plan of a run, written with its first commit. From then on the folder belongs to that plan.

A run that fails before its first commit leaves no plan, so a corrected command can use the same folder. Every
process that commits writes the plan first, create-only, and compares it with the one in the folder. Two runs
with different plans therefore never commit to one folder.
"""

from __future__ import annotations

import hashlib

from pipeline.errors import PlanMismatch
from pipeline.output.store import Store
from pipeline.planning.plan import PLAN, Plan, plan_differences

# Differences shown in an error message.
_SHOWN = 20


def existing_plan(store: Store) -> Plan | None:
    """The plan in the output folder, or None for a new run."""
    return Plan.from_json(store.read(PLAN)) if store.exists(PLAN) else None


def freeze_plan(store: Store, content: bytes) -> str:
    """Write the `content` of a plan create-only, if the folder has none. A plan that it has must be the same.
    Returns the SHA-256 of the plan in the folder.

    Raises:
        PlanMismatch: the folder has another plan. The message lists what differs.
    """
    if not store.exists(PLAN):
        store.create(PLAN, content)
    frozen = store.read(PLAN)
    if frozen != content:
        check_same_plan(store, Plan.from_json(frozen), Plan.from_json(content))
    return hashlib.sha256(frozen).hexdigest()


def check_same_plan(store: Store, frozen: Plan, plan: Plan) -> None:
    """Check that a run with `plan` can resume the one whose plan is in the folder.

    Raises:
        PlanMismatch: it cannot. The message lists what differs.
    """
    changed = plan_differences(frozen, plan)
    if changed:
        lines = [*changed[:_SHOWN], *([f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else [])]
        raise PlanMismatch(
            f"{store.url} holds a run with another plan:\n  " + "\n  ".join(lines) + "\n"
            "Use that run's settings to resume it, or another --output to start a new run."
        )
