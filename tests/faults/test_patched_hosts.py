"""Hosts that replace what a pusher is made of: the standard library, threads, the clock, logging, warnings."""

import importlib.util
import os
import signal
import subprocess
import threading

import pytest

from support import producer_script
from support.consumer import Consumer
from support.hostile import HELPERS
from support.profile import spread
from support.waiting import stop, wait_for

# Functions of the standard library that fail once, in any thread but the main one

FAILING = {
    "os.posix_spawn": "ValueError",
    "os.pidfd_open": "PermissionError",
    "os.memfd_create": "OverflowError",
    "os.pipe2": "RuntimeError",
    "os.readv": "ValueError",
    "os.write": "RuntimeError",
    "os.waitid": "RuntimeError",
    "os.set_blocking": "ValueError",
    "select.poll": "ValueError",
    "socket.socketpair": "ValueError",
    "json.dumps": "RecursionError",
    "json.loads": "RecursionError",
    "signal.pidfd_send_signal": "ValueError",
}


@pytest.mark.parametrize("name", list(FAILING)[:: spread(1)])
def test_what_fails_once_in_the_thread_of_the_pusher_is_logged_and_costs_nothing_else(
    consumer: Consumer, name: str
) -> None:
    lines = f"""{HELPERS}
import json, logging, select, socket
logging.basicConfig(format="%(message)s")
failed = False
def fail_once(owner, name):
    whole = getattr(owner, name)
    def failing(*arguments, **options):
        global failed
        if armed and not failed and threading.current_thread() is not threading.main_thread():
            failed = True
            raise {FAILING[name]}("made to fail")
        return whole(*arguments, **options)
    setattr(owner, name, failing)
armed = False
fail_once({name.rpartition(".")[0]}, "{name.rpartition(".")[2]}")
pusher.start()
emit(3)
assert pusher.flush(30)
armed = True
kill_writer()
emit(3, 3)
assert pusher.flush(30)
kill_writer()
emit(3, 6)
assert pusher.flush(30)
armed = False
pusher.close()
print(*books(), writers(), threading.active_count())
print(failed)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output.splitlines()[:1]) == (0, ["9 9 0 0 [] 1"]), errors
    assert output.splitlines()[1:] == ["True"], "nothing of the pusher's thread calls it any more"
    assert "made to fail" in errors or name == "os.pidfd_open"  # it can do without
    wait_for(lambda: set(consumer.tasks()) == set(range(9)))


@pytest.mark.parametrize("error", ["ValueError", "PermissionError", "RuntimeError"])
def test_a_start_that_fails_inside_leaves_nothing_and_may_be_repeated(consumer: Consumer, error: str) -> None:
    lines = f"""{HELPERS}
import subprocess, multiprocessing.util
armed = True
def failing(whole):
    def function(*arguments, **options):
        global armed
        if armed:
            armed = False
            raise {error}("made to fail")
        return whole(*arguments, **options)
    return function
os.posix_spawn = failing(os.posix_spawn)
multiprocessing.util.spawnv_passfds = failing(multiprocessing.util.spawnv_passfds)
before = len(os.listdir("/proc/self/fd"))
try:
    pusher.start(10)
except Exception as error:
    print("made to fail" in str(error), threading.active_count(), len(os.listdir("/proc/self/fd")) - before, writers())
    pusher.start()
emit(3)
pusher.close()
print(*books())
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "True 1 0 []\n3 3 0 0\n"), errors
    assert consumer.wait_for_tasks(3) == [0, 1, 2]


# Logging


def test_a_logging_handler_may_close_the_pusher_when_logging_shuts_down(consumer: Consumer) -> None:
    """`logging.shutdown` calls it with the handler's lock held, and the pusher has something to say."""
    consumer.stall()
    lines = f"""{HELPERS}
import logging
class Closing(logging.StreamHandler):
    def close(self):
        pusher.close(0.5)
        super().close()
logging.getLogger().addHandler(Closing())
pusher.start()
emit(900, payload="x" * 3000)
began = now()
logging.shutdown()
print(now() - began < 11, books()[3], flush=True)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    consumer.go_on()
    assert (code, output) == (0, "True 0\n"), errors


RAISING = {
    "a handler": "logging.Handler.emit = fail\nlogging.getLogger().addHandler(logging.Handler())",
    "a filter": "handler = logging.StreamHandler()\nhandler.addFilter(fail)\nlogging.getLogger().addHandler(handler)",
    "a handler that exits": "logging.Handler.emit = leave\nlogging.getLogger().addHandler(logging.Handler())",
}


@pytest.mark.parametrize("what", RAISING)
def test_logging_that_raises_does_not_end_the_pusher(consumer: Consumer, what: str) -> None:
    lines = f"""{HELPERS}
