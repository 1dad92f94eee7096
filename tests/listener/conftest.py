"""A listener that waits for what has come already must not wait for ever."""

import signal
import types
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    def ring(number: int, frame: types.FrameType | None) -> None:
        raise TimeoutError("the test took too long")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
