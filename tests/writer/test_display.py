"""A drop costs history, never truth: the writer between the host's outbox and a display, without sockets or processes.

The outbox, the writer, its ledger and its journal are the real ones. What connects them, the kernel and the display's
end are played here, so that each can stop, be full or die between any two steps; the writer also inside of them, before
any of its stores into the ledger.
"""

import dataclasses
import errno
import json
import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interop.choo_web import Store
from socketpusher import Event, PusherConfig
from socketpusher.channel import journal as journals
from socketpusher.channel.batch import Batch
from socketpusher.channel.descriptors import pipe
from socketpusher.channel.journal import Journal, journal_files
from socketpusher.channel.ledger import Ledger
from socketpusher.channel.messages import WriterSpec
from socketpusher.channel.queue import Frame
from socketpusher.channel.spool_directory import claim_new
from socketpusher.host import outbox as outboxes
from socketpusher.host.outbox import Outbox
from socketpusher.writer import backlog as backlogs
from socketpusher.writer import loop, session
from socketpusher.writer import spool as spools
from socketpusher.writer.loop import Writer
from support.profile import scaled
from support.runs import Run, runs

SOON = 1e-9
"""For `BLOCKED_GRACE`, in seconds: what is over the bounds is dropped as soon as the socket takes nothing."""


class Killed(BaseException):
    """The writer process is gone."""


class Choices:
    """What happens next, taken from bytes; the first of all choices when there are no more."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def below(self, count: int) -> int:
        return next(self._data, 0) % count


class Cells:
    """The ledger's memory. The writer dies before a store."""

    def __init__(self, cells: Any) -> None:
        self._cells = cells
        self.writer_acts = False
        self.fuse: int | None = None  # how many stores the writer has left

    def __getitem__(self, index: int) -> int:
        value: int = self._cells[index]
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self.burn()
        self._cells[index] = value

    def burn(self) -> None:
        """The writer dies here if its time has come."""
        if self.writer_acts and self.fuse is not None:
            if self.fuse == 0:
                raise Killed
            self.fuse -= 1


class Queue:
    """Both ends of the queue."""

    ended = drained = False

    def __init__(self, fd: int, room: int) -> None:
        self._fd = fd
        self._room = room
        self.frames: deque[Frame] = deque()

    def fileno(self) -> int:
        return self._fd

    def put(self, frame: Frame) -> bool:
        if len(self.frames) < self._room:
            self.frames.append(frame)
            return True
        return False

    def read(self) -> Iterator[tuple[int, Batch]]:
        self.drained = not self.frames
        if self.frames:
            frame = self.frames.popleft()
            yield frame.offset, frame.batch


class Socket:
    """A connection: the writer's end, and what the kernel holds.

    A write takes its bytes and some more of the kernel's memory, until its last byte is read.
    """

    def __init__(self, fd: int, choices: Choices, room: int) -> None:
        self._fd = fd
        self._choices = choices
        self._room = room
        self._writes: list[tuple[int, int]] = []
        self.stream = bytearray()
        self.read = 0  # how many bytes the display has read
        self.hung_up = False  # whether the writer has closed it, or is gone
        self.dead = False  # whether the display is gone
        self.last_unread = 0

    def fileno(self) -> int:
        return self._fd

    @property
    def unread(self) -> int:
        return len(self.stream) - self.read

    def write(self, buffers: list[memoryview]) -> tuple[int, int]:
        if self.dead:
            raise self.loss()
        offered = b"".join(buffers)
        assert offered
        if self.unread >= self._room:
            raise BlockingIOError
        most = min(len(offered), self._room - self.unread)
        count = most - self._choices.below(256) * most // 256
        self.stream += offered[:count]
        memory = count + self._choices.below(50)
        self._writes.append((len(self.stream), memory))
        self.unread_memory()
        return count, memory

    def unread_memory(self) -> int:
        if self.dead and self.unread:
            raise self.loss()
        self.last_unread = 0 if self.dead else sum(memory for end, memory in self._writes if end > self.read)
        return self.last_unread

    def all_was_read(self, lost: OSError) -> bool:
        return not isinstance(lost, ConnectionResetError) and not self.unread

    def loss(self) -> OSError:
        return ConnectionResetError(errno.ECONNRESET, "") if self.unread else BrokenPipeError(errno.EPIPE, "")

    def close(self) -> None:
        self.hung_up = True


