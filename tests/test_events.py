"""Events, their types, and the bus."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest

from socketpusher import Bus, Event, EventType


def test_an_event_type_is_its_string() -> None:
    assert EventType.ORCH_STARTED == "orch.started"
    assert len(EventType) == 34 + 22
    assert Event(EventType.PR_MERGED) == Event("pr.merged")


FAMILIES = """
    feature.started feature.specs.generated feature.specs.reviewed feature.specs.committed feature.tasks.generated
    feature.units.complete feature.pr.opened feature.completed feature.failed
    codereview.started codereview.passed codereview.issues_found codereview.fix_attempt codereview.fix_applied
    codereview.failed
    prd.discovered prd.selected prd.updated prd.body.changed prd.drift.detected
    unit.skipped unit.progress
"""


def test_the_types_of_the_families_are_known() -> None:
    known = {str(kind) for kind in EventType}
    assert [kind for kind in FAMILIES.split() if kind not in known] == []


def test_handlers_are_called_in_order_in_the_callers_thread(bus: Bus) -> None:
    seen: list[tuple[str, int]] = []
    for name in "abc":
        bus.subscribe(lambda event, name=name: seen.append((name, threading.get_ident())))
    bus.emit(Event("x"))
    assert seen == [(name, threading.get_ident()) for name in "abc"]


def test_emit_stamps_the_time_and_emit_raw_keeps_it(bus: Bus) -> None:
    times: list[datetime | None] = []
    bus.subscribe(lambda event: times.append(event.time))
    old = datetime(2020, 1, 1, tzinfo=UTC)
    before = datetime.now(UTC)
    bus.emit(Event("x", time=old))
    after = datetime.now(UTC)
    bus.emit_raw(Event("x", time=old))
    bus.emit_raw(Event("x"))
    assert times[0] is not None
    assert before <= times[0] <= after
    assert times[0].tzinfo is UTC
    assert times[1:] == [old, None]


def test_a_handler_that_raises_is_logged_and_does_no_harm(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def broken(event: Event) -> None:
        raise ZeroDivisionError("broken handler")

    bus.subscribe(broken)
    bus.subscribe(seen.append)
    with caplog.at_level(logging.ERROR, "socketpusher"):
        bus.emit(Event("x"))
    assert len(seen) == 1
    assert "broken handler" in caplog.text


def test_unsubscribing_ends_one_subscription_and_may_be_repeated(bus: Bus) -> None:
    seen: list[Event] = []
    first, _second = bus.subscribe(seen.append), bus.subscribe(seen.append)
    bus.emit(Event("x"))
    first()
    first()
    bus.emit(Event("x"))
    assert len(seen) == 3


def test_handlers_may_subscribe_unsubscribe_and_emit(bus: Bus) -> None:
    seen: list[str] = []

    def once(event: Event) -> None:
        unsubscribe()
        seen.append(event.type)
        bus.subscribe(lambda event: seen.append("late " + event.type))
        bus.emit(Event("inner"))

    unsubscribe = bus.subscribe(once)
    bus.emit(Event("outer"))
    assert seen == ["outer", "late inner"]  # the new handler is called from the next emit on


def test_subscribing_from_many_threads_loses_none(bus: Bus) -> None:
    calls: list[int] = []

    def work() -> None:
        for _ in range(200):
            bus.subscribe(lambda event: calls.append(1))
            bus.subscribe(lambda event: calls.append(2))()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.emit(Event("x"))
    assert calls == [1] * 1600


def test_a_handler_that_is_not_callable_is_refused(bus: Bus) -> None:
    with pytest.raises(TypeError, match="callable handler"):
        bus.subscribe("print")  # type: ignore[arg-type]


class HandlerError(Exception):
    """What the signal handler below raises."""


def test_what_a_signal_handler_raises_is_let_through(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise HandlerError

    bus.subscribe(lambda event: signal.raise_signal(signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        for emit in (bus.emit, bus.emit_raw):
            with pytest.raises(HandlerError):
                emit(Event("x"))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not caplog.records


def test_an_object_that_is_not_an_event_does_no_harm(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []
    bus.subscribe(lambda event: event.type)
    bus.subscribe(seen.append)
    bus.emit_raw("no event")  # type: ignore[arg-type]
    assert seen == ["no event"]
    assert "raised on 'no event'" in caplog.text


def test_a_log_filter_that_raises_does_no_harm(bus: Bus) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    seen: list[Event] = []
    bus.subscribe(lambda event: 1 / 0)
    bus.subscribe(seen.append)
    logging.getLogger("socketpusher").addFilter(broken)
    try:
        bus.emit(Event("x"))
    finally:
        logging.getLogger("socketpusher").removeFilter(broken)
    assert len(seen) == 1


def interrupted_everywhere(work: Callable[[], object], interruption: Callable[[], object]) -> int:
    """Do the work again and again, interrupted before its 1st, 2nd, ... instruction, until it has no more of them."""
    for place in range(10_000):
        left = place

        def trace(frame: FrameType, what: str, argument: Any) -> Any:
            nonlocal left
            frame.f_trace_opcodes = True
            if what == "opcode":
                left -= 1
                if left == -1:
                    sys.settrace(None)
                    interruption()
            return trace

        sys._getframe().f_trace_opcodes = True  # 3.12 looks here whether anything wants instructions
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)
        if left >= 0:
            return place
    raise AssertionError("the work does not end")


def test_subscriptions_made_or_ended_by_an_interrupt_hold(bus: Bus) -> None:
    """As a signal handler does, or a finalizer."""
    seen: list[str] = []
    kept: list[str] = ["kept"]
    bus.subscribe(lambda event: seen.append("kept"))
    ends: list[Callable[[], None]] = []

    def work() -> None:
        bus.subscribe(lambda event: seen.append("work"))()

    def interruption() -> None:
        ends.pop()()
        bus.subscribe(lambda event: seen.append("new"))
        kept.append("new")

    ends += [bus.subscribe(lambda event: seen.append("ended")) for _ in range(500)]
    places = interrupted_everywhere(work, interruption)
    assert 20 < places < 500
    for end in ends:
        end()
    seen.clear()
    bus.emit(Event("x"))
    assert seen == kept


def test_a_child_forked_while_another_thread_subscribes_can_subscribe(bus: Bus) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            bus.subscribe(print)()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)  # ends the child if it hangs
                seen: list[Event] = []
                bus.subscribe(seen.append)
                bus.emit(Event("x"))
                os._exit(len(seen) - 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
