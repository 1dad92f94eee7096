"""What a logging handler raises when the caller of `close` writes what no thread has written."""

import logging
import signal
import threading
from collections.abc import Iterator

import pytest

from socketpusher.host.log import Log
from support.waiting import wait_for


class Leaving(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(7)


class Signalling(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        signal.raise_signal(signal.SIGUSR1)


@pytest.fixture
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """It has something to say, and the system has no thread for it."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    handler = request.param()
    logger = logging.getLogger("socketpusher")
    logger.addHandler(handler)
    log = Log()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        log.write(logging.WARNING, "something")
    yield log
    logger.removeHandler(handler)


@pytest.mark.parametrize("log", [Leaving], indirect=True)
def test_a_logging_handler_can_not_make_the_caller_of_close_exit(log: Log) -> None:
    log.flush()


@pytest.mark.parametrize("log", [Signalling], indirect=True)
@pytest.mark.parametrize("error", [SystemExit, ValueError, KeyboardInterrupt])
def test_an_exception_of_a_signal_handler_is_not_swallowed(log: Log, error: type[BaseException]) -> None:
    def on_signal(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with pytest.raises(error):
            log.flush()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_record_that_comes_while_the_thread_ends_is_written(caplog: pytest.LogCaptureFixture) -> None:
    wrote_first, may_end = threading.Event(), threading.Event()

    class Ending(Log):
        def _write_records(self) -> None:
            super()._write_records()
            wrote_first.set()
            may_end.wait(30)

    log = Ending()
    log.write(logging.WARNING, "first")
    assert wrote_first.wait(30)
    log.write(logging.WARNING, "second")
    may_end.set()
    wait_for(lambda: "second" in caplog.text)