class Display:
    """The dashboard: it reads one connection after the other."""

    def __init__(self) -> None:
        self.store = Store()
        self.sockets: deque[Socket] = deque()
        self.gone: list[Socket] = []
        self._rest = b""

    @property
    def unread(self) -> int:
        return sum(socket.unread for socket in self.sockets)

    def read(self, most: int) -> None:
        while self.sockets:
            socket = self.sockets[0]
            *lines, self._rest = (self._rest + socket.stream[socket.read : socket.read + most]).split(b"\n")
            socket.read = min(len(socket.stream), socket.read + most)
            for line in lines:
                self.store.read(bytes(line))
            if socket.unread or not socket.hung_up:
                return
            self._rest = b""
            self.gone.append(self.sockets.popleft())

    def die(self) -> None:
        for socket in self.sockets:
            socket.dead = True


class Stage:
    """A run on its way to a display."""

    def __init__(
        self,
        run: Run,
        choices: Choices,
        config: PusherConfig,
        sudden: bool,
        fds: tuple[int, ...],
        display: "Display | None" = None,
    ) -> None:
        self.truth = run.truth()
        self.choices = choices
        self.config = config
        self.graph = None if run.graph is None else json.loads(json.dumps(run.graph.payload()))
        self.parallelism = run.parallelism
        self.queue_fd, self.wakeups_fd, self.reports_fd, self.socket_fd = fds
        self.ledger = Ledger()
        self.cells = Cells(self.ledger.cells)
        self.ledger.cells = self.cells  # type: ignore[assignment]
        self.files = journal_files()
        self.outbox = Outbox(self.ledger, config, lambda: None, lambda *_: None)
        self.outbox._write_at = math.inf  # only `put` makes batches
        self.display = display or Display()
        self.claim = None if config.spool is None else claim_new(str(config.spool))
        self.writer: Writer | None = None
        self.socket: Socket | None = None
        self.closing = False
        self.sudden = sudden  # whether the writer may die between two stores

    def emit(self, event: Event) -> None:
        self.truth.follow(event)
        self.outbox.push(event)
        self.outbox._held_bytes = 0  # what is held may be of any size, or it would be lost

    def put(self) -> None:
        self.outbox.accept_held(at_once=self.closing)
        self.outbox.put_rest()

    def running(self) -> Writer:
        """The writer; another one if it has died."""
        if self.writer is None:
            ledger, config = self.ledger, dataclasses.asdict(self.config)
            numbers = ledger.received, ledger.high_water, ledger.sent, ledger.resent, ledger.connections
            spec = WriterSpec([], "/", config, self.parallelism, *numbers, self.claim.name if self.claim else "")
            self.queue: Any = Queue(self.queue_fd, 1 + self.choices.below(4))
            journal = Journal(ledger, self.files)
            fds = self.wakeups_fd, self.reports_fd
            self.writer = Writer(spec, self.graph, self.queue, *fds, ledger, journal, None, self.claim)
            assert self.outbox.attach(self.queue)
        return self.writer

    def turn(self, *steps: str) -> None:
        """The writer takes these steps, unless it dies meanwhile."""
        writer = self.running()
        self.cells.writer_acts = True
        try:
            for step in steps:
                getattr(self, f"_{step}")(writer)
        except OSError as error:
            self._lose(writer, error)
        except Killed:
            self.kill_writer()
        self.cells.writer_acts = False

    def _read_queue(self, writer: Writer) -> None:
        writer._read_queue()

    def _connect(self, writer: Writer) -> None:
        if writer._connection is None:
            self.socket = Socket(self.socket_fd, self.choices, 100 + 40 * self.choices.below(64))
            self.display.sockets.append(self.socket)
            writer._connection_made(self.socket)  # type: ignore[arg-type]

    def _write(self, writer: Writer) -> None:
        if writer._connection is not None:
            writer._write(writer._connection)
            writer._next_session()
        else:  # as between two attempts to connect
            writer._store_or_drop()

    def _look(self, writer: Writer) -> None:
        if writer._connection is not None:
            writer._poll_unread(writer._connection, 0.0)

    def _notice(self, writer: Writer) -> None:
        if self.socket is not None and self.socket.dead:
            raise self.socket.loss()

    def _time_out(self, writer: Writer) -> None:
        if writer._connection is not None:
            raise TimeoutError

    def _lose(self, writer: Writer, error: OSError) -> None:
        socket, self.socket = self.socket, None
        try:
            writer._connection_lost(socket, error)  # type: ignore[arg-type]
        except Killed:
            self.socket = socket
            self.kill_writer()

    def kill_writer(self) -> None:
        self.cells.fuse = None
        self.cells.writer_acts = False
        self._abandon()
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        assert self.outbox.detach()
        self.ledger.connected = 0

    def kill_writer_soon(self) -> None:
        """It dies before one of its next stores, if it may."""
        if self.sudden and self.cells.fuse is None:
            self.running()
            self.cells.fuse = self.choices.below(32)

    def read_some(self) -> None:
        self.display.read(8 * self.choices.below(256))

    def go_on(self) -> None:
        """Everybody does a bit."""
        self.put()
        self.turn("connect", "read_queue", "write")
        self.display.read(1 << 20)
        self.turn("look")

    def kill_display(self) -> None:
        self.display.die()
        self.display = Display()

    def check(self) -> None:
        """If everything is sent, as a flush sees it, and read, the display shows the truth."""
        if self.socket is None or self.socket.dead or self.writer is None or self.writer._current.backlog._preface:
            return
        outbox = self.outbox
        if not outbox.held and self.ledger.unsent >= outbox.accepted() and not self.display.unread and self.truth.begun:
            assert self.display.store.picture() == self.truth.picture()

    def close(self) -> None:
        """The host says that it ends, and the writer goes on until it has finished."""
        self.cells.fuse = None
        self.closing = True
        self.outbox.stop_accepting()
        self.outbox.accept_held(at_once=True)
        self.turn("notice")
        self.turn("connect")  # a display that comes when the writer has finished is told nothing
        for _ in range(2000):
            writer = self.running()
            self.ledger.close_target = self.outbox.accepted()
            self.ledger.close_deadline = 2**62
            writer._closing = True
            self.put()
            self.turn("connect", "read_queue", "write")
            if (what := self.choices.below(16)) == 1:
                self.kill_writer()
                continue
            if (
                what == 2 and not writer._current.backlog._preface
            ):  # or the display would keep a part of what it is told first
                self.turn("time_out")
            self.display.read(1 << 20)
            self.turn("look")
            self.check()
            try:
                writer._check_finished()
            except loop._WriterDone:
                break
        else:
            pytest.fail("the writer does not finish")
        if self.socket is not None:
            self.socket.close()
        self.display.read(1 << 20)
        if self.claim is None:
            assert self.display.store.picture() == self.truth.picture()

    def leave(self) -> None:
        """The writer ends."""
        writer = self.running()
        if self.socket is None:
            writer._connection = None
        writer._store_remaining(self.claim)
        self.socket = None
        self.writer = None
        emitted, ledger = self.outbox.emitted(), self.ledger
        assert emitted == ledger.sent + ledger.dropped + self.outbox.dropped() + ledger.spooled

    def give_up(self) -> None:
        """The host closes without a consumer, or is killed when the writer has all that it had."""
        self.cells.fuse = None
        self.closing = True
        self.outbox.stop_accepting()
        if self.socket is not None:
            self.turn("time_out")
        for _ in range(200):
            self.put()
            self.turn("read_queue", "write")
        assert self.ledger.received == self.outbox.accepted() == self.ledger.settled
        if self.choices.below(2):
            self.leave()

    def _abandon(self) -> None:
        """What the writer has open is closed by the system."""
        if (writer := self.writer) is not None:
            for mine in {writer._own, writer._current}:
                if mine.spool is not None:
                    mine.spool.close()
            for claim in (writer._inherited_claim, *(claim for claim, _ in writer._inherited)):
                if claim is not None:
                    claim.lock.close()
        self.writer = None

    def remove(self) -> None:
        self._abandon()
        if self.claim is not None:
            self.claim.lock.close()
        self.cells.fuse = None
        self.ledger.close()
        for file in self.files:
            file.close()


