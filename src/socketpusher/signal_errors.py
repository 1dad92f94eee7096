"""Whose exception it is: one of the code that was called, or one of a signal handler that interrupted it.

Python runs signal handlers between any two instructions of the main thread. What a handler raises comes out of whatever
was running, `Bus.emit` for example. Code that survives every exception of what it calls must let such a one through.
"""

import functools
import signal
from traceback import walk_tb
from types import CodeType, FrameType

_TAKES_MORE = 0x04  # CO_VARARGS of `inspect`, which takes long to import


def raised_by_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler written in Python raised the exception.

    Args:
        error: An exception that was caught; its traceback begins in the frame that caught it.

    Returns:
        Whether a frame of the traceback is that of a handler. There are two signs, for each alone can be missing: it
        was given the frame that it interrupted, which a handler may have deleted since; or it runs the code of a
        handler that is installed, which a handler may have replaced since.
    """
    caught = error.__traceback__
    if caught is None or caught.tb_next is None:
        return False
    # Not the first frame, which is that of whoever asks: that may be a handler itself, one that emits.
    installed = _installed()
    return any(frame.f_code in installed or _was_given_its_caller(frame) for frame, _ in walk_tb(caught.tb_next))


def _was_given_its_caller(frame: FrameType) -> bool:
    code, caller = frame.f_code, frame.f_back
    if caller is None:
        return False
    given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & _TAKES_MORE:
        given += frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount]) or ()
    return any(value is caller for value in given)


def _installed() -> frozenset[CodeType]:
    """The code of the signal handlers that are installed."""
    return frozenset(code for number in signal.valid_signals() if (code := _code(signal.getsignal(number))) is not None)


def _code(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if handler is None or isinstance(handler, int):  # SIG_DFL, SIG_IGN, or one that was not installed by Python
        return None
    for function in (handler, type(handler).__call__):  # what a bound method lacks it asks its function for
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
