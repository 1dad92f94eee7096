"""A Snakemake workflow as a run: a job is a unit.

Snakemake tells its logger plugins, in records of `logging`, what happens to its jobs. It does not tell them which job
needs which, so there is no graph: a unit becomes known when its job starts.
"""

import logging
import re
from datetime import UTC, datetime
from typing import Any

from ..events import Bus, Event, EventType

MAX_ERROR = 2000
"""How much of an error is kept, in characters: one may list thousands of files."""


class WorkflowEvents:
    """Emits what the log records of a workflow say.

    | record | event |
    |---|---|
    | `run_info` | `orch.started`, payload `unit_count`, `parallelism` |
    | `job_info`: a job starts | `unit.started`, payload `rule`, `job`, `wildcards`, `threads`, `reason` |
    | `job_finished` | `unit.completed` |
    | `job_error`, or the output of a job is missing | `unit.failed`; a retry is `unit.started` again |
    | an error that is logged | `log.error`, payload `message` |
    | the end of the workflow | `orch.completed` or `orch.failed` |

    A unit is named by its rule and wildcards, "count sample=a", or by its rule and number if that is not unique. A dry
    run has only `orch.dryrun.started` and `orch.dryrun.completed`. Events have the times of the records.

    Args:
        bus: Where to emit.
        dry_run: Whether the workflow is only planned.
    """

    def __init__(self, bus: Bus, dry_run: bool = False) -> None:
        self._bus = bus
        self._dry_run = dry_run
        self._cores = 0
        self._total = 0  # of the jobs; a checkpoint adds some
        self._units: dict[int, str] = {}  # by the numbers of the jobs
        self._jobs: dict[str, int] = {}  # by the names of the units, the job that has the name
        self._running: set[str] = set()
        self._failed: dict[str, str] = {}  # why
        self._completed = 0
        self._error = ""  # the last one; that of a job is logged before its `job_error`
        self._error_is_last = False  # no job started or ended after it, so it is the workflow's own
        self._begun = False
        self._time: datetime | None = None  # of the record that is handled

    def handle(self, record: logging.LogRecord) -> None:
        """Emit what a record says."""
        fields = vars(record)
        self._time = datetime.fromtimestamp(record.created, UTC)
        kind = str(fields.get("event", ""))
        if kind in ("error", "job_info", "job_finished", "job_error"):
            self._error_is_last = kind == "error"
        match kind:
            case "resources_info":
                self._cores = fields.get("cores") or self._cores
            case "run_info":
                self._begin(int((fields.get("stats") or {}).get("total", 0)))
            case "progress":
                self._total = fields["total"]
            case "job_info" if not self._dry_run:
                self._start(fields)
            case "job_finished":
                self._finish(fields["job_id"])
            case "job_error":
                self._fail(fields)
            case "error":
                self._error = record.getMessage()
                self._log(record)
                missing = fields.get("exception") == "MissingOutputException"  # for which there is no `job_error`
                if missing and (number := re.search(r"^Job (\d+)\s", self._error, re.MULTILINE)):
                    self._fail({"jobid": int(number[1]), "rule_msg": self._error})
            case "" if record.levelno >= logging.ERROR:
                self._log(record)

    def end(self) -> None:
        """Emit the end of the run, and what became of jobs that were running."""
        self._time = datetime.now(UTC)
        self._begin(0)
        if self._dry_run:
            self._emit(Event(EventType.ORCH_DRYRUN_COMPLETED))
            return
        for unit in sorted(self._running):
            self._failed[unit] = "it was still running when the workflow ended"
            self._emit(Event(EventType.UNIT_FAILED, unit, error=self._failed[unit]))
        jobs = max(self._total, len(self._units))  # `progress` follows only when a job has completed
        payload = {"jobs": jobs, "completed": self._completed, "failed": len(self._failed)}
        error = ""
        if self._failed:
            unit, reason = next(iter(self._failed.items()))
            error = f"{len(self._failed)} of {jobs} jobs failed; {unit}: {reason}"
        elif self._completed < jobs or self._error_is_last:
            error = _in_a_line(self._error) or f"ended after {self._completed} of {jobs} jobs"
        if error:
            self._emit(Event(EventType.ORCH_FAILED, payload=payload, error=error))
        else:
            self._emit(Event(EventType.ORCH_COMPLETED, payload=payload))

    def _emit(self, event: Event) -> None:
        event.time = self._time
        self._bus.emit_raw(event)

    def _begin(self, total: int) -> None:
        if self._begun:
            return
        self._begun, self._total = True, total
        payload = {"unit_count": total, "parallelism": self._cores}
        kind = EventType.ORCH_DRYRUN_STARTED if self._dry_run else EventType.ORCH_STARTED
        self._emit(Event(kind, payload=payload))

    def _start(self, fields: dict[str, Any]) -> None:
        self._begin(0)
        job, rule = fields["jobid"], str(fields.get("rule_name", "job"))
        wildcards = {str(key): str(value) for key, value in dict(fields.get("wildcards") or {}).items()}
        unit = " ".join([rule, *(f"{key}={value}" for key, value in wildcards.items())])
        if self._jobs.setdefault(unit, job) != job:
            unit = f"{rule} {job}"
        self._units[job] = unit
        self._running.add(unit)
        self._failed.pop(unit, None)
        payload = {"rule": rule, "job": job, "wildcards": wildcards}
        payload |= {key: fields[key] for key in ("threads", "reason") if fields.get(key)}
        self._emit(Event(EventType.UNIT_STARTED, unit, payload=payload))

    def _finish(self, job: int) -> None:
        unit = self._units.setdefault(job, f"job {job}")
        self._running.discard(unit)
        self._failed.pop(unit, None)
        self._completed += 1
        self._emit(Event(EventType.UNIT_COMPLETED, unit))

    def _fail(self, fields: dict[str, Any]) -> None:
        job = fields["jobid"]
        unit = self._units.setdefault(job, f"{fields.get('rule_name', 'job')} {job}")
        reason = _in_a_line(str(fields.get("rule_msg") or "")) or "the rule failed"
        if (command := str(fields.get("shellcmd") or "")) and command in self._error:
            reason = f"exit status {self._error.rstrip('.').rpartition(' ')[2]} of: {command}"
        if logs := list(fields.get("log") or ()):
            reason += f"; log: {', '.join(map(str, logs))}"
        self._running.discard(unit)
        self._failed[unit] = reason
        self._emit(Event(EventType.UNIT_FAILED, unit, error=reason))

    def _log(self, record: logging.LogRecord) -> None:
        self._emit(Event("log.error", payload={"logger": record.name, "message": record.getMessage()}))


def _in_a_line(error: str) -> str:
    """An error without the lines of its traceback, and not longer than a few lines."""
    return " ".join(re.sub(r'^(Traceback|  File ").*', "", error, flags=re.MULTILINE).split())[:MAX_ERROR]