ACTIONS = (
    *(Stage.put,) * 4,
    *(lambda stage: stage.turn("read_queue"),) * 3,
    *(lambda stage: stage.turn("connect"),) * 2,
    *(lambda stage: stage.turn("write"),) * 4,
    *(lambda stage: stage.turn("look"),) * 2,
    lambda stage: stage.turn("time_out"),
    *(Stage.read_some,) * 3,
    *(Stage.go_on,) * 2,
    Stage.kill_display,
    Stage.kill_writer,
    Stage.kill_writer_soon,
)


def numbered(run: Run) -> Run:
    """The same without tasks that have no number: a display may be told of one twice when a writer dies suddenly."""
    events = [replace(event, task=3) if event.task is None else event for event in run.events]
    return replace(run, events=events)


@pytest.fixture(scope="module")
def fds() -> Iterator[tuple[int, ...]]:
    """What the writer polls and reports to: nothing ever comes."""
    ends = [*pipe(), *pipe(), *pipe()]
    null = os.open(os.devnull, os.O_WRONLY)
    yield ends[0].fileno(), ends[2].fileno(), null, ends[4].fileno()
    os.close(null)
    for end in ends:
        end.close()


@pytest.fixture(scope="module")
def small_limits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "BLOCKED_GRACE", SOON)
        patch.setattr(journals, "MIN_LIMIT", 1000)
        patch.setattr(backlogs, "GAP_BYTES", 300)
        patch.setattr(outboxes, "HELD_LINES", 8)
        yield


