"""The forms of `listen`, for a thread, for asyncio and raw: the same lines from the same bytes, however cut."""

import asyncio
import gc
import os
import random
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketpusher import Bus, Event, Gap, PusherConfig, SkippedLine, SocketPusher, listen, wire
from socketpusher.config import MAX_LINE_BYTES
from socketpusher.listener.listener import Listener
from support.profile import scaled
from support.senders import line
from support.waiting import wait_for

END = "the end of the test"


class Last:
    """Equal to the event, or the line, that says that this is the end of the test."""

    def __eq__(self, item: object) -> bool:
        return _type(item) == END

    __hash__ = None


@contextmanager
def sending(send: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=send)  # for it may be more than a socket holds
    thread.start()
    yield
    thread.join()


def in_a_thread(listener: Listener[Any], send: Callable[[], object]) -> list[Any]:
    with sending(send):
        return list(iter(lambda: next(listener), Last()))


def in_a_loop(listener: Listener[Any], send: Callable[[], object]) -> list[Any]:
    items = []
    with sending(send):
        for item in listener:
            if item == Last():
                break
            items.append(item)
    return items


def by_read(listener: Listener[Any], send: Callable[[], object]) -> list[Any]:
    items: list[Any] = []
    with sending(send):
        while not items or items[-1] != Last():
            items += listener.read()
    return items[:-1]


def by_held_read(listener: Listener[Any], send: Callable[[], object]) -> list[Any]:
    items: list[Any] = []
    with sending(send):
        while not items or items[-1] != Last():
            items += listener.read(hold=True)
            listener.release()
    return items[:-1]


def in_asyncio(listener: Listener[Any], send: Callable[[], object]) -> list[Any]:
    async def main() -> list[Any]:
        items = []
        with listener, sending(send):
            async for item in listener:
                if item == Last():
                    break
                items.append(item)
        return items

    return asyncio.run(asyncio.wait_for(main(), 60))


def _type(item: Event | bytes) -> str:
    return (wire.decode(item) if isinstance(item, bytes) else item).type


FORMS = [in_a_thread, in_a_loop, by_read, by_held_read, in_asyncio]


def received(form: Callable[..., list[Any]], cuts: list[bytes], raw: bool) -> tuple[list[Any], list[str]]:
    """What a listener makes of bytes that are sent in these pieces, and what it reports."""
    problems: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        path = os.path.join(directory, "s")
        with listen(path, raw=raw, on_problem=problems.append) as listener:

            def send() -> None:
                with socket.socket(socket.AF_UNIX) as sender:
                    sender.connect(path)
                    for piece in [*cuts, b"\n", line(END)]:
                        sender.sendall(piece)

            items = form(listener, send)
    assert all(isinstance(problem, SkippedLine) for problem in problems)
    return items, [problem.line for problem in problems]


# Pieces of valid lines among them, so that cuts and joins make interesting ones.
PIECES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"\n", b"{", b"}", b'"', line("a"), line("b"), line("c")[:-1], line("d", ',"id":"s-1"')[:30]]),
    st.builds(lambda event: wire.encode(Event(event)), st.text(max_size=5).filter(lambda text: text != END)),
)


def expected(stream: bytes) -> tuple[list[bytes], list[bytes]]:
    """The valid lines and the others, by the simplest means."""
    valid, others = [], []
    for candidate in stream.split(b"\n"):
        try:
            wire.decode(candidate)
        except wire.DecodeError:
            others.append(candidate)
        else:
            valid.append(candidate + b"\n")
    return valid, others


