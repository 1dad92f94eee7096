"""The handler, on real loggers."""

import json
import logging
import logging.config
import logging.handlers
import pickle
import queue
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, wire
from socketpusher.sources.logs import BusHandler
from support import producer_script
from support.consumer import Consumer


@pytest.fixture
def events(bus: Bus) -> list[Event]:
    """All that is emitted, as it comes."""
    events: list[Event] = []
    bus.subscribe(events.append)
    return events


@pytest.fixture
def root(bus: Bus) -> Iterator[logging.Logger]:
    """The root logger, with a `BusHandler`."""
    root = logging.getLogger()
    handler = BusHandler(bus)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield root
    root.setLevel(level)
    root.removeHandler(handler)


@pytest.fixture
def logger(root: logging.Logger) -> logging.Logger:
    return logging.getLogger("builder.app")


def test_a_record_is_an_event(logger: logging.Logger, events: list[Event]) -> None:
    before = datetime.now(UTC)
    logger.warning("%d of %s", 3, "app")
    (event,) = events
    assert event.type == "log.warning"
    line = event.payload.pop("line")
    assert event.payload == {"logger": "builder.app", "message": "3 of app", "file": __file__}
    assert "logger.warning" in Path(__file__).read_text().splitlines()[line - 1]
    assert (event.unit, event.error) == ("", "")
    assert before.timestamp() - 0.01 < event.time.timestamp() <= datetime.now(UTC).timestamp()


def test_levels_have_their_names(logger: logging.Logger, events: list[Event]) -> None:
    for level in (logging.DEBUG, logging.INFO, logging.ERROR, logging.CRITICAL, 33):
        logger.log(level, "x")
    assert [event.type for event in events] == ["log.info", "log.error", "log.critical", "log.level 33"]


def test_the_traceback_of_a_record_is_its_error(logger: logging.Logger, events: list[Event]) -> None:
    try:
        int("x")
    except ValueError:
        logger.exception("it failed")
    logger.error("without an exception", exc_info=True)
    assert events[0].error.startswith("Traceback ")
    assert events[0].error.endswith("ValueError: invalid literal for int() with base 10: 'x'")
    assert events[0].payload["message"] == "it failed"
    assert events[1].error == ""


def test_a_record_may_name_its_unit(logger: logging.Logger, events: list[Event]) -> None:
    logger.info("x", extra={"unit": "app"})
    logger.info("x", extra={"unit": None})
    assert [event.unit for event in events] == ["app", ""]


def test_what_a_signal_handler_raises_is_let_through(logger: logging.Logger, bus: Bus) -> None:
    class HandlerError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise HandlerError

    bus.subscribe(lambda event: signal.raise_signal(signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(HandlerError):
            logger.info("x")
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_message_is_what_it_was_when_it_was_logged(logger: logging.Logger, events: list[Event]) -> None:
    files = ["a"]
    logger.info("%s", files)
    files.append("b")
    assert events[0].payload["message"] == "['a']"


def failed_record() -> logging.LogRecord:
    try:
        raise ValueError("no disk")
    except ValueError:
        return logging.LogRecord("a", logging.ERROR, "f", 1, "it failed", (), sys.exc_info())


def test_a_record_that_comes_through_a_queue_keeps_its_time(bus: Bus, events: list[Event]) -> None:
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    record = failed_record()
    record.created = 1_000_000_000.5
    logging.handlers.QueueHandler(records).handle(record)
    BusHandler(bus).handle(records.get())
    assert events[0].time == datetime(2001, 9, 9, 1, 46, 40, 500_000, UTC)
    assert events[0].payload["message"].endswith("ValueError: no disk")  # where such a handler puts it


def test_a_record_that_comes_from_another_process_keeps_its_traceback(bus: Bus, events: list[Event]) -> None:
    sent = logging.handlers.SocketHandler("localhost", None).makePickle(failed_record())
    BusHandler(bus).handle(logging.makeLogRecord(pickle.loads(sent[4:])))
    assert events[0].payload["message"] == "it failed"
    assert events[0].error.endswith("ValueError: no disk")


def test_what_can_not_be_formatted_is_reported_and_raises_nothing(
    bus: Bus, events: list[Event], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("alone")
    monkeypatch.setattr(logger, "handlers", [BusHandler(bus)])
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler raises
    logger.warning("%d", "x")
    logger.warning("next")
    assert [event.payload["message"] for event in events] == ["next"]
    assert "--- Logging error ---" in capsys.readouterr().err


# Records that would breed


def test_a_bus_handler_that_logs_does_not_hear_itself(bus: Bus, logger: logging.Logger, events: list[Event]) -> None:
    bus.subscribe(lambda event: logging.getLogger("audit").info("seen %s", event.type))
    logger.info("x")
    assert [event.payload["logger"] for event in events] == ["builder.app"]
    logger.info("y")
    assert len(events) == 2


def test_a_bus_handler_that_raises_is_logged_once_an_event(
    bus: Bus, logger: logging.Logger, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    bus.subscribe(lambda event: 1 // 0)
    logger.info("x")
    assert [event.type for event in events] == ["log.info"]
    assert [record.name for record in caplog.records] == ["socketpusher", "builder.app"]


def test_what_the_package_logs_is_not_emitted(root: logging.Logger, events: list[Event]) -> None:
    logging.getLogger("socketpusher").warning("a consumer is falling behind")
    logging.getLogger("socketpusher.part").warning("the same")
    logging.getLogger("socketpushers").warning("somebody else")
    assert [event.payload["logger"] for event in events] == ["socketpushers"]


# As users set it up


def test_it_can_be_configured_by_a_dictionary(bus: Bus, events: list[Event]) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"bus": {"()": "socketpusher.sources.logs.BusHandler", "bus": bus, "level": "ERROR"}},
            "loggers": {"configured": {"handlers": ["bus"]}},
        }
    )
    logging.getLogger("configured").warning("not")
    logging.getLogger("configured").error("x")
    assert [event.type for event in events] == ["log.error"]


def test_a_consumer_gets_the_records_and_a_payload_of_any_size(
    consumer: Consumer, bus: Bus, logger: logging.Logger
) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)):
        logger.info("x" * 2_000_000)
        logger.error("last %s", object)
        consumer.wait_for_tasks(2)
    assert [event.type for event in consumer.events()] == ["log.info", "log.error"]
    assert consumer.events()[1].payload["message"] == "last <class 'object'>"


LAST_WORDS = """
import atexit, logging
from socketpusher.sources.logs import BusHandler
logging.getLogger().addHandler(BusHandler(bus))

class Last:
    def __del__(self):
        logging.getLogger("last").error("%s", "deleted", exc_info=ValueError("x"))

atexit.register(lambda: logging.warning("at exit"))
last = Last()
pusher.start()
logging.warning("in the program")
"""


def test_records_at_interpreter_exit_arrive_or_do_no_harm(consumer: Consumer, socket_path: str) -> None:
    assert producer_script.run(LAST_WORDS, socket_path) == (0, "", "")
    messages = [json.loads(line)["payload"]["message"] for line in consumer.lines()]
    assert messages == ["in the program", "at exit"]
    assert [wire.decode(line).type for line in consumer.lines()] == ["log.warning"] * 2