CONFIGS = st.builds(
    PusherConfig,
    socket_path=st.just("/nowhere/s"),
    buffer_size=st.integers(1, 8),
    overflow=st.sampled_from(["drop_newest", "drop_oldest"]),
    event_ids=st.booleans(),
    buffer_bytes=st.sampled_from([1 << 26, 8000]),
    write_timeout=st.just(1e9),
)


def play(run: Run, stage: Stage, choices: Choices) -> None:
    """The run, and between its events whatever happens to anybody."""
    for event in run.events:
        while 0 < (what := choices.below(len(ACTIONS) + 3)) <= len(ACTIONS):
            ACTIONS[what - 1](stage)
            stage.check()
        stage.emit(event)
    while what := choices.below(len(ACTIONS) + 1):
        ACTIONS[what - 1](stage)
        stage.check()


WHATEVER_HAPPENS = given(
    run=runs(max_steps=15),
    config=CONFIGS,
    sudden=st.booleans(),
    data=st.binary(min_size=150, max_size=400),
)


@settings(max_examples=scaled(150), suppress_health_check=[HealthCheck.too_slow])
@WHATEVER_HAPPENS
def test_the_display_is_right_after_any_drop_and_any_death(
    fds: tuple[int, ...], small_limits: None, run: Run, config: PusherConfig, sudden: bool, data: bytes
) -> None:
    run = numbered(run) if sudden else run
    choices = Choices(data)
    stage = Stage(run, choices, config, sudden, fds)
    try:
        play(run, stage, choices)
        stage.close()
    finally:
        stage.remove()


