"""Both ends of the queue between host and writer."""

import fcntl
import gc
import itertools
import multiprocessing
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher.channel.batch import Batch
from socketpusher.channel.descriptors import write_now
from socketpusher.channel.queue import BatchQueue, Frame, QueueReader

SIZES = st.lists(st.integers(1, 5) | st.sampled_from([60_000, 130_000, 300_000, 2_000_000]), min_size=1, max_size=6)


def frames_of(sizes: list[int]) -> list[Frame]:
    offsets = itertools.accumulate(sizes)
    return [
        Frame(Batch(number, number + 1, b"x" * (size - 1) + b"\n"), offset)
        for number, (size, offset) in enumerate(zip(sizes, offsets, strict=True))
    ]


@pytest.mark.parametrize("name", ["_reader", "_writer"])
def test_the_private_names_of_multiprocessing_that_are_used_are_there(name: str) -> None:
    queue = multiprocessing.get_context("fork").Queue()
    assert hasattr(queue, name), (
        f"multiprocessing.Queue has no {name} any more, an end of its pipe: change `BatchQueue` in channel/queue.py"
    )
    queue.close()


def test_it_is_a_queue_of_multiprocessing_with_semaphores_that_have_no_name() -> None:
    from multiprocessing import queues

    before = set(os.listdir("/dev/shm"))
    queue = BatchQueue()
    assert isinstance(queue, queues.Queue)
    prefix = multiprocessing.current_process()._config["semprefix"].strip("/")  # type: ignore[attr-defined]
    assert not any(prefix in name for name in set(os.listdir("/dev/shm")) - before)
    queue.close()


@given(sizes=SIZES, pipe_bytes=st.sampled_from([4096, 65536, 1 << 20]), eager=st.booleans())
def test_frames_are_read_as_written_however_little_the_pipe_takes(
    sizes: list[int], pipe_bytes: int, eager: bool
) -> None:
    queue = BatchQueue()
    fcntl.fcntl(queue.writer.fileno(), fcntl.F_SETPIPE_SZ, pipe_bytes)
    reader = QueueReader(queue.reader.fileno())
    read: list[tuple[int, Batch]] = []
    frames = frames_of(sizes)
    for frame in frames:
        while not queue.put(frame):
            read += reader.read()
        if eager:
            read += reader.read()
    while not reader.drained:
        read += reader.read()
    assert [(offset, batch.first, batch.end, bytes(batch.data)) for offset, batch in read] == [
        (frame.offset, *frame.batch) for frame in frames
    ]
    queue.close()


def test_a_put_that_a_signal_handler_interrupts_with_another_one_writes_no_more() -> None:
    """What was interrupted just before its write finds that it is done."""
    queue = BatchQueue()
    reader = QueueReader(queue.reader.fileno())
    (frame,) = frames_of([10])
    intact = queue.writer.intact
    calls = 0

    class Interrupted:
        def fileno(self) -> int:
            return queue_writer.fileno()

        def intact(self) -> bool:
            nonlocal calls
            calls += 1
            if calls == 1:
                assert queue.put(frame)
            return intact()

        def close(self) -> None:
            queue_writer.close()

    queue_writer = queue.writer
    queue.writer = Interrupted()  # type: ignore[assignment]
    assert not queue.put(frame)
    assert len(list(reader.read())) == 1
    assert list(reader.read()) == []
    assert reader.drained
    queue.close()


def test_an_interrupted_put_writes_nothing_after_the_queue_is_closed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the host may have the number by then."""
    queue = BatchQueue()
    opened = []

    def closed_meanwhile(fd: int, data: bytes, offset: int) -> Iterator[int]:
        write = write_now(fd, data, offset)
        queue.close()
        while not opened or opened[-1].fileno() < fd:
            opened.append(open(tmp_path / str(len(opened)), "w+b", buffering=0))  # noqa: SIM115
        return write

    monkeypatch.setattr("socketpusher.channel.queue.write_now", closed_meanwhile)
    (frame,) = frames_of([10])
    all_written = queue.put(frame)
    sizes = [os.path.getsize(file.name) for file in opened]
    for file in opened:
        file.close()
    assert not all_written
    assert sizes == [0] * len(opened)


def test_the_end_of_every_process_that_could_write_is_the_end_of_the_queue() -> None:
    queue = BatchQueue()
    fd = os.dup(queue.reader.fileno())
    reader = QueueReader(fd)
    queue.put(frames_of([10])[0])
    queue.close()
    gc.collect()
    assert len(list(reader.read())) == 1
    assert not reader.ended
    assert list(reader.read()) == []
    assert reader.ended
    os.close(fd)


def test_a_full_pipe_costs_no_memory_however_often_it_is_tried() -> None:
    queue = BatchQueue()
    fcntl.fcntl(queue.writer.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    (frame,) = frames_of([100_000])
    for _ in range(100):
        assert not queue.put(frame)
    assert frame.rest is not None
    assert [len(taken) for _, taken in frame.rest] == [1, 1]
    queue.close()


def test_a_frame_that_is_written_keeps_nothing_but_its_batch() -> None:
    """The host keeps it until the batch is settled."""
    queue = BatchQueue()
    (frame,) = frames_of([10])
    assert queue.put(frame)
    assert frame.rest == ()
    assert queue.put(frame)  # a signal handler may do that
    assert len(list(QueueReader(queue.reader.fileno()).read())) == 1
    queue.close()