@given(st.lists(PIECES, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=scaled(50))
def test_any_bytes_cut_anywhere_yield_the_valid_lines_and_report_the_others(
    pieces: list[bytes], generator: random.Random
) -> None:
    stream = b"".join(pieces)
    places = sorted(generator.randrange(len(stream) + 1) for _ in range(generator.randrange(6)))
    cuts = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    valid, others = expected(stream)
    for form in FORMS:
        assert received(form, cuts, raw=True) == (valid, others)
        assert received(form, cuts, raw=False) == ([wire.decode(one) for one in valid], others)


@pytest.mark.parametrize("form", FORMS)
def test_a_line_over_the_limit_is_reported_by_its_begin_and_its_neighbours_are_not(form: Callable[..., Any]) -> None:
    longest = line("x" * (MAX_LINE_BYTES - len(line(""))))
    items, problems = received(form, [line(1) + longest + b" " + longest + line(2)], raw=True)
    assert items == [line(1), longest, line(2)]
    assert problems == [(b" " + longest)[:1024], b""]


def test_asyncio_yields_what_a_thread_yields_from_many_senders(socket_path: str) -> None:
    async def main() -> list[bytes]:
        lines = []
        with listen(socket_path, raw=True) as listener:

            def send(name: str) -> None:
                with socket.socket(socket.AF_UNIX) as sender:
                    sender.connect(socket_path)
                    for _ in range(200):
                        sender.sendall(line(name * 3000))

            senders = [asyncio.ensure_future(asyncio.to_thread(send, name)) for name in "abcd"]
            async for item in listener:
                lines.append(item)
                if len(lines) == 800:
                    break
            await asyncio.gather(*senders)
        return lines

    assert sorted(asyncio.run(asyncio.wait_for(main(), 60))) == sorted(line(name * 3000) for name in "abcd" * 200)


def test_two_tasks_of_one_loop_share_the_events(socket_path: str) -> None:
    async def main() -> list[list[str]]:
        received: list[list[str]] = [[], []]
        listener = listen(socket_path)

        async def read(types: list[str]) -> None:
            async for event in listener:
                types.append(event.type)
                if sum(map(len, received)) == 100:
                    listener.close()
                await asyncio.sleep(0.001)

        reading = asyncio.gather(*map(read, received))
        with closing(socket.socket(socket.AF_UNIX)) as sender:
            sender.connect(socket_path)
            for number in range(100):
                sender.sendall(line(number))
                await asyncio.sleep(0.001)
            await reading
        return received

    first, second = asyncio.run(asyncio.wait_for(main(), 60))
    assert sorted(map(int, first + second)) == list(range(100))
    assert first
    assert second


def test_a_slow_reader_in_asyncio_makes_the_sender_wait(socket_path: str) -> None:
    async def main() -> int:
        with listen(socket_path, raw=True) as listener, closing(socket.socket(socket.AF_UNIX)) as sender:
            items = aiter(listener)
            first = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0)
            sender.connect(socket_path)
            sender.setblocking(False)
            piece, sent = line("x" * 1000) * 100, 0
            refused = 0
            while refused < 50:  # turns of the loop in which not a byte more was taken
                try:
                    sent += sender.send(piece)
                    refused = 0
                except BlockingIOError:
                    refused += 1
                await asyncio.sleep(0.002)
            assert (await first).startswith(b'{"type":"xxx')
            await items.aclose()
        return sent

    assert asyncio.run(asyncio.wait_for(main(), 60)) < 4 << 20


def test_closing_ends_the_iteration_in_asyncio(socket_path: str) -> None:
    async def main() -> list[Event]:
        listener = listen(socket_path)
        reading = asyncio.ensure_future(_all(listener))
        await asyncio.sleep(0)
        with closing(await asyncio.to_thread(_send, socket_path, b"half of a line")) as sender:
            while not listener.senders:
                await asyncio.sleep(0.001)
            listener.close()
            assert not os.path.exists(socket_path)
            assert await asyncio.to_thread(_is_hung_up_on, sender)
        return await reading

    assert asyncio.run(asyncio.wait_for(main(), 60)) == []


def _is_hung_up_on(sender: socket.socket) -> bool:
    try:
        return sender.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("turns", range(6))
def test_closing_ends_the_iteration_in_asyncio_at_any_moment_of_its_start(socket_path: str, turns: int) -> None:
    async def main() -> list[Event]:
        listener = listen(socket_path)
        reading = asyncio.ensure_future(_all(listener))
        for _ in range(turns):
            await asyncio.sleep(0)
        listener.close()
        return await reading

    assert asyncio.run(asyncio.wait_for(main(), 60)) == []


@pytest.mark.parametrize("form", FORMS)
def test_who_has_gone_is_no_sender_any_more(socket_path: str, form: Callable[..., Any]) -> None:
    listener = listen(socket_path)
    form(listener, lambda: [_send(socket_path, b"").close(), _send(socket_path, line(END)).close()])
    listener.close()
    assert listener.senders == ()


def test_asyncio_knows_who_is_there(socket_path: str) -> None:
    async def main() -> None:
        with listen(socket_path) as listener:
            events = aiter(listener)
            reading = asyncio.ensure_future(anext(events))
            with closing(await asyncio.to_thread(_send, socket_path, line(1))):
                assert (await reading).type == "1"
                assert listener.senders == (listener.sender,)
                reading = asyncio.ensure_future(anext(events))
            while listener.senders:
                await asyncio.sleep(0.001)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 60))


async def _all(listener: Listener[Event]) -> list[Event]:
    return [event async for event in listener]


def _send(path: str, data: bytes) -> socket.socket:
    sender = socket.socket(socket.AF_UNIX)
    sender.connect(path)
    sender.sendall(data)
    return sender


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [10, 5000])
def test_the_half_line_of_a_sender_that_disconnected_is_reported(
    socket_path: str, form: Callable[..., Any], size: int
) -> None:
    problems: list[Any] = []

    def send() -> None:
        _send(socket_path, line(1) + line("x" * 5000)[:size]).close()
        wait_for(lambda: problems)
        _send(socket_path, line(END)).close()

    with listen(socket_path, raw=True, on_problem=problems.append) as listener:
        assert form(listener, send) == [line(1)]
    assert [(type(problem), problem.line) for problem in problems] == [(SkippedLine, line("x" * 5000)[:size][:1024])]
    assert str(problems[0]).endswith("it disconnected in the middle of a line")


