"""Interrupts a call at its n-th point where CPython may run a signal handler.

CPython 3.11 to 3.13 runs signal handlers where it looks at the eval breaker: at the start of a Python function and
when a generator is resumed (RESUME), at a jump backward, and behind the call of something that is not a Python
function; the blocking calls of C look too, while they wait. It does not look between BEFORE_WITH and the body of a
`with`, between the body and the call of `__exit__`, or between the return of a Python function and the next
instruction. So `with lock:` on a lock of C is safe, and nothing is raised there. `sys.monitoring` has an event for
exactly each of these places (PY_START, PY_RESUME, JUMP, C_RETURN, and CALL for a call that waits), and an exception
of its callback has the same offset in the exception table as that of a handler; tracing by line or opcode would raise
one instruction too late, outside of a `try` that ends with the call.

Python 3.11 has no `sys.monitoring`. `sys.setprofile` gives the same places but for jumps and the calls of classes.

"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import socketpusher

WAITING = {"acquire", "poll", "select", "recv", "recvmsg", "accept", "connect", "waitpid", "sleep", "join"}
"""Calls of C that look for signals while they wait: a handler may raise in their place."""

_FILES = (
    os.path.dirname(socketpusher.__file__) + os.sep,
    os.path.dirname(multiprocessing.__file__) + os.sep,
    threading.__file__,
    subprocess.__file__,
    contextlib.__file__,
)
"""The package, and what it waits in and starts processes by. Not logging: an interrupt does the same to a lock of
logging with and without a pusher."""

_C_FUNCTIONS = (types.BuiltinFunctionType, types.MethodDescriptorType)


class Interrupt(KeyboardInterrupt):
    """What Ctrl-C raises."""


class Timeout(Exception):  # noqa: N818  # named as what hosts raise from SIGALRM
    """What a host's own signal handler raises, an ordinary exception."""


class HungError(BaseException):
    """A call took so long that it counts as hung."""


class Point:
    """Counts the points that the calling thread passes, and calls `action` at the n-th.

    Args:
        n: Which point, from 1.
        action: May raise, as a signal handler may.

    Used as a context manager around the call.
    """

    def __init__(self, n: int, action: Callable[[], object]) -> None:
        self._n = n
        self._action = action
        self._thread = threading.get_ident()
        self._passed = 0
        self.place = ""  # where the action was called; "" if the call has fewer points

    @property
    def reached(self) -> bool:
        return bool(self.place)

    def __enter__(self) -> "Point":
        _arm(self)
        return self

    def __exit__(self, *_: object) -> None:
        _arm(None)

    def passed(self, what: str) -> None:
        """One more point was passed."""
        if threading.get_ident() != self._thread or self.reached:
            return
        self._passed += 1
        if self._passed == self._n:
            frames = traceback.extract_stack(sys._getframe(2), limit=4)
            self.place = f"point {self._n}, {what}: " + " < ".join(
                f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in reversed(frames)
            )
            self._action()


def raising(error: type[BaseException]) -> Callable[[], object]:
    def handler(signum: int, frame: types.FrameType) -> None:
        raise error("at this point")

    return lambda: handler(signal.SIGUSR1, sys._getframe())


def _is_traced(code: types.CodeType) -> bool:
    return code.co_filename.startswith(_FILES)


def _waits(function: object) -> bool:
    return isinstance(function, _C_FUNCTIONS) and function.__name__ in WAITING


if sys.version_info >= (3, 12):
    _TOOL = 4
    _armed: Point | None = None  # a callback reads it once: other threads come here as well, and must not fail

    def _arm(point: Point | None) -> None:
        global _armed
        _armed = point

    def _on_start(code: types.CodeType, offset: int) -> object:
        if not _is_traced(code):
            return sys.monitoring.DISABLE
        if (armed := _armed) is not None:
            armed.passed("start")
        return None

    def _on_jump(code: types.CodeType, offset: int, target: int) -> object:
        if not _is_traced(code) or target > offset:
            return sys.monitoring.DISABLE
        if (armed := _armed) is not None:
            armed.passed("jump")
        return None

    def _on_call(code: types.CodeType, offset: int, function: Any, first: object) -> object:
        if not _is_traced(code):
            return sys.monitoring.DISABLE
        if (armed := _armed) is not None and _waits(function):
            armed.passed(f"in {function.__name__}")
        return None

    def _on_return(code: types.CodeType, offset: int, function: Any, first: object) -> None:
        if (armed := _armed) is not None and _is_traced(code):
            armed.passed(f"behind {getattr(function, '__qualname__', function)}")

    @contextlib.contextmanager
    def watching() -> Iterator[None]:
        """To be entered once around any number of `Point`s."""
        monitoring = sys.monitoring
        events = monitoring.events
        monitoring.use_tool_id(_TOOL, "interrupts")
        monitoring.register_callback(_TOOL, events.PY_START, _on_start)
        monitoring.register_callback(_TOOL, events.PY_RESUME, _on_start)
        monitoring.register_callback(_TOOL, events.JUMP, _on_jump)
        monitoring.register_callback(_TOOL, events.CALL, _on_call)
        monitoring.register_callback(_TOOL, events.C_RETURN, _on_return)
        monitoring.set_events(_TOOL, events.PY_START | events.PY_RESUME | events.JUMP | events.CALL)
        try:
            yield
        finally:
            monitoring.set_events(_TOOL, 0)
            monitoring.free_tool_id(_TOOL)
            monitoring.restart_events()

else:

    def _arm(point: Point | None) -> None:
        if point is None:
            sys.setprofile(None)
            return

        def profile(frame: types.FrameType, event: str, function: object) -> None:
            if not _is_traced(frame.f_code):
                return
            if event == "call":
                point.passed("start")
            elif event == "c_return":
                point.passed(f"behind {function.__qualname__}")  # type: ignore[attr-defined]
            elif event == "c_call" and _waits(function):
                point.passed(f"in {function.__name__}")  # type: ignore[attr-defined]

        sys.setprofile(profile)

    @contextlib.contextmanager
    def watching() -> Iterator[None]:
        """To be entered once around any number of `Point`s."""
        yield


@contextlib.contextmanager
def hang_breaker(seconds: float = 20.0) -> Iterator[Callable[[], None]]:
    """Raises `HungError` with the stacks of all threads if the time passes. Yields what starts the time anew."""

    def on_alarm(*_: object) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            raise HungError(f"hung for {seconds:g} s:\n{file.read()}")

    def rewind() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again, should the first one be lost in a finalizer

    before = signal.signal(signal.SIGALRM, on_alarm)
    rewind()
    try:
        yield rewind
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
