"""From where a pusher can be started, and how it ends, however its host ends."""

import importlib
import os
import subprocess
import sys

import pytest

from socketpusher import Bus, PusherConfig, SocketPusher
from support import producer_script
from support.consumer import Consumer
from support.profile import scaled
from support.waiting import is_running, wait_for

SEND_THREE = """
with pusher:
    for number in range(3):
        bus.emit(Event("x", task=number))
    pid = pusher.stats().writer_pid
print(pid)
"""


@pytest.mark.parametrize("name", ["PYTHONVERBOSE", "PYTHONPROFILEIMPORTTIME"])
def test_a_verbose_interpreter_does_not_fill_the_log(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)):
        pass
    assert caplog.text == ""


@pytest.mark.parametrize("how", ["file", "command", "input", "module"])
def test_a_host_without_a_main_guard_sends_its_events(consumer: Consumer, how: str) -> None:
    code, _output, errors = producer_script.run(SEND_THREE, consumer.path, how)
    assert (code, errors) == (0, "")
    assert consumer.wait_for_tasks(3) == [0, 1, 2]


def test_the_writer_does_not_import_what_the_host_imports(consumer: Consumer) -> None:
    """Measured by its memory maps: numpy's shared libraries are in the host's, not in the writer's."""
    lines = """
import numpy
with pusher:
    maps = open(f"/proc/{pusher.stats().writer_pid}/maps").read()
    assert "numpy" in open("/proc/self/maps").read()
    assert "orjson" in maps
    print("numpy" in maps)
"""
    assert producer_script.run(lines, consumer.path) == (0, "False\n", "")


def test_the_writer_does_not_import_tornado_which_tenacity_would_where_it_is(consumer: Consumer, tmp_path) -> None:
    """It takes time at each start, and whatever it does there is done in the writer."""
    for name in ("orjson", "tenacity"):
        os.symlink(os.path.dirname(importlib.import_module(name).__file__ or ""), tmp_path / name)
    (tmp_path / "tornado.py").write_text("raise ZeroDivisionError")
    before = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    code, _output, errors = producer_script.run(SEND_THREE, consumer.path, before=before)
    assert (code, errors) == (0, "")
    assert consumer.wait_for_tasks(3) == [0, 1, 2]


