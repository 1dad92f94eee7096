"""Events, the known event types, and the bus that passes events to handlers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from .signal_errors import raised_by_signal_handler

logger = logging.getLogger("socketpusher")


class EventType(StrEnum):
    """The event types that known consumers understand. Any other string is a valid type too."""

    ORCH_STARTED = "orch.started"
    ORCH_COMPLETED = "orch.completed"
    ORCH_FAILED = "orch.failed"
    ORCH_DRYRUN_STARTED = "orch.dryrun.started"
    ORCH_DRYRUN_COMPLETED = "orch.dryrun.completed"

    UNIT_QUEUED = "unit.queued"
    UNIT_STARTED = "unit.started"
    UNIT_COMPLETED = "unit.completed"
    UNIT_MERGED = "unit.merged"
    UNIT_FAILED = "unit.failed"
    UNIT_BLOCKED = "unit.blocked"
    UNIT_SKIPPED = "unit.skipped"
    """The unit is up to date, was found in a cache, or was left out."""
    UNIT_PROGRESS = "unit.progress"
    """The progress of a unit: the payload has the ints `done` and `total`, and `message`."""

    TASK_STARTED = "task.started"
    TASK_CLAUDE_INVOKE = "task.claude.invoke"
    TASK_CLAUDE_DONE = "task.claude.done"
    TASK_BACKPRESSURE = "task.backpressure"
    TASK_VALIDATION_OK = "task.validation.ok"
    TASK_VALIDATION_FAIL = "task.validation.fail"
    TASK_COMMITTED = "task.committed"
    TASK_COMPLETED = "task.completed"
    TASK_RETRY = "task.retry"
    TASK_FAILED = "task.failed"

    PR_CREATED = "pr.created"
    PR_REVIEW_PENDING = "pr.review.pending"
    PR_REVIEW_IN_PROGRESS = "pr.review.in_progress"
    PR_REVIEW_APPROVED = "pr.review.approved"
    PR_FEEDBACK_RECEIVED = "pr.feedback.received"
    PR_FEEDBACK_ADDRESSED = "pr.feedback.addressed"
    PR_MERGE_QUEUED = "pr.merge.queued"
    PR_CONFLICT = "pr.conflict"
    PR_MERGED = "pr.merged"
    PR_FAILED = "pr.failed"

    WORKTREE_CREATED = "worktree.created"
    WORKTREE_REMOVED = "worktree.removed"
    BRANCH_PUSHED = "branch.pushed"

    FEATURE_STARTED = "feature.started"
    FEATURE_SPECS_GENERATED = "feature.specs.generated"
    FEATURE_SPECS_REVIEWED = "feature.specs.reviewed"
    FEATURE_SPECS_COMMITTED = "feature.specs.committed"
    FEATURE_TASKS_GENERATED = "feature.tasks.generated"
    FEATURE_UNITS_COMPLETE = "feature.units.complete"
    FEATURE_PR_OPENED = "feature.pr.opened"
    FEATURE_COMPLETED = "feature.completed"
    FEATURE_FAILED = "feature.failed"

    CODEREVIEW_STARTED = "codereview.started"
    CODEREVIEW_PASSED = "codereview.passed"
    CODEREVIEW_ISSUES_FOUND = "codereview.issues_found"
    CODEREVIEW_FIX_ATTEMPT = "codereview.fix_attempt"
    CODEREVIEW_FIX_APPLIED = "codereview.fix_applied"
    CODEREVIEW_FAILED = "codereview.failed"

    PRD_DISCOVERED = "prd.discovered"
    PRD_SELECTED = "prd.selected"
    PRD_UPDATED = "prd.updated"
    PRD_BODY_CHANGED = "prd.body.changed"
    PRD_DRIFT_DETECTED = "prd.drift.detected"


@dataclass(slots=True)
class Event:
    """One thing that happened in the orchestrator.

    Args:
        type: What happened: an `EventType` or any other string.
        unit: The unit that it happened to, or "" for the whole run.
        task: The task inside the unit, counted from 1, or None.
        pr: The number of a pull request, or None.
        payload: Anything that JSON can express. Other objects are converted, see `socketpusher.wire.encode`.
        error: What went wrong, or "".
        time: When it happened, an aware `datetime`; `Bus.emit` sets it.
    """

    type: str
    unit: str = ""
    task: int | None = None
    pr: int | None = None
    payload: Any = None
    error: str = ""
    time: datetime | None = None


Handler = Callable[[Event], object]


class Bus:
    """Passes each event to all handlers, in the order of their subscription, in the caller's thread.

    Emitting, subscribing and unsubscribing are safe from any thread, and from a handler, a signal handler or a
    finalizer. If a handler raises, the exception is logged, and the caller and the other handlers go on. An exception
    of a signal handler that runs meanwhile reaches the caller.
    """

    def __init__(self) -> None:
        # There is no lock: a signal handler could wait for it for ever, and a forked child could inherit it held. Each
        # change of the dict is one operation in C; `emit` only iterates over the tuple, which is a copy of it.
        self._subscriptions: dict[object, Handler] = {}  # unique keys, because a handler may subscribe twice
        self._handlers: tuple[Handler, ...] = ()

    def subscribe(self, handler: Handler) -> Callable[[], None]:
        """Call `handler(event)` for every event from now on.

        Returns:
            A function that ends the subscription; calling it again does nothing.

        Raises:
            TypeError: `handler` can't be called.
        """
        if not callable(handler):
            raise TypeError(f"Bus.subscribe needs a callable handler, not {handler!r}")
        key = object()

        def unsubscribe() -> None:
            self._subscriptions.pop(key, None)
            self._update_handlers()

        self._subscriptions[key] = handler
        self._update_handlers()
        return unsubscribe

    def _update_handlers(self) -> None:
        """Copy the handlers from the dict into the tuple, even if the dict changes meanwhile."""
        while True:
            subscriptions = self._subscriptions.copy()
            self._handlers = tuple(subscriptions.values())
            if subscriptions.keys() == self._subscriptions.keys():
                return

    def emit(self, event: Event) -> None:
        """Set `event.time` to now, in UTC, and pass the event to every handler."""
        event.time = datetime.now(UTC)
        for handler in self._handlers:  # not through emit_raw: the call would add 4 % to an emit
            try:
                handler(event)
            except Exception as error:
                _log_raised(error, handler, event)

    def emit_raw(self, event: Event) -> None:
        """Pass the event to every handler, with the time that it has."""
        for handler in self._handlers:
            try:
                handler(event)
            except Exception as error:
                _log_raised(error, handler, event)


def _log_raised(error: Exception, handler: Handler, event: object) -> None:
    if raised_by_signal_handler(error):
        raise error
    try:
        logger.exception("a handler of the event bus raised on %r: %r", getattr(event, "type", event), handler)
    except Exception as another:  # of a logging handler, or of a `__repr__`
        if raised_by_signal_handler(another):
            raise
