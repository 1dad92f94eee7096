"""Real Snakemake workflows, each in a process of its own."""

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from socketpusher import Bus, Event
from socketpusher.sources.snakemake import WorkflowEvents
from support.consumer import Consumer
from support.restarting import RestartingConsumer
from support.waiting import wait_for

pytest.importorskip("snakemake", reason="tox -e hosts installs it")

SNAKEFILE = """
rule all:
    input: "total.txt"
rule count:
    output: "count_{sample}.txt"
    shell: "echo {wildcards.sample} > {output}"
rule bad:
    output: "bad_{sample}.txt"
    log: "bad_{sample}.log"
    shell: "test -e may_succeed && touch {output} || (touch may_succeed; exit 3)"
rule total:
    input: expand("count_{sample}.txt", sample=["a", "b"]), expand("bad_{sample}.txt", sample=["x"])
    output: "total.txt"
    shell: "cat {input} > {output}"
"""


def start(place: Path, path: str, *arguments: str, snakefile: str = SNAKEFILE) -> "subprocess.Popen[str]":
    (place / "Snakefile").write_text(snakefile)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--logger", "socketpusher"]
    command += ["--logger-socketpusher-path", path, *arguments]
    return subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )


def run(place: Path, path: str, *arguments: str, snakefile: str = SNAKEFILE) -> tuple[int, str]:
    process = start(place, path, *arguments, snakefile=snakefile)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def told(events: list[Event]) -> dict[str, list[str]]:
    units: dict[str, list[str]] = {}
    for event in events:
        if event.unit:
            units.setdefault(event.unit, []).append(event.type.removeprefix("unit."))
    return units


def test_a_failing_rule_fails_its_job_and_the_run(consumer: Consumer, tmp_path: Path) -> None:
    code, output = run(tmp_path, consumer.path, "--keep-going")
    assert code == 1, output
    events = consumer.events()
    assert events[0].type == "orch.started"
    assert events[0].payload == {"unit_count": 5, "parallelism": 2}
    assert told(events) == {
        "count sample=a": ["started", "completed"],
        "count sample=b": ["started", "completed"],
        "bad sample=x": ["started", "failed"],
    }
    started = next(event for event in events if event.type == "unit.started" and event.unit == "count sample=a")
    assert (started.payload["rule"], started.payload["wildcards"]) == ("count", {"sample": "a"})
    (failed,) = [event for event in events if event.type == "unit.failed"]
    assert failed.error.startswith("exit status 3 of: test -e may_succeed")
    assert failed.error.endswith("; log: bad_x.log")
    assert events[-1].type == "orch.failed"
    assert events[-1].payload == {"jobs": 5, "completed": 2, "failed": 1}


def test_a_job_that_is_retried_and_completes_completes_the_run(consumer: Consumer, tmp_path: Path) -> None:
    code, output = run(tmp_path, consumer.path, "--retries", "1")
    assert code == 0, output
    events = consumer.events()
    assert told(events)["bad sample=x"] == ["started", "failed", "started", "completed"]
    assert told(events)["total"] == ["started", "completed"]
    assert (events[-1].type, events[-1].payload["completed"]) == ("orch.completed", 5)
    again, output = run(tmp_path, consumer.path)
    assert again == 0, output
    types = [event.type for event in consumer.events()][len(events) :]
    assert [kind for kind in types if kind.startswith("orch.")][-1] == "orch.completed"  # nothing was to be done


def test_a_dry_run_starts_no_unit(consumer: Consumer, tmp_path: Path) -> None:
    code, output = run(tmp_path, consumer.path, "--dry-run")
    assert code == 0, output
    assert [event.type for event in consumer.events()] == ["orch.dryrun.started", "orch.dryrun.completed"]


CHECKPOINTS = """
import os

rule all:
    input: "last.txt"
checkpoint some:
    output: directory("some")
    shell: "mkdir some; touch some/1.i some/2.i some/3.i"
rule more:
    output: "more/{i}.o"
    shell: "touch {output}"
def all_more(wildcards):
    return [f"more/{name[:-2]}.o" for name in os.listdir(checkpoints.some.get().output[0]) if name.endswith(".i")]
checkpoint other:
    input: all_more
    output: "other.txt"
    shell: "touch {output}"
def from_other(wildcards):
    return [checkpoints.other.get().output[0]]
rule last:
    input: from_other
    output: "last.txt"
    shell: "touch {output}"
"""

