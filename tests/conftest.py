"""What every test must leave behind: nothing."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

from socketpusher import Bus
from socketpusher.channel.ledger import Ledger
from support import profile as profile  # sets up hypothesis
from support.consumer import Consumer
from support.leftovers import described, left_behind
from support.waiting import wait_for

# A runner in the background may have them ignored, and so would every program that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # ignored here, and not in another program


def pytest_collection_finish() -> None:
    """What is imported by now stays, so each test's collection need not look at it: that is most of its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    # Process pools of the tests start it; it keeps a descriptor and stays.
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    before = left_behind()
    yield

    def nothing_is_left() -> bool:
        gc.collect()
        return not left_behind() - before

    try:
        wait_for(nothing_is_left, timeout=20)
    except AssertionError:
        pytest.fail(f"left behind: {sorted(map(described, left_behind() - before))}")


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path that is short enough for a Unix socket, in a directory that is empty at the end."""
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        yield os.path.join(directory, "s")
        assert os.listdir(directory) == []


@pytest.fixture
def consumer(socket_path: str) -> Iterator[Consumer]:
    consumer = Consumer(socket_path)
    yield consumer
    consumer.go_away()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    ledger.close()
