"""An interrupt at any bytecode: KeyboardInterrupt, or whatever a signal handler raises or does.

Brute force: a call is made again and again, the n-th time it is interrupted at its n-th point, until it has no more.
CPython runs a signal handler only where it looks at the eval breaker: at the start of a function, at a jump backward,
behind the call of something of C, and inside of a blocking call. These places, and no others, are the points
(`support.interrupts` says how they are found). So a lock of C in a `with` is never left held: CPython does not look
between taking it and the body, or between the body and `__exit__`.

Where a point costs a process, only some are tried by default; `HYPOTHESIS_PROFILE=thorough` tries all, `quick` fewer.
"""

import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from support.interrupts import HungError, Interrupt, Point, Timeout, hang_breaker, raising, watching
from support.leftovers import described, left_behind
from support.profile import spread
from support.recorder import Recorder
from support.waiting import wait_for

if sys.platform != "linux":
    pytest.skip("what is left behind is read from /proc", allow_module_level=True)

UNLIMITED = 1 << 40


@pytest.fixture
def recorder(socket_path: str) -> Iterator[Recorder]:
    recorder = Recorder(socket_path)
    yield recorder
    recorder.remove()


class CountingBus(Bus):
    """A bus that knows how many handlers it has."""

    handlers = 0

    def subscribe(self, handler: Callable[[Event], object]) -> Callable[[], None]:
        unsubscribe = super().subscribe(handler)
        self.handlers += 1
        subscribed = True

        def counted() -> None:
            nonlocal subscribed
            unsubscribe()
            self.handlers -= subscribed
            subscribed = False

        return counted


class PlainBus:
    """A bus that calls its one handler, and catches nothing."""

    def __init__(self) -> None:
        self.emit: Callable[[Event], object] = lambda event: None

    def subscribe(self, handler: Callable[[Event], object]) -> None:
        self.emit = handler


class Host:
    """A pusher, and what it was given. Events are numbered, so that the consumer's record tells what is missing."""

    numbers = itertools.count(1)

    def __init__(self, recorder: Recorder, bus: Any = None, **config: Any) -> None:
        self.recorder = recorder
        self.bus = bus or Bus()
        options: dict[str, Any] = {"buffer_size": UNLIMITED, "event_ids": True, **config}
        self.pusher = SocketPusher(self.bus, PusherConfig(socket_path=recorder.path, reconnect_backoff=0.01, **options))
        self.pusher.set_graph({"a": []}, 1)
        self.sure: list[int] = []  # the numbers of the events whose emit was not interrupted
        self.unsure: set[int] = set()  # the others

    def event(self, payload: Any = None) -> Event:
        return Event("x", task=next(self.numbers), payload=payload)

    def emit(self, payload: Any = None) -> None:
        event = self.event(payload)
        self.bus.emit(event)
        assert event.task is not None
        self.sure.append(event.task)

    def emit_interrupted(self, point: Point, error: type[BaseException], payload: Any = None) -> bool:
        """Whether the interrupt came out of `emit`."""
        event = self.event(payload)
        self.unsure.add(event.task or 0)
        try:
            with point:
                self.bus.emit(event)
        except error:
            return True
        return False

    def abandon(self) -> None:
        """After a failure: end, also what hangs, for the sake of the next trial."""
        pid = self.pusher.stats().writer_pid
        with hang_breaker(), suppress(Exception, HungError):
            self.pusher.close(1)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def signal_writer(self, number: int) -> None:
        pid = self.pusher.stats().writer_pid
        assert pid is not None
        os.kill(pid, number)

    def refuse(self) -> None:
        """Emit to a writer that is stopped, until something is dropped."""
        self.signal_writer(signal.SIGSTOP)
        before = self.pusher.stats().dropped
        for _ in range(300):
            if self.pusher.stats().dropped > before:
                return
            self.emit("x" * 900_000)
        raise AssertionError("270 MB wait for a writer that is stopped, and nothing is dropped")

    def unbalanced(self) -> list[str]:
        """What is wrong with the books of a pusher at rest."""
        stats = self.pusher.stats()
        wrong = stats.emitted != stats.sent + stats.dropped + stats.pending or stats.pending
        return [f"the books: {stats}"] if wrong else []

    def at_rest(self) -> list[str]:
        """What is wrong after an interrupt: the next event must go out, and the books must add up."""
        self.emit()
        if not self.pusher.flush(10):
            return [f"not flushed in 10 s: {self.pusher.stats()}"]
        return self.unbalanced()

    def settled(self) -> list[str]:
        """Close, and compare the books with what the consumer has. What is wrong?"""
        self.pusher.close(10)
        stats = self.pusher.stats()
        problems = self.unbalanced()
        mine = {*self.sure, *self.unsure}

        def received() -> list[dict[str, Any]]:
            return [event for event in self.recorder.events() if event["task"] in mine]

        with suppress(AssertionError):
            wait_for(lambda: len(received()) >= stats.sent, 10)
        events = received()
        numbers = [event["task"] for event in events]
        missing = set(self.sure) - set(numbers)
        if len(numbers) != stats.sent:
            problems.append(f"{len(numbers)} received, {stats.sent} counted as sent")
        if len(missing) > stats.dropped:
            problems.append(f"{stats.dropped} counted as dropped, but missing are {sorted(missing)[:20]}")
        if stats.emitted > len(mine) or stats.emitted < len(self.sure):
            problems.append(
                f"{stats.emitted} counted as emitted of {len(self.sure)} and {len(self.unsure)} interrupted"
            )
        if len(numbers) != len(set(numbers)):
            problems.append("an event came twice")
        if self.pusher.config.event_ids:
            ids = [int(event["id"].rpartition("-")[2]) for event in events]
            if any(later <= earlier for earlier, later in itertools.pairwise(ids)):
                problems.append("ids do not rise")
        return problems