import logging
called = 0
def fail(*_):
    global called
    called += 1
    raise ValueError("made to fail")
def leave(*_):
    global called
    called += 1
    raise SystemExit(7)
{RAISING[what]}
pusher.start()
emit(3)
assert pusher.flush(30)
kill_writer()
emit(3, 3)
assert pusher.flush(30)
kill_writer()
emit(3, 6)
assert pusher.flush(30)
until(lambda: called, "a call of what raises")
pusher.close()
print(*books())
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "9 9 0 0\n"), errors
    wait_for(lambda: set(consumer.tasks()) == set(range(9)))


BLOCKING = {
    "a handler": "logging.Handler.emit = block\nlogging.getLogger().addHandler(logging.Handler())",
    "a filter": "handler = logging.StreamHandler()\nhandler.addFilter(block)\nlogging.getLogger().addHandler(handler)",
}


@pytest.mark.parametrize("consumed", [True, False])
@pytest.mark.parametrize("what", BLOCKING)
def test_logging_that_blocks_for_ever_does_not_hold_the_pusher(consumer: Consumer, what: str, consumed: bool) -> None:
    """In a thread that is not the host's own: whoever logs there waits for ever."""
    lines = f"""{HELPERS}
import logging
called = 0
def block(*_):
    global called
    if threading.current_thread() is threading.main_thread():
        return True
    called += 1
    threading.Event().wait()
{BLOCKING[what]}
pusher.start()
emit(3)
assert pusher.flush(30)
kill_writer()
emit(3, 3)
assert pusher.flush(30)
kill_writer()
emit(3, 6)
assert pusher.flush(30)
until(lambda: called, "a call of what blocks")
pushing = threading.Thread(target=pusher._supervisor.outbox.push, args=("no event",), daemon=True)
pushing.start()
pushing.join(30)
assert not pushing.is_alive(), "an emit waits for the log"
print("flushed", flush=True)
sys.stdin.readline()
emit(900, 9, "x" * 3000)
began = now()
pusher.close(1)
print(now() - began < 11, books()[3], writers(), flush=True)
os._exit(0)  # for logging.shutdown waits, whatever a pusher does
"""
    host = producer_script.start(lines, consumer.path, stdin=subprocess.PIPE)
    try:
        wait_for(lambda: set(consumer.tasks()) == set(range(9)) or host.poll() is not None)
        if not consumed:
            consumer.stall()
        output, errors = host.communicate("\n", timeout=60)
    finally:
        host.kill()
        host.wait()
        consumer.go_on()
    assert (host.returncode, output) == (0, "flushed\nTrue 0 []\n"), errors


# Warnings


