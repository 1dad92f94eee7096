"""Runs of Luigi, in an interpreter of their own, for Luigi sets up the logging and forks."""

from collections import defaultdict
from pathlib import Path

import pytest

from socketpusher import Event
from support import producer_script
from support.consumer import Consumer

TASKS = """
import luigi
from socketpusher.sources.luigi import LuigiRun

class Step(luigi.Task):
    name = luigi.Parameter()
    def requires(self):
        return [STEPS[name] for name in NEEDS.get(self.name, ())]
    def output(self):
        return luigi.LocalTarget(os.path.join(os.environ["PLACE"], self.name))
    def run(self):
        self.output().open("w").close()

class Broken(Step):
    def run(self):
        raise ValueError("no disk")

class Dies(Step):
    def run(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Hangs(Step):
    worker_timeout = 1
    def run(self):
        time.sleep(60)

class Elsewhere(Step):
    run = None  # which makes a task an external one

class Unsound(Step):
    def requires(self):
        raise LookupError("no such table")

class Unchecked(Step):
    def complete(self):
        raise LookupError("no such table:\\nrows")

class Batched(Step):
    def run(self):
        assert max(self.name) == "c", self.name
        for name in "abc":
            open(os.path.join(os.environ["PLACE"], name), "w").close()

class Joined(Batched):
    name = luigi.Parameter(batch_method=",".join)

class Latest(Batched):
    name = luigi.Parameter(batch_method=max)  # so the batch has the id of one of its tasks

class BrokenBatch(Broken):
    name = luigi.Parameter(batch_method=",".join)

class NoBatch(Batched):
    name = luigi.Parameter(batch_method=dict)

def steps(kinds):
    return {name: kind(name=name) for name, kind in kinds.items()}

def build(roots, workers=1, **options):
    run = LuigiRun(bus, *[STEPS[name] for name in roots])
    pusher.set_graph(run.graph, workers)
    with pusher, run:
        options |= {"local_scheduler": True, "workers": workers, "log_level": "CRITICAL"}
        luigi.build([STEPS[name] for name in roots], **options)
        assert pusher.flush(30)  # or the end of the run could overtake what a worker has emitted last
"""


def run(lines: str, consumer: Consumer, place: Path) -> list[Event]:
    code, _, errors = producer_script.run(TASKS + lines, consumer.path, env={"PLACE": str(place)})
    assert code == 0, errors
    return consumer.events()


def told(events: list[Event]) -> dict[str, list[str]]:
    """What was told of each unit, by its name without Luigi's hash."""
    units = defaultdict(list)
    for event in events:
        if event.unit:
            units[name_of(event.unit)].append(event.type.removeprefix("unit."))
    return dict(units)