def report(problems: list[str]) -> None:
    """Fail with all problems."""
    if problems:
        pytest.fail(f"{len(problems)} problems\n" + "\n".join(problems), pytrace=False)


def guarded(what: str, trial: Callable[[], list[str]]) -> list[str]:
    """What a trial finds wrong; a call that hangs, or raises what it must not, is a problem too."""
    with hang_breaker():
        try:
            return [f"{what}:\n  {problem}" for problem in trial()]
        except (Exception, HungError, Interrupt) as error:
            return [f"{what}:\n" + "".join(traceback.format_exception(error, limit=-6))]


def sweep(stride: int, action: Callable[[], object], trial: Callable[[Point], list[str]], most: int = 5) -> list[str]:
    """Run the trial with each point of a call, until the call has no such point. What was wrong?

    It ends early after `most` problems, for each may have cost half a minute of waiting.
    """
    problems: list[str] = []
    with watching():
        for n in itertools.count(1, spread(stride)):
            point = Point(n, action)
            found = guarded(f"point {n}", lambda point=point: trial(point))  # type: ignore[misc]
            problems += [f"{point.place}\n {problem}" for problem in found]
            if not point.reached or len(problems) >= most:
                assert n > 1, "no point was found"
                return problems
    raise AssertionError("not reached")


# emit


def due(host: Host) -> None:
    host.pusher.flush(10)
    time.sleep(0.004)


def not_due(host: Host) -> None:
    host.emit()


def after_a_refusal(host: Host) -> None:
    host.refuse()
    host.signal_writer(signal.SIGCONT)
    host.pusher.flush(10)


def while_refusing(host: Host) -> None:
    host.refuse()


CONVERTED = {"path": Path("a"), "set": {1, 2}, 3: 1 << 80, "error": ValueError("no")}

EMITS: dict[str, tuple[Callable[[Host], None], Any, int]] = {
    # what comes before, the payload, the stride
    "a write is due": (due, {"a": 1}, 1),
    "a write was made a moment ago": (not_due, {"a": 1}, 1),
    "the payload is converted": (not_due, CONVERTED, 3),
    "the line is too long": (not_due, "x" * 2_000_000, 3),
    "the first event after a refusal": (after_a_refusal, {"a": 1}, 13),
    "an event that is refused": (while_refusing, {"a": 1}, 13),
}


def emit_at_every_point(
    recorder: Recorder,
    before: Callable[[Host], None],
    payload: Any,
    stride: int,
    error: type[BaseException],
    bus: Callable[[], Any] = Bus,
    **config: Any,
) -> list[str]:
    """The problems after an interrupt at each point of `emit`."""
    host = Host(recorder, bus(), **config)
    host.pusher.start()
    host.emit(payload)  # orjson imports numpy to convert the first one, and swallows interrupts of that

    def trial(point: Point) -> list[str]:
        before(host)
        raised = host.emit_interrupted(point, error, payload)
        with suppress(ProcessLookupError):
            host.signal_writer(signal.SIGCONT)
        found = host.at_rest()
        if point.reached and not raised and issubclass(error, KeyboardInterrupt):
            found.append("the interrupt was swallowed")
        return found

    def trial_and_another_host(point: Point) -> list[str]:
        nonlocal host
        found: list[str] | None = None
        try:
            found = trial(point)
        finally:
            if found != []:
                host.abandon()
                host = Host(recorder, bus(), **config)
                host.pusher.start()
        return found

    problems = sweep(stride, raising(error), trial_and_another_host)
    return problems + guarded("at the end", host.settled)


