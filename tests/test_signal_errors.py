"""What a signal handler raises is told from what the interrupted code raises."""

import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from socketpusher.signal_errors import raised_by_signal_handler


class HandlerError(Exception):
    """What the handlers here raise."""


def plain_handler(signum: int, frame: FrameType | None) -> None:
    raise HandlerError


def that_deletes_its_arguments(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise HandlerError


def that_replaces_itself(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)
    raise HandlerError


def that_takes_any(*args: Any, **more: Any) -> None:
    signal.signal(args[0], signal.SIG_DFL)
    raise HandlerError


def that_keeps_its_arguments(signum: int, frame: FrameType | None) -> None:
    def stop() -> None:
        raise HandlerError(signum, frame)

    signal.signal(signum, signal.SIG_DFL)
    stop()


def with_an_argument(word: str, signum: int, frame: FrameType | None) -> None:
    raise HandlerError(word)


class Handlers:
    def __call__(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise HandlerError

    def method(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise HandlerError


@pytest.fixture
def install() -> Iterator[Callable[[Any], object]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield functools.partial(signal.signal, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


HANDLERS = [
    plain_handler,
    that_deletes_its_arguments,
    that_replaces_itself,
    that_takes_any,
    that_keeps_its_arguments,
    functools.partial(with_an_argument, "stop"),
    Handlers(),
    Handlers().method,
    lambda *_: plain_handler(*_),
]


@pytest.mark.parametrize("handler", HANDLERS)
def test_an_exception_of_a_handler_is_recognized(
    install: Callable[[Any], object], handler: Callable[..., object]
) -> None:
    def interrupted() -> None:
        signal.raise_signal(signal.SIGUSR1)

    install(handler)
    with pytest.raises(HandlerError) as caught:
        interrupted()
    assert raised_by_signal_handler(caught.value)


def test_an_exception_of_a_handler_is_recognized_wherever_it_interrupts() -> None:
    """A timer interrupts the loop at 300 places, in Python and under C."""
    before = signal.signal(signal.SIGALRM, plain_handler)
    told = 0
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                while True:
                    sorted(str(number) for number in range(20))
            except HandlerError as error:
                told += raised_by_signal_handler(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert told == 300


def test_an_exception_of_code_that_a_handler_calls_is_recognized(install: Callable[[Any], object]) -> None:
    """A handler may emit, and a subscriber of the bus may fail on it."""
    told = []

    def emits(signum: int, frame: FrameType | None) -> None:
        try:
            fails()
        except ValueError as error:
            told.append(raised_by_signal_handler(error))

    def fails() -> None:
        raise ValueError

    install(emits)
    signal.raise_signal(signal.SIGUSR1)
    assert told == [False]


LOOKING_AT_FRAMES = "(lambda frame: int('x'))(__import__('sys')._getframe())"  # as a payload's own code may do


@pytest.mark.parametrize(
    "code", ["int('x')", "[].pop()", "(lambda *args: args[1])(0)", "raise KeyError", LOOKING_AT_FRAMES]
)
def test_an_exception_of_other_code_is_not_a_handlers(install: Callable[[Any], object], code: str) -> None:
    install(plain_handler)
    with pytest.raises((ValueError, LookupError)) as caught:
        exec(code)
    assert not raised_by_signal_handler(caught.value)
    assert not raised_by_signal_handler(ValueError("never raised"))


def test_pure_modules_are_imported_without_ctypes() -> None:
    """Some builds of Python have no `_ctypes`."""
    modules = ["wire", "conversion", "events", "graph", "config", "run_state", "signal_errors", "sources.logs"]
    lines = [f"import socketpusher.{module}" for module in modules]
    code = "\n".join(["import sys", "sys.modules['_ctypes'] = None", "import socketpusher", *lines])
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
