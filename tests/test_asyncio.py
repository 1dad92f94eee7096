"""A host that runs on asyncio: nothing that the pusher does holds up its loop."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, listen
from support.consumer import Consumer
from support.leftovers import writers
from support.waiting import wait_for


async def while_the_loop_turns(work: Awaitable[object], unblock: Callable[[], object]) -> object:
    """Await something that waits until `unblock` is called, which it is when the loop has turned often meanwhile."""
    task = asyncio.ensure_future(work)
    for _ in range(50):
        await asyncio.sleep(0.002)
        assert not task.done()
    unblock()
    return await task


def test_events_go_out_and_everything_is_sent_at_the_end(socket_path: str, bus: Bus) -> None:
    async def host() -> list[int | None]:
        with listen(socket_path) as events:
            async with SocketPusher(bus, PusherConfig(socket_path=socket_path)) as pusher:
                for task in range(1, 101):
                    bus.emit(Event("task.started", task=task))
            assert pusher.stats().sent == 100
            received = []
            async for event in events:
                received.append(event.task)
                if event.task == 100:
                    return received
        raise AssertionError

    assert asyncio.run(asyncio.wait_for(host(), 60)) == list(range(1, 101))


def test_the_loop_turns_while_the_pusher_starts(socket_path: str, bus: Bus) -> None:
    async def host() -> None:
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
            listening.bind(socket_path)
            listening.listen(0)
            first.connect(socket_path)  # its queue is full now, so the pusher has to wait
            pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path))
            await while_the_loop_turns(pusher.__aenter__(), lambda: listening.accept()[0].close())
            assert pusher.connected
            await pusher.__aexit__(None, None, None)
        os.unlink(socket_path)

    asyncio.run(asyncio.wait_for(host(), 60))


def test_the_loop_turns_while_the_pusher_closes(consumer: Consumer, bus: Bus) -> None:
    consumer.stall()

    async def host() -> SocketPusher:
        pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=10_000))
        await pusher.__aenter__()
        for _ in range(100):
            bus.emit(Event("x", payload="y" * 10_000))
        await while_the_loop_turns(pusher.__aexit__(None, None, None), consumer.go_on)
        return pusher

    assert asyncio.run(asyncio.wait_for(host(), 60)).stats().sent == 100


def test_a_start_that_fails_raises_what_failed(socket_path: str, bus: Bus) -> None:
    async def host() -> None:
        async with SocketPusher(bus, PusherConfig(socket_path=socket_path)):
            raise AssertionError

    with pytest.raises(FileNotFoundError, match="start the consumer first"):
        asyncio.run(host())


@pytest.mark.parametrize("turns", [0, 1, 5, 20])
def test_a_start_that_is_cancelled_leaves_no_process(consumer: Consumer, bus: Bus, turns: int) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))

    async def host() -> None:
        task = asyncio.ensure_future(pusher.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():  # it was faster
            pusher.close()

    asyncio.run(host())
    wait_for(lambda: not writers())
    assert not pusher.connected


def test_a_start_that_is_cancelled_when_it_has_just_ended_leaves_no_handler(consumer: Consumer, bus: Bus) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))

    async def host() -> None:
        task = asyncio.ensure_future(pusher.__aenter__())
        await asyncio.sleep(0)
        wait_for(lambda: "open" in repr(pusher))  # the loop does not turn, so the task has not heard of it
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(host())
    wait_for(lambda: "closed" in repr(pusher))
    assert not bus._handlers