def name_of(unit: str) -> str:
    return unit.split("_")[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failure_blocks_what_needs_it_and_nothing_else(workers: int, consumer: Consumer, tmp_path: Path) -> None:
    lines = f"""
NEEDS = {{"report": ["good", "bad"], "letter": ["report", "bad"], "bad": ["setup"], "good": ["setup"]}}
STEPS = steps({{"setup": Step, "good": Step, "bad": Broken, "report": Step, "letter": Step}})
build(["letter"], workers={workers})
"""
    events = run(lines, consumer, tmp_path)
    graph = events[0].payload
    assert {(name_of(edge["from"]), name_of(edge["to"])) for edge in graph["edges"]} == {
        ("setup", "bad"),
        ("setup", "good"),
        ("good", "report"),
        ("bad", "report"),
        ("bad", "letter"),
        ("report", "letter"),
    }
    assert events[1].type == "orch.started"
    assert events[1].payload["parallelism"] == workers
    expected = {
        "setup": ["queued", "started", "completed"],
        "good": ["queued", "started", "completed"],
        "bad": ["queued", "started", "failed"],
        "report": ["blocked"],
        "letter": ["blocked"],
    }
    if workers == 1:
        assert told(events) == expected
    # What different processes emit may change places.
    assert {unit: sorted(types) for unit, types in told(events).items()} == {
        unit: sorted(types) for unit, types in expected.items()
    }
    assert [event.error for event in events if event.type == "unit.failed"] == ["ValueError: no disk"]
    assert events[-1].type == "orch.failed"
    assert name_of(events[-1].error.removeprefix("not complete: ")) == "letter"


@pytest.mark.parametrize("workers", [1, 3])
def test_a_unit_is_queued_once_all_that_it_requires_is_complete(
    workers: int, consumer: Consumer, tmp_path: Path
) -> None:
    lines = f"""
NEEDS = {{"report": ["a", "b", "c"]}}
STEPS = steps(dict.fromkeys(["a", "b", "c", "report"], Step))
build(["report"], workers={workers})
"""
    events = run(lines, consumer, tmp_path)
    told_of = told(events)
    assert set(told_of) == {"a", "b", "c", "report"}
    assert all(set(types) == {"queued", "started", "completed"} for types in told_of.values())
    assert events[-1].type == "orch.completed"
    if workers == 1:  # what different processes emit may change places, and two may find that all is complete
        last = [event for event in events if event.unit][-3:]
        assert told(last) == {"report": ["queued", "started", "completed"]}


def test_complete_tasks_are_reported_at_once_and_their_requirements_are_no_units(
    consumer: Consumer, tmp_path: Path
) -> None:
    (tmp_path / "old").touch()
    lines = """
NEEDS = {"report": ["old", "new"], "old": ["older"]}
STEPS = steps(dict.fromkeys(["older", "old", "new", "report"], Step))
build(["report"])
"""
    told_of = told(run(lines, consumer, tmp_path))
    assert set(told_of) == {"report", "old", "new"}
    assert told_of["old"] == ["queued", "skipped", "completed"]


def test_a_task_that_succeeds_when_it_is_tried_again_frees_what_needs_it(consumer: Consumer, tmp_path: Path) -> None:
    lines = """
class Flaky(Step):
    def run(self):
        self.run = super().run  # the next time
        raise ValueError("not yet")

for section, option, value in (("scheduler", "retry_delay", "0"), ("worker", "keep_alive", "true")):
    luigi.configuration.get_config().set(section, option, value)
NEEDS = {"report": ["flaky"], "letter": ["report"]}
STEPS = steps({"flaky": Flaky, "report": Step, "letter": Step})
build(["letter"])
"""
    events = run(lines, consumer, tmp_path)
    assert told(events) == {
        "flaky": ["queued", "started", "failed", "started", "completed"],
        "report": ["blocked", "queued", "started", "completed"],
        "letter": ["blocked", "queued", "started", "completed"],
    }
    assert events[-1].type == "orch.completed"


def test_data_that_no_task_makes_fails_its_unit(consumer: Consumer, tmp_path: Path) -> None:
    lines = """
NEEDS = {"report": ["data"]}
STEPS = steps({"data": Elsewhere, "report": Step})
build(["report"])
"""
    events = run(lines, consumer, tmp_path)
    assert told(events) == {"data": ["queued", "failed"], "report": ["blocked"]}
    assert next(e.error for e in events if e.type == "unit.failed") == "it is not complete, and Luigi can't run it"


def test_requirements_that_raise_fail_the_unit_not_the_program(consumer: Consumer, tmp_path: Path) -> None:
    lines = """
NEEDS = {"report": ["unsound"]}
STEPS = steps({"unsound": Unsound, "report": Step})
build(["report"])
"""
    events = run(lines, consumer, tmp_path)
    assert told(events) == {"unsound": ["queued", "failed"], "report": ["blocked"]}
    assert next(event.error for event in events if event.type == "unit.failed") == "LookupError: no such table"


@pytest.mark.parametrize("scheduling", ["", "parallel_scheduling=True"])
def test_a_complete_that_raises_fails_the_unit_with_its_error(
    scheduling: str, consumer: Consumer, tmp_path: Path
) -> None:
    lines = f"""
NEEDS = {{"report": ["data"]}}
STEPS = steps({{"data": Unchecked, "report": Step}})
build(["report"], {scheduling})
"""
    events = run(lines, consumer, tmp_path)
    assert told(events) == {"data": ["queued", "failed"], "report": ["blocked"]}
    assert next(event.error for event in events if event.type == "unit.failed") == "LookupError: no such table:\nrows"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("kind", "ends", "errors"),
    [
        ("Joined", ["started", "completed"], set()),
        ("Latest", ["started", "completed"], set()),
        ("BrokenBatch", ["started", "failed"], {"ValueError: no disk"}),
        ("NoBatch", ["failed"], {"ValueError: dictionary update sequence element #0 has length 1; 2 is required"}),
    ],
)
def test_tasks_that_luigi_runs_as_a_batch_are_told_like_the_batch(
    kind: str, ends: list[str], errors: set[str], workers: int, consumer: Consumer, tmp_path: Path
) -> None:
    lines = f"""
NEEDS = {{"report": ["a", "b", "c"]}}
STEPS = steps(dict.fromkeys("abc", {kind}) | {{"report": Step}})
build(["report"], workers={workers})
"""
    events = run(lines, consumer, tmp_path)
    report = ["queued", "started", "completed"] if not errors else ["blocked"]
    expected = {"a": ["queued", *ends], "b": ["queued", *ends], "c": ["queued", *ends], "report": report}
    if workers == 1:
        assert told(events) == expected
    # What different processes emit may change places.
    assert {unit: sorted(set(types)) for unit, types in told(events).items()} == {
        unit: sorted(types) for unit, types in expected.items()
    }
    assert {event.error for event in events if event.type == "unit.failed"} == errors
    assert events[-1].type == ("orch.failed" if errors else "orch.completed")


@pytest.mark.parametrize(
    ("kind", "error"), [("Dies", "died unexpectedly with exit code -9"), ("Hangs", "timed out after 1 seconds")]
)
def test_a_process_that_does_not_end_well_fails_its_unit(
    kind: str, error: str, consumer: Consumer, tmp_path: Path
) -> None:
    lines = f"""
NEEDS = {{"report": ["step"]}}
STEPS = steps({{"step": {kind}, "report": Step}})
build(["report"], workers=2)
"""
    events = run(lines, consumer, tmp_path)
    assert "failed" in told(events)["step"]  # perhaps before "started", which another process emits
    assert told(events)["report"] == ["blocked"]
    assert error in next(event.error for event in events if event.type == "unit.failed")


def test_a_run_that_raises_has_failed_and_its_handlers_are_removed(consumer: Consumer, tmp_path: Path) -> None:
    lines = """
NEEDS, STEPS = {}, steps({"report": Step})
with pusher:
    try:
        with LuigiRun(bus, STEPS["report"]):
            raise RuntimeError("no cluster")
    except RuntimeError:
        pass
    luigi.build([STEPS["report"]], local_scheduler=True, log_level="CRITICAL")
assert luigi.worker.Worker._get_work_task_id.__module__ == "luigi.worker"
"""
    events = run(lines, consumer, tmp_path)
    assert [event.type for event in events] == ["orch.started", "unit.queued", "orch.failed"]
    assert events[-1].error == "RuntimeError: no cluster"