@pytest.mark.parametrize("situation", EMITS)
def test_a_keyboard_interrupt_at_any_point_of_emit_costs_at_most_that_event(recorder: Recorder, situation: str) -> None:
    report(emit_at_every_point(recorder, *EMITS[situation], Interrupt))


@pytest.mark.parametrize("situation", ["a write is due", "the payload is converted", "the first event after a refusal"])
def test_an_exception_of_a_signal_handler_at_any_point_of_emit_costs_at_most_that_event(
    recorder: Recorder, situation: str
) -> None:
    report(emit_at_every_point(recorder, *EMITS[situation], Timeout, PlainBus))


def test_an_exception_of_a_signal_handler_comes_out_of_emit(recorder: Recorder) -> None:
    """It is the host's own, and the host waits for it. A bus may catch it; the pusher's handler may not."""
    host = Host(recorder, PlainBus())
    host.pusher.start()

    def trial(point: Point) -> list[str]:
        raised = host.emit_interrupted(point, Timeout, {"a": 1})
        return ["it was swallowed"] if point.reached and not raised else []

    report(sweep(1, raising(Timeout), trial, most=100) + guarded("at the end", host.settled))


def test_an_interrupt_at_any_point_of_emit_without_ids_costs_at_most_that_event(recorder: Recorder) -> None:
    report(emit_at_every_point(recorder, due, {"a": 1}, 2, Interrupt, event_ids=False))