def test_start_restart_and_close_emit_no_warnings(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
import gc
pusher.start()
emit(100)
assert pusher.flush(30)
kill_writer()
emit(100, 100)
assert pusher.flush(30)
pusher.close()
collected = SocketPusher(bus, config)
collected.start()
del collected
gc.collect()
last = SocketPusher(bus, config)
last.set_graph({{"a": []}}, 1)
last.start(wait=False)
emit(1, 200)
gc.collect()
print(*books(), pusher.stats().writer_restarts)
"""
    strict = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
    code, output, errors = producer_script.run(lines, consumer.path, env=strict)
    assert (code, output) == (0, "200 200 0 0 1\n"), errors
    assert len(errors.splitlines()) == 1, errors
    assert "the writer process" in errors
    wait_for(lambda: set(consumer.tasks()) == set(range(201)))


# The clock


@pytest.mark.parametrize("tick", ["", ", tick=True", ", auto_tick_seconds=3600"])
@pytest.mark.parametrize("reads", [True, False])
def test_a_frozen_clock_changes_no_deadline(consumer: Consumer, reads: bool, tick: str) -> None:
    lines = f"""{HELPERS}
from freezegun import freeze_time
with freeze_time("1999-02-02"{tick}):
    pusher.start()
    emit(3)
    assert pusher.flush(30)
    print("stall", flush=True)
    sys.stdin.readline()
    emit(900, 3, "x" * 3000)
    began = now()
    flushed = pusher.flush(0.5 if not {reads} else 30)
    pusher.close(1 if not {reads} else 30)
    print(flushed, now() - began < 12, books()[3])
"""
    host = producer_script.start(lines, consumer.path, stdin=subprocess.PIPE)
    try:
        assert host.stdout is not None
        host.stdout.readline()
        if not reads:
            consumer.stall()
        output, errors = host.communicate("\n", timeout=60)
    finally:
        host.kill()
        host.wait()
        consumer.go_on()
    assert (host.returncode, output) == (0, f"{reads} True 0\n"), errors
    wait_for(lambda: len(consumer.lines()) >= 3)
    events = consumer.events()
    assert [event.task for event in events[:3]] == [0, 1, 2]
    assert all(1999 <= event.time.year < 2020 for event in events if event.time)


def test_start_keeps_its_deadline_beside_a_frozen_clock(socket_path: str) -> None:
    lines = f"""{HELPERS}
import socket
from freezegun import freeze_time
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["SOCKET"])
listener.listen(0)
full = []
while True:
    full.append(socket.socket(socket.AF_UNIX))
    full[-1].setblocking(False)
    try:
        full[-1].connect(os.environ["SOCKET"])
    except BlockingIOError:
        break
began = now()
with freeze_time("1999-02-02"):
    try:
        pusher.start(1)
    except TimeoutError:
        print("too late", now() - began < 11)
os.unlink(os.environ["SOCKET"])
"""
    try:
        code, output, errors = producer_script.run(lines, socket_path)
    finally:
        if os.path.exists(socket_path):
            os.unlink(socket_path)
    assert (code, output) == (0, "too late True\n"), errors


# Threads

PATCHES = {
    "gevent": "from gevent import monkey\nmonkey.patch_all()\n",
    "eventlet": "import eventlet\neventlet.monkey_patch()\n",
}


@pytest.mark.parametrize("library", PATCHES)
def test_emit_never_waits_in_a_host_of_green_threads(consumer: Consumer, library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    lines = f"""{HELPERS}
pusher = SocketPusher(bus, PusherConfig(os.environ["SOCKET"], buffer_size=1 << 40))
pusher.start()
print(pusher.stats().writer_pid, flush=True)
sys.stdin.readline()
emit(100_000, payload="x" * 200)
print("emitted", flush=True)
sys.stdin.readline()
assert pusher.flush(60)
pusher.close(60)
print(*books(), flush=True)
"""
    host = producer_script.start(
        lines, consumer.path, before=PATCHES[library], stdin=subprocess.PIPE, env={"PYTHONWARNINGS": "ignore"}
    )
    deadline = threading.Timer(60, host.kill)  # which ends a read that waits for its output
    deadline.start()
    writer = 0
    try:
        assert host.stdin is not None and host.stdout is not None
        writer = int(host.stdout.readline() or 0)
        assert writer
        stop(writer)
        host.stdin.write("\n")
        host.stdin.flush()
        assert host.stdout.readline() == "emitted\n"
        os.kill(writer, signal.SIGCONT)
        output, errors = host.communicate("\n", timeout=120)
    finally:
        deadline.cancel()
        deadline.join()
        if writer and host.poll() is None:
            os.kill(writer, signal.SIGCONT)
        host.kill()
        host.communicate()
    assert host.returncode == 0, errors
    emitted, sent, dropped, pending = map(int, output.split())
    assert (emitted, sent + dropped, pending) == (100_000, 100_000, 0)
    assert sent > 0
    wait_for(lambda: len(consumer.lines()) == sent)
    tasks = consumer.tasks()
    assert tasks == sorted(set(tasks))  # type: ignore[type-var]
