"""Tells an exception of a signal handler from one of the code that the handler interrupted.

Python runs signal handlers between any two instructions of the main thread. An exception of a handler comes out of the
code that was running, `Bus.emit` for example. Code that catches every exception must re-raise such an exception.
"""

import functools
import signal
from itertools import pairwise
from traceback import walk_tb
from types import CodeType, FrameType

_CO_VARARGS = 0x04  # as in `inspect`, which is slow to import


def raised_by_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler written in Python raised the exception.

    Args:
        error: An exception that was caught; its traceback begins in the frame that caught it.

    Returns:
        Whether a frame of the traceback belongs to a handler. There are two signs, because each can be missing: the
        frame has a number and its caller's frame as arguments (a handler may delete them), or it runs the code of an
        installed handler (a handler may install another one).
    """
    caught = error.__traceback__
    if caught is None or caught.tb_next is None:
        return False
    # Without the first frame, which is the caller's: that may be a signal handler which emits.
    installed = {code for number in signal.valid_signals() if (code := _code(signal.getsignal(number))) is not None}
    return any(frame.f_code in installed or _has_caller_as_argument(frame) for frame, _ in walk_tb(caught.tb_next))


def _has_caller_as_argument(frame: FrameType) -> bool:
    code, caller = frame.f_code, frame.f_back
    if caller is None:
        return False
    arguments = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & _CO_VARARGS:
        arguments += frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount]) or ()
    return any(value is caller and isinstance(number, int) for number, value in pairwise(arguments))


def _code(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if handler is None or isinstance(handler, int):  # SIG_DFL, SIG_IGN, or not installed by Python
        return None
    for function in (handler, type(handler).__call__):  # a bound method gets `__code__` from its function
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