def test_an_interrupt_at_any_point_of_emit_beside_other_threads_costs_at_most_that_event(recorder: Recorder) -> None:
    """One that emits too, and one that never gives up the GIL by itself, so that the pusher's thread comes late."""
    host = Host(recorder)
    host.pusher.start()
    other = Host(recorder)  # its events go to the same bus
    other.bus = host.bus
    over = threading.Event()

    def emit() -> None:
        while not over.wait(0.001):
            other.emit({"a": 1})

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    def trial(point: Point) -> list[str]:
        host.emit_interrupted(point, Interrupt, {"a": 1})
        host.emit()
        return [] if host.pusher.flush(10) else [f"not flushed in 10 s: {host.pusher.stats()}"]

    threads = [threading.Thread(target=work) for work in (emit, compute)]
    for thread in threads:
        thread.start()
    try:
        problems = sweep(2, raising(Interrupt), trial, most=1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    host.sure += other.sure
    report(problems + guarded("at the end", host.settled))


def test_an_interrupt_at_any_point_of_emit_while_the_pipe_is_full_costs_at_most_that_event(recorder: Recorder) -> None:
    host = Host(recorder)
    host.pusher.start()
    host.signal_writer(signal.SIGSTOP)
    for _ in range(3000):
        host.emit("x" * 1000)

    def trial(point: Point) -> list[str]:
        host.emit_interrupted(point, Interrupt, {"a": 1})
        host.emit()
        return []

    problems = sweep(1, raising(Interrupt), trial)
    host.signal_writer(signal.SIGCONT)
    problems += guarded("when the writer goes on", host.at_rest)
    report(problems + guarded("at the end", host.settled))


def test_real_signals_that_raise_while_20000_events_are_emitted_cost_at_most_the_interrupted_ones(
    recorder: Recorder,
) -> None:
    """A timer at random microseconds. Its handler raises only inside of `emit`, so that the test itself is not hit."""
    chance = random.Random(5)
    host = Host(recorder)
    host.pusher.start()
    package = os.path.dirname(sys.modules["socketpusher"].__file__ or "")
    interrupts = 0
    deadline = time.monotonic() + 60

    def on_alarm(number: int, frame: Any) -> None:
        if time.monotonic() > deadline:
            raise HungError("hung for a minute:\n" + "".join(traceback.format_stack(frame)))
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 600e-6), 1.0)
        if frame.f_code.co_filename.startswith(package):
            nonlocal interrupts
            interrupts += 1
            raise Interrupt

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1.0)
    try:
        for _ in range(20_000):
            event = host.event({"a": 1})
            try:
                host.bus.emit(event)
            except Interrupt:
                host.unsure.add(event.task or 0)
            else:
                host.sure.append(event.task or 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    problems = guarded(f"after {interrupts} interrupts", host.at_rest)
    report(problems + guarded(f"at the end, after {interrupts} interrupts", host.settled))
    assert interrupts > 100


# start, flush and close


def left(before: set[str]) -> list[str]:
    """What is left that was not there, after some patience; and its processes are ended, for the next trial."""
    gc.collect()
    with suppress(AssertionError):
        wait_for(lambda: not left_behind() - before, 8)
    found = sorted(left_behind() - before)
    said = list(map(described, found))
    for name in found:
        if name.startswith("process "):
            with suppress(ProcessLookupError):
                os.kill(int(name.split()[1]), signal.SIGKILL)
    return [f"left behind: {said}"] if found else []


@pytest.mark.parametrize("after", ["start again", "close", "collected"])
@pytest.mark.parametrize("wait", [True, False])
def test_an_interrupt_at_any_point_of_start_leaves_nothing(recorder: Recorder, wait: bool, after: str) -> None:
    def trial(point: Point) -> list[str]:
        before = left_behind()
        found = interrupted_start(point)
        return found + left(before)

    def interrupted_start(point: Point) -> list[str]:
        bus = CountingBus()
        host: Host | None = Host(recorder, bus)
        assert host is not None
        raised = False
        try:
            with point:
                host.pusher.start(20, wait=wait)
        except Interrupt:
            raised = True
        found = ["the interrupt was swallowed"] if point.reached and not raised else []
        if after == "start again":
            with suppress(RuntimeError):  # it was started when the interrupt came
                host.pusher.start(20)
            found += [*host.at_rest(), *host.settled()]
        elif after == "close":
            host.pusher.close(10)
        host = None
        gc.collect()
        if bus.handlers:
            found.append(f"{bus.handlers} handlers are subscribed")
        return found

    report(sweep(89, raising(Interrupt), trial))


@pytest.mark.parametrize("writer", ["runs", "is stopped"])
def test_an_interrupted_flush_can_be_called_again(recorder: Recorder, writer: str) -> None:
    host = Host(recorder)
    host.pusher.start()

    def trial(point: Point) -> list[str]:
        if writer == "is stopped":
            host.signal_writer(signal.SIGSTOP)
        host.emit()
        raised = False
        try:
            with point:
                host.pusher.flush(0.05 if writer == "is stopped" else 10)
        except Interrupt:
            raised = True
        host.signal_writer(signal.SIGCONT)
        found = host.at_rest()
        if point.reached and not raised:
            found.append("the interrupt was swallowed")
        return found

    problems = sweep(1, raising(Interrupt), trial, most=1)
    problems += guarded("at the end", host.settled)
    if problems:
        host.abandon()
    report(problems)


def test_an_interrupted_close_can_be_called_again(recorder: Recorder) -> None:
    def trial(point: Point) -> list[str]:
        before = left_behind()
        host = Host(recorder)
        host.pusher.start()
        for _ in range(20):
            host.emit({"a": 1})
        raised = False
        try:
            with point:
                host.pusher.close(10)
        except Interrupt:
            raised = True
        found = host.settled()  # which closes
        if set(host.sure) - {event["task"] for event in recorder.events()}:
            found.append(f"close gave up events before its deadline: {host.pusher.stats()}")
        if point.reached and not raised:
            found.append("the interrupt was swallowed")
        return found + left(before)

    report(sweep(11, raising(Interrupt), trial))


# A handler that uses the pusher itself


def emits(host: Host) -> None:
    host.emit()


def flushes(host: Host) -> None:
    with suppress(RuntimeError):  # not started yet, or closed
        host.pusher.flush(0.1)


def closes(host: Host) -> None:
    host.pusher.close(1)


CALLS: dict[str, Callable[[Host], object]] = {
    "emit": lambda host: host.bus.emit(Event("x", task=next(host.numbers))),
    "flush": lambda host: host.pusher.flush(10),
    "close": lambda host: host.pusher.close(10),
    "start": lambda host: host.pusher.start(10),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("handler", [emits, flushes, closes])
def test_a_signal_handler_may_use_the_pusher_at_any_point(
    recorder: Recorder, call: str, handler: Callable[[Host], None]
) -> None:
    host: Host | None = None
    took = 0.0

    def action() -> None:
        nonlocal took
        assert host is not None
        began = time.monotonic()
        handler(host)
        took = time.monotonic() - began

    def trial(point: Point) -> list[str]:
        nonlocal host, took
        before = left_behind()
        took = 0.0
        host = Host(recorder)
        if call != "start":
            host.pusher.start()
            host.emit()
        with suppress(RuntimeError), point:  # that it is closed
            CALLS[call](host)
        found = [f"the handler took {took:.1f} s"] if took > 8 else []
        host.pusher.close(10)
        found += host.unbalanced()
        host = None
        return found + left(before)

    report(sweep(151 if call == "start" else 43, action, trial, most=3))