@settings(max_examples=scaled(75), suppress_health_check=[HealthCheck.too_slow])
@WHATEVER_HAPPENS
def test_with_a_spool_nothing_is_dropped_and_the_next_pusher_is_right(
    fds: tuple[int, ...], small_limits: None, run: Run, config: PusherConfig, sudden: bool, data: bytes
) -> None:
    run = numbered(run) if sudden else run
    choices = Choices(data)
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        stage = Stage(run, choices, replace(config, spool=directory), sudden, fds)
        truth = stage.truth
        patch.setattr(loop, "SPOOL_AFTER", SOON)
        patch.setattr(session, "LOAD_BYTES", 1 << choices.below(12))
        patch.setattr(spools, "OBSERVED_BYTES", 1000)
        patch.setattr(spools, "fault_point", lambda step: stage.cells.burn())
        try:
            play(run, stage, choices)
            if told := choices.below(2) == 1:
                stage.close()
                stage.leave()
            else:
                stage.give_up()
                told = stage.ledger.stored > 0  # else a display that has just come learns nothing
            assert stage.ledger.dropped == 0
            for _ in range(100):  # each of them may lose its connection, and end without another
                stage.remove()
                stage = Stage(Run(None, 0, []), choices, replace(config, spool=directory), False, fds, stage.display)
                stage.close()
                stage.leave()
                if not os.listdir(directory):
                    break
            assert os.listdir(directory) == []
            stage.display.read(1 << 20)
            if told:
                assert stage.display.store.picture() == truth.picture()
        finally:
            stage.remove()


STEPS = ["make: begin", "make: commit", "make: done", "append: begin", "append: commit", "append: done"]


@pytest.mark.parametrize("step", [*STEPS, "settle: begin", "settle: commit", "settle: done"])
@pytest.mark.parametrize("time", [1, 2])
def test_a_writer_may_die_at_each_step_of_the_disk(
    fds: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, time: int
) -> None:
    """Each line comes once, but for what was read while the writer died, and the books are exact."""
    config = PusherConfig("/nowhere/s", spool=tmp_path, event_ids=True, write_timeout=1e9)
    stage = Stage(Run(None, 0, []), Choices(b""), config, False, fds)
    times = 0

    def reached(at: str) -> None:
        nonlocal times
        times += at == step
        if at == step and times == time:
            raise Killed

    monkeypatch.setattr(spools, "fault_point", reached)
    try:
        for turn in range(5):
            for number in range(10 * turn, 10 * turn + 10):
                stage.emit(Event("x", task=number))
            stage.put()
            stage.turn("read_queue", "write")
            stage.turn("read_queue", "write")
            stage.put()
            if turn == 3:
                stage.turn("connect")
                for _ in range(60):
                    stage.turn("write")
                    stage.display.read(1 << 20)
                    stage.turn("look")
                    stage.turn("connect")
        assert times >= time or step.startswith("make")
        for _ in range(200):
            stage.put()
            stage.turn("connect", "read_queue", "write")
            stage.display.read(1 << 20)
            stage.turn("look")
        ledger = stage.ledger
        assert (ledger.sent, ledger.dropped, ledger.spooled, ledger.stored) == (50, 0, 0, 0)
        streams = [bytes(socket.stream[: socket.read]) for socket in [*stage.display.gone, *stage.display.sockets]]
        tasks = [json.loads(line)["task"] for stream in streams for line in stream.split(b"\n")[:-1]]
        assert list(dict.fromkeys(tasks)) == list(range(50))
        if not step.startswith("settle"):
            assert len(tasks) == 50
    finally:
        stage.remove()


def test_a_run_on_the_disk_gives_its_graph_to_the_next_one_though_the_writer_died(
    fds: tuple[int, ...], tmp_path: Path
) -> None:
    graph = {"nodes": [{"id": "app", "level": 0, "tasks": 0}], "edges": [], "levels": [["app"]]}
    config = PusherConfig("/nowhere/s", spool=tmp_path, write_timeout=1e9)
    stage = Stage(Run(None, 0, []), Choices(b"\3" * 9), config, False, fds)
    try:
        stage.emit(Event("orch.started", payload={"graph": graph}))
        for _ in range(3):
            stage.turn("read_queue", "write")
            stage.put()
        assert stage.ledger.stored == 1
        stage.kill_writer()
        stage.emit(Event("orch.started"))
        stage.put()
        for _ in range(20):
            stage.turn("connect", "read_queue", "write")
            stage.put()
            stage.display.read(1 << 20)
            stage.turn("look")
        (socket,) = stage.display.sockets
        events = [json.loads(line) for line in socket.stream.split(b"\n")[:-1]]
        assert [event["payload"]["graph"]["levels"] for event in events] == [[["app"]]] * 2
    finally:
        stage.remove()
