"""Events, their types, and the bus."""

import logging
import threading
from datetime import UTC, datetime

import pytest

from socketpusher import Bus, Event, EventType


def test_an_event_type_is_its_string() -> None:
    assert EventType.ORCH_STARTED == "orch.started"
    assert len(EventType) == 34
    assert Event(EventType.PR_MERGED) == Event("pr.merged")


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


def test_a_handler_that_raises_is_logged_and_hurts_nobody(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
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


def test_what_can_not_be_called_is_refused(bus: Bus) -> None:
    with pytest.raises(TypeError, match="callable handler"):
        bus.subscribe("print")  # type: ignore[arg-type]