INPUT_FAILS = CHECKPOINTS.replace(
    "return [checkpoints.other.get().output[0]]", "checkpoints.other.get(); return {}['no list']"
)
HOOK_FAILS = f"""{CHECKPOINTS}
onsuccess: raise OSError("no mail")
"""


@pytest.mark.parametrize(
    ("snakefile", "completed", "error"),
    [(INPUT_FAILS, 5, "KeyError: 'no list'"), (HOOK_FAILS, 7, "no mail")],
    ids=["input", "hook"],
)
def test_an_error_after_a_checkpoint_has_added_jobs_fails_the_run(
    snakefile: str, completed: int, error: str, consumer: Consumer, tmp_path: Path
) -> None:
    code, output = run(tmp_path, consumer.path, snakefile=snakefile)
    assert code == 1, output
    end = consumer.events()[-1]
    assert (end.type, end.payload) == ("orch.failed", {"jobs": 7, "completed": completed, "failed": 0})
    assert error in end.error


WITHOUT_OUTPUT = """
rule all:
    input: "missing.txt", "later.txt"
rule missing:
    output: "missing.txt"
    priority: 1
    shell: "true"
rule later:
    output: "later.txt"
    shell: "touch {output}"
"""


def test_a_job_without_its_output_fails_before_the_workflow_ends(consumer: Consumer, tmp_path: Path) -> None:
    options = ("--keep-going", "--retries", "1", "--latency-wait", "0", "--cores", "1")
    code, output = run(tmp_path, consumer.path, *options, snakefile=WITHOUT_OUTPUT)
    assert code == 1, output
    units = [(event.unit, event.type) for event in consumer.events() if event.unit]
    assert units == [
        *[("missing", "unit.started"), ("missing", "unit.failed")] * 2,
        ("later", "unit.started"),
        ("later", "unit.completed"),
    ]
    failed = next(event for event in consumer.events() if event.type == "unit.failed")
    assert "some output files are missing" in failed.error
    assert "missing.txt" in failed.error


def test_the_time_for_a_job_does_not_grow_with_their_number() -> None:
    """Ten times the jobs take about ten times the time, not a hundred times: compared in one run."""

    def seconds(jobs: int) -> float:
        workflow = WorkflowEvents(Bus())
        begin = time.process_time()
        for job in range(jobs):
            fields = {"event": "job_info", "jobid": job, "rule_name": "count", "wildcards": {"sample": job}}
            workflow.handle(logging.makeLogRecord(fields))
        return time.process_time() - begin

    small = min(seconds(2_000) for _ in range(3))
    assert min(seconds(20_000) for _ in range(2)) < 40 * small


def running() -> list[str]:
    """The commands of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(path.read_text(errors="replace").rstrip("\0").replace("\0", " "))
    return found


def test_ctrl_c_fails_what_was_running(consumer: Consumer, tmp_path: Path) -> None:
    seconds = f"300.{os.getpid()}"  # which tells this process from others
    slow = f'rule all:\n    output: "never.txt"\n    shell: "exec sleep {seconds}"\n'
    process = start(tmp_path, consumer.path, snakefile=slow)
    wait_for(lambda: f"sleep {seconds}" in running(), timeout=120)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert [event.type for event in consumer.events() if event.type.startswith(("unit", "orch"))] == [
        "orch.started",
        "unit.started",
        "unit.failed",
        "orch.failed",
    ]


@pytest.mark.parametrize("end", ["nobody", "stalled", "x" * 200])
def test_a_workflow_is_the_same_without_a_consumer_that_reads(end: str, socket_path: str, tmp_path: Path) -> None:
    stalled = Consumer(socket_path, reading=False) if end == "stalled" else None
    path = socket_path if stalled else str(tmp_path / end)
    code, output = run(tmp_path, path, "--retries", "1")
    assert code == 0, output
    assert (tmp_path / "total.txt").read_text() == "a\nb\n"
    assert ("no events are sent" in output) == (len(end) == 200)
    if stalled:
        stalled.go_away()


def test_a_consumer_that_restarts_ends_with_what_snakemake_says(socket_path: str, tmp_path: Path) -> None:
    many = SNAKEFILE.replace('["a", "b"]', str([f"s{number}" for number in range(20)]))
    with RestartingConsumer(socket_path, 10) as consumer:
        code, output = run(tmp_path, socket_path, "--keep-going", snakefile=many)
        assert code == 1, output
        shown = consumer.final_run()
    assert shown.outcome == "failed"
    units = {name: unit.status for name, unit in shown.units.items()}
    assert units == {f"count sample=s{number}": "complete" for number in range(20)} | {"bad sample=x": "failed"}
