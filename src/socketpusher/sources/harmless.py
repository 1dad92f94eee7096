"""Methods that a host calls: what watches a program must not break it."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

_log = logging.getLogger("socketpusher")


def harmless(method: Method) -> Method:
    """Let a method that returns nothing raise no `Exception` either. The first one is logged; its event is missing."""
    logged = False

    @wraps(method)
    def guarded(*args: Any, **options: Any) -> None:
        nonlocal logged
        try:
            method(*args, **options)
        except Exception:
            if not logged:
                logged = True
                _log.exception("%s failed, so events are missing", method.__qualname__)

    return guarded  # type: ignore[return-value]  # it takes what the method takes