def test_a_host_with_threads_that_start_processes_is_not_disturbed(consumer: Consumer) -> None:
    """While the writer is started, other threads start processes, which must get the main module as ever."""
    code = """
import multiprocessing, sys
sys.path.insert(0, os.environ["HERE"])

def child(queue):
    queue.put(sys.modules["__main__"].MARK)

MARK = "main module"
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    stop = False
    def work():
        while not stop:
            process = context.Process(target=child, args=(queue,))
            process.start()
            process.join()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(STARTS):
        with SocketPusher(bus, config):
            bus.emit(Event("x"))
    stop = True
    for thread in threads:
        thread.join()
    marks = []
    while not queue.empty():
        marks.append(queue.get())
    print(set(marks))
"""
    # Not as a file that removes itself: here the children do need it.
    with open(os.path.join(os.path.dirname(consumer.path), "host.py"), "w") as file:
        file.write(producer_script.PROLOGUE + f"STARTS = {scaled(3)}\n" + code)
    import subprocess
    import sys

    try:
        ended = subprocess.run(
            [sys.executable, file.name],
            env={**os.environ, "SOCKET": consumer.path, "HERE": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        os.unlink(file.name)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "{'main module'}\n", "")


def test_a_daemonic_worker_sends_its_events_though_it_may_not_have_children_of_multiprocessing(
    consumer: Consumer,
) -> None:
    """As in `multiprocessing.Pool`, whose workers are ended by SIGTERM."""
    lines = """
import multiprocessing
def work(number):
    if number == 0:
        pusher.start()
    bus.emit(Event("x", task=number))
    assert pusher.flush(30)  # or SIGTERM comes before the last ones are in the queue
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.map(work, range(3))
"""
    assert producer_script.run(lines, consumer.path) == (0, "", "")
    assert consumer.wait_for_tasks(3) == [0, 1, 2]


def test_a_multiprocessing_worker_sends_its_events_when_it_ends(consumer: Consumer) -> None:
    lines = """
import multiprocessing
def work():
    pusher.start()
    for number in range(3):
        bus.emit(Event("x", task=number))
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
print(worker.exitcode)
"""
    assert producer_script.run(lines, consumer.path) == (0, "0\n", "")
    assert consumer.wait_for_tasks(3) == [0, 1, 2]


ENDINGS = {
    "return": "",
    "sys.exit": "sys.exit(3)",
    "exception": "raise ZeroDivisionError",
    "sigterm with a handler": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); os.kill(os.getpid(), 15)",
    "sigint": "os.kill(os.getpid(), 2); time.sleep(60)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_pusher_still_open_when_the_interpreter_ends_sends_what_it_has(consumer: Consumer, ending: str) -> None:
    lines = f"""
pusher.start()
print(pusher.stats().writer_pid, flush=True)
for number in range(2000):
    bus.emit(Event("x", task=number))
{ENDINGS[ending]}
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert code == {"return": 0, "sys.exit": 3, "exception": 1, "sigterm with a handler": 4, "sigint": -2}[ending]
    assert "socketpusher" not in errors
    assert consumer.wait_for_tasks(2000) == list(range(2000))
    wait_for(lambda: not is_running(output))


def test_an_open_pusher_does_not_hold_the_interpreter_beyond_its_deadline(consumer: Consumer) -> None:
    consumer.stall()
    lines = """
import socketpusher.pusher
socketpusher.pusher.EXIT_DEADLINE = 0.2
pusher.start()
for number in range(5000):
    bus.emit(Event("x", payload="x" * 1000))
"""
    code, _, errors = producer_script.run(lines, consumer.path)
    assert code == 0
    assert "events unsent" in errors


def test_a_pusher_that_is_collected_sends_what_it_has_and_ends(consumer: Consumer) -> None:
    lines = """
pusher.start()
for number in range(2000):
    bus.emit(Event("x", task=number))
pid = pusher.stats().writer_pid
del pusher
while os.path.exists(f"/proc/{pid}"):
    time.sleep(0.001)
print(bus._handlers)
"""
    assert producer_script.run(lines, consumer.path) == (0, "()\n", "")
    assert consumer.wait_for_tasks(2000) == list(range(2000))


def test_events_emitted_while_the_interpreter_ends_are_sent(consumer: Consumer) -> None:
    """In an atexit function, and in a thread that outlives the main one: no thread can be started there."""
    lines = """
import atexit
def late():
    for number in range(3):
        bus.emit(Event("x", task=number))
pusher.start()
atexit.register(late)
def linger():
    threading.main_thread().join()
    bus.emit(Event("x", task=-1))
threading.Thread(target=linger).start()
"""
    assert producer_script.run(lines, consumer.path) == (0, "", "")
    assert consumer.wait_for_tasks(4) == [-1, 0, 1, 2]


def test_a_reader_of_the_hosts_output_does_not_wait_for_the_writer(consumer: Consumer) -> None:
    """A host that is killed leaves a writer for up to five seconds; its standard streams end at once."""
    consumer.stall()
    lines = """
pusher.start()
for number in range(5000):
    bus.emit(Event("x", payload="x" * 1000))
pusher.flush(0.2)
print(pusher.stats().writer_pid, flush=True)
os.kill(os.getpid(), 9)
"""
    host = producer_script.start(lines, consumer.path)
    output, _ = host.communicate(timeout=60)
    assert is_running(output)
    consumer.go_on()
    wait_for(lambda: not is_running(output))


FROZEN = """import os, sys
sys.frozen = True  # as PyInstaller sets it, and the executable is the program itself
sys.executable = os.environ["PROGRAM"]
import socketpusher
if "CALLED" in os.environ:
    socketpusher.freeze_support()
from socketpusher import Bus, Event, PusherConfig, SocketPusher
bus = Bus()
with SocketPusher(bus, PusherConfig(socket_path=os.environ["SOCKET"])):
    bus.emit(Event("x", task=0))
"""


@pytest.mark.parametrize("called", [True, False])
def test_a_frozen_program_runs_its_writer_or_gets_an_error(consumer: Consumer, tmp_path, called: bool) -> None:
    program = tmp_path / "program"
    (tmp_path / "main.py").write_text(FROZEN)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/main.py" "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PROGRAM": str(program), "SOCKET": consumer.path} | ({"CALLED": "1"} if called else {})
    ended = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60)
    if called:
        assert (ended.returncode, ended.stderr) == (0, "")
        assert consumer.wait_for_tasks(1) == [0]
    else:
        assert "call socketpusher.freeze_support() first in the main module" in ended.stderr