def test_a_cancelled_wait_loses_nothing(socket_path: str) -> None:
    async def main() -> list[str]:
        with listen(socket_path) as listener:
            types: list[str] = []
            with closing(await asyncio.to_thread(_send, socket_path, line(0))) as sender:
                for number in range(1, 30):
                    try:
                        async with asyncio.timeout(0.001 * (number % 4)):
                            async for event in listener:
                                types.append(event.type)  # noqa: PERF401  # kept when the time is up
                    except TimeoutError:
                        sender.sendall(line(number))
                async for event in listener:
                    types.append(event.type)
                    if event.type == "29":
                        return types
        raise AssertionError("it ended")

    assert asyncio.run(asyncio.wait_for(main(), 60)) == [str(number) for number in range(30)]


def test_a_listener_that_outlives_its_loop_closes_without_a_word(socket_path: str) -> None:
    listener = listen(socket_path)

    async def main(listener: Listener[Event]) -> None:
        try:
            async with asyncio.timeout(0.01):
                await _all(listener)
        except TimeoutError:
            pass

    with closing(socket.socket(socket.AF_UNIX)) as sender:
        sender.connect(socket_path)
        asyncio.run(main(listener))
        with pytest.raises(RuntimeError, match="make a new one"):
            asyncio.run(main(listener))
        listener.close()
    assert not os.path.exists(socket_path)
    del listener
    gc.collect()


def test_a_listener_belongs_to_a_thread_or_to_asyncio_not_to_both(socket_path: str) -> None:
    async def main() -> None:
        with listen(socket_path) as listener:
            try:
                async with asyncio.timeout(0.01):
                    await _all(listener)
            except TimeoutError:
                pass
            with pytest.raises(RuntimeError, match="async for only"):
                next(listener)
        with listen(socket_path) as listener:
            listener.fileno()
            with pytest.raises(RuntimeError, match="new one for async for"):
                await _all(listener)

    asyncio.run(main())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("raw", [False, True])
def test_with_ids_an_event_is_yielded_once_and_a_gap_is_reported(
    socket_path: str, form: Callable[..., Any], raw: bool
) -> None:
    problems: list[Any] = []
    numbers = [1, 2, 3, 2, 3, 4, 7, 7, 8]
    data = b"".join(line(number, f',"id":"abc-{number}"') for number in numbers) + line(END)
    with listen(socket_path, raw=raw, on_problem=problems.append) as listener:
        items = form(listener, lambda: _send(socket_path, data).close())
    assert [int(_type(item)) for item in items] == [1, 2, 3, 4, 7, 8]
    assert [(type(gap), gap.session, gap.first, gap.last) for gap in problems] == [(Gap, "abc", 5, 6)]
    assert str(problems[0]).startswith("events 5 to 6 are missing")
    assert problems[0].sender.pid == os.getpid()


def test_events_whose_ids_do_not_have_the_form_of_one_are_all_yielded(socket_path: str) -> None:
    problems: list[Any] = []
    ids = ['"abc"', '"abc-0"', "5", f'"{"s" * 101}-7"'] * 2
    data = b"".join(line(number, f',"id":{id}') for number, id in enumerate(ids)) + line(END)
    with listen(socket_path, on_problem=problems.append) as listener:
        items = in_a_thread(listener, lambda: _send(socket_path, data).close())
    assert [int(item.type) for item in items] == list(range(8))
    assert problems == []


def test_what_a_listener_in_the_middle_of_a_run_is_told_first_makes_no_gap(socket_path: str) -> None:
    problems: list[Any] = []
    data = [line("graph"), line("orch.started", ',"id":"abc-1"'), line("next", ',"id":"abc-700"'), line(END)]
    with listen(socket_path, on_problem=problems.append) as listener:
        assert len(in_a_thread(listener, lambda: _send(socket_path, b"".join(data)).close())) == 3
    assert problems == []


def test_a_pusher_that_sends_again_is_heard_once(socket_path: str) -> None:
    bus = Bus()
    problems: list[Any] = []
    first = listen(socket_path, on_problem=problems.append)
    with SocketPusher(bus, PusherConfig(socket_path=socket_path, event_ids=True, buffer_size=10_000)) as pusher:
        bus.emit(Event("orch.started"))
        for task in range(1, 2001):
            bus.emit(Event("task.started", task=task, payload="x" * 200))
        assert next(first).type == "orch.started"
        seen = [next(first).task]  # there is more in the read, which goes with the listener
        first.close()
        second = listen(socket_path, on_problem=problems.append)
        wait_for(lambda: pusher.stats().reconnects == 1 and pusher.connected)
        bus.emit(Event(END))
        tasks = [event.task for event in in_a_thread(second, lambda: None) if event.type == "task.started"]
        second.close()
    assert seen == [1]
    assert tasks == sorted(set(tasks))
    assert tasks[-1] == 2000
    assert problems == []


def test_what_on_problem_raises_comes_out_and_the_iteration_may_go_on(socket_path: str) -> None:
    def raises(problem: object) -> None:
        raise LookupError(str(problem))

    with listen(socket_path, on_problem=raises) as listener:
        _send(socket_path, line(1) + b"bad\n" + line(2)).close()
        assert next(listener).type == "1"
        with pytest.raises(LookupError, match="not JSON"):
            next(listener)
        assert next(listener).type == "2"
