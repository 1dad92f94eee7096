"""The outbox where races would have to be waited for: a queue that only keeps, and a ledger that is written by hand."""

from collections.abc import Iterator

import pytest

from socketpusher import Event, PusherConfig
from socketpusher.channel.ledger import Ledger
from socketpusher.host.outbox import Outbox


class Queue:
    """Keeps what is put."""

    def __init__(self) -> None:
        self.items: list = []

    def put(self, item, block=True) -> None:
        self.items.append(item)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    ledger.close()


@pytest.fixture
def outbox(ledger: Ledger) -> Outbox:
    outbox = Outbox(ledger, PusherConfig(), lambda: None)
    outbox.attach(Queue())
    return outbox


def test_the_books_are_made_true_when_a_writer_died_between_two_entries(ledger: Ledger, outbox: Outbox) -> None:
    """It had sent lines 0 to 2 and dropped line 3; it had entered that 0 was read and what it dropped, no more."""
    for number in range(4):
        outbox.push(Event("x", task=number))
    outbox.drain(outbox._token)
    ledger.received, ledger.unsent, ledger.settled, ledger.sent = 4, 3, 1, 0
    ledger.drop(3, 4)
    ledger.dropped = 0
    queue = Queue()
    outbox.attach(queue)
    assert (ledger.received, ledger.unsent, ledger.sent, ledger.dropped) == (1, 1, 1, 1)
    assert [(batch.first, batch.end) for _, batch in queue.items[:-1]] == [(1, 3), (4, 4)]


def test_a_token_in_the_queue_of_a_dead_writer_takes_nothing(outbox: Outbox) -> None:
    outbox.push(Event("x"))
    stale = outbox._token
    outbox.attach(Queue())
    assert outbox.drain(stale) == ()
    assert outbox.drain(outbox._token)[1].end == 1


def test_an_event_for_a_queue_that_has_just_been_closed_waits_for_the_next_one(outbox: Outbox, monkeypatch) -> None:
    def put(item, block=True) -> None:
        raise ValueError("Queue is closed")

    outbox.drain(outbox._token)
    monkeypatch.setattr(outbox._token.queue, "put", put)
    outbox.push(Event("x"))
    assert (outbox.dropped(), outbox.accepted()) == (0, 1)


def test_an_event_that_can_not_be_taken_is_dropped_counted_and_leaves_a_gap(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(*args) -> bytes:
        raise MemoryError

    outbox._session = b"s-"
    outbox.push(Event("x", task=1))
    with monkeypatch.context() as patched:
        patched.setattr("socketpusher.host.outbox.encode", out_of_memory)
        outbox.push(Event("x", task=2))
    outbox.push(Event("x", task=3))
    assert (outbox.dropped(), outbox.accepted()) == (1, 2)
    assert "an event of type 'x' was dropped" in caplog.text
    batch = outbox.drain(outbox._token)[1]
    assert [line.rpartition(b"-")[2] for line in batch.data.splitlines()] == [b'1"}', b'3"}']


def test_a_batch_is_bounded_and_what_is_left_comes_next(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketpusher.host.outbox.BATCH_BYTES", 100)
    for number in range(5):
        outbox.push(Event("x", task=number))
    token, batches = outbox._token, []
    while outbox._lines:
        batches.append(outbox.drain(token)[1])
        assert token.queue.items[-1] is token or not outbox._lines  # somebody comes for what is left
    assert [(batch.first, batch.end) for batch in batches] == [(0, 2), (2, 4), (4, 5)]
