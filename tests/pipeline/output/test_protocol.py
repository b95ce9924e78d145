"""The commit protocol as a state machine over a store where writers die, replies are lost and requests are
late.

Several writers of one plan, and one of another, take their steps in any order. In every order, written files
never change and belong to the plan. In the end, one undisturbed run has every document once.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from pipeline.errors import CorruptOutput, PlanMismatch
from pipeline.inputs.read import InputFile
from pipeline.output.commit import commit, finish
from pipeline.output.freeze import freeze_plan
from pipeline.output.store import Outcome
from pipeline.output.verify import verify
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, Plan, make_plan, remaining
from tests.pipeline.output.test_commit import block

INPUT = [InputFile("/in", 1, 7, "h", "1")]
RUN = make_plan(INPUT, {"weights_sha256": "w"}, 3)
OTHER = make_plan(INPUT, {"weights_sha256": "another"}, 3)

FAULTS = st.sampled_from(["none", "none", "dies before", "dies after", "reply lost", "dies, lands late"])


class Died(BaseException):
    """The writer died during a request."""


@dataclass
class FakeStore:
    """A store in a dictionary. `faults` are those of the next writes. `late` requests arrive later."""

    url: str = "fake://out"
    written: dict[str, bytes] = field(default_factory=dict)
    late: list[tuple[str, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def names(self) -> set[str]:
        return set(self.written)

    def exists(self, name: str) -> bool:
        return name in self.written

    def unusual_entries(self) -> dict[str, str]:
        return {}

    def create(self, name: str, data: bytes) -> Outcome:
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "dies before":
            raise Died
        if fault == "dies, lands late":
            self.late.append((name, data))
            raise Died
        created = self._put(name, data)
        if fault == "dies after":
            raise Died
        if fault == "reply lost":  # the write is repeated and refused, and the data shows whose file it is
            return Outcome.CREATED if self.written[name] == data else Outcome.EXISTS
        return Outcome.CREATED if created else Outcome.EXISTS

    def land(self, number: int) -> None:
        """A request of a dead writer arrives late."""
        self._put(*self.late.pop(number))

    def _put(self, name: str, data: bytes) -> bool:
        if name in self.written:
            return False
        self.written[name] = data
        return True

    def read(self, name: str) -> bytes:
        if name not in self.written:
            raise CorruptOutput(f"{name} does not exist.")
        return self.written[name]

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def replace(self, name: str, data: bytes) -> None:
        raise AssertionError("the protocol never replaces a file")


@dataclass(frozen=True)
class Writer:
    """A run that has frozen its plan. Its `number` is in its rows, so that mixed files are detected."""

    number: int
    plan: Plan


class Protocol(RuleBasedStateMachine):
    """Writers start, commit and finish in any order, with a fault in any step."""

    writers = Bundle("writers")

    @initialize()
    def empty(self) -> None:
        self.store = FakeStore()
        self.seen: dict[str, bytes] = {}
        self.count = 0

    def _survives(self, faults: list[str], step: Callable[[], object]) -> bool:
        """True if the writer survives the step."""
        self.store.faults = faults
        try:
            step()
            return True
        except Died:
            return False
        finally:
            self.store.faults = []

    @rule(target=writers, fault=FAULTS, plan=st.sampled_from([RUN, RUN, RUN, OTHER]))
    def begin(self, fault: str, plan: Plan) -> object:
        before = self.store.written.get(PLAN)
        try:
            survives = self._survives([fault], lambda: freeze_plan(self.store, plan.to_json()))
        except PlanMismatch:
            assert before is not None and before != plan.to_json()
            return multiple()
        assert before in (None, plan.to_json()) or not survives
        self.count += 1
        return Writer(self.count, plan) if survives else multiple()

    @rule(target=writers, writer=consumes(writers), which=st.integers(0, 2), fault=FAULTS)
    def commit(self, writer: Writer, which: int, fault: str) -> object:
        shard = writer.plan.shards[which]
        rows = block(shard.shard_id, shard.documents, shard.documents, shard.start)
        rows = rows.append_column("writer", pa.array([writer.number] * len(rows)))
        config = {"plan": writer.plan.fingerprint}
        return writer if self._survives([fault], lambda: commit(self.store, rows, config)) else multiple()

    @rule(target=writers, writer=consumes(writers), fault=FAULTS, second=FAULTS)
    def finish(self, writer: Writer, fault: str, second: str) -> object:
        """A writer that finds every shard writes the manifest, then the success marker."""
        if remaining(writer.plan, self.store.names()):
            return writer

        def step() -> None:
            finish(self.store, writer.plan)

        return writer if self._survives([fault, second], step) else multiple()

    @precondition(lambda self: self.store.late)
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        self.store.land(data.draw(st.integers(0, len(self.store.late) - 1)))

    @invariant()
    def written_files_never_change(self) -> None:
        for name, content in self.seen.items():
            assert self.store.written.get(name) == content
        self.seen = dict(self.store.written)

    @invariant()
    def written_files_belong_to_the_plan_and_are_complete(self) -> None:
        if not self.store.written:
            return
        plan = Plan.from_json(self.store.read(PLAN))
        assert set(self.store.written) <= {PLAN, MANIFEST, SUCCESS, *(shard.part for shard in plan.shards)}
        assert verify(self.store).problems == []
        for shard in plan.shards:
            if shard.part in self.store.written:
                rows = pq.read_table(io.BytesIO(self.store.read(shard.part)))
                assert len(set(rows["writer"].to_pylist())) == 1
        if SUCCESS in self.store.written:
            assert not remaining(plan, self.store.names())

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        plan = Plan.from_json(self.store.read(PLAN)) if PLAN in self.store.written else RUN
        freeze_plan(self.store, plan.to_json())
        writer = Writer(0, plan)
        for which in range(3):
            self.commit_quietly(writer, which)
        while self.store.late:
            self.store.land(0)
        finish(self.store, plan)
        ids = [
            row
            for shard in plan.shards
            for row in pq.read_table(self.store.open(shard.part))["doc_id"].to_pylist()
        ]
        assert ids == [f"d{i}" for i in range(7)] and verify(self.store).problems == []
        self.written_files_never_change()

    def commit_quietly(self, writer: Writer, which: int) -> None:
        shard = writer.plan.shards[which]
        rows = block(shard.shard_id, shard.documents, shard.documents, shard.start)
        commit(
            self.store,
            rows.append_column("writer", pa.array([0] * len(rows))),
            {"plan": writer.plan.fingerprint},
        )


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
