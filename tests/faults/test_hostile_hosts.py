"""Hosts that are busy, that drop their rights, and that lose what a pusher might lean on."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

import socketpusher
from socketpusher import Bus, Event, PusherConfig, SocketPusher
from support import producer_script
from support.consumer import Consumer
from support.hostile import HELPERS, writers_of
from support.waiting import is_running, wait_for

SOURCE = os.path.dirname(os.path.dirname(socketpusher.__file__))


# A busy host


@pytest.mark.parametrize(("threads", "kills"), [(8, 4), (24, 1)])
def test_what_waits_survives_writers_that_are_killed_beside_busy_threads(
    socket_path: str, threads: int, kills: int
) -> None:
    """The host gets the GIL late, so a new writer is far ahead of what the host knows of the old one's death."""
    lines = f"""{HELPERS}
def work():
    while True:
        sum(range(1000))
pusher.start(wait=False)
for _ in range({threads}):
    threading.Thread(target=work, daemon=True).start()
emit(500)
for _ in range({kills}):
    kill_writer()
print(*books(), flush=True)
assert pusher.flush(60)
pusher.close(60)
print(*books(), flush=True)
os._exit(0)
"""
    host = producer_script.start(lines, socket_path)
    try:
        assert host.stdout is not None
        before = host.stdout.readline()
        consumer = Consumer(socket_path)
        output, errors = host.communicate(timeout=120)
    finally:
        host.kill()
        host.wait()
    wait_for(lambda: consumer.torn() == [b""])
    consumer.go_away()
    assert (host.returncode, before, output) == (0, "500 0 0 500\n", "500 500 0 0\n"), errors
    assert consumer.tasks() == list(range(500))


# Graphs larger than any pipe

GRAPH = """
graph = {f"unit-{number:05}": [f"unit-{number - 1:05}"] * (number % 10 > 0) for number in range(UNITS)}
pusher.set_graph(graph, 4)
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("units", [2_000, 20_000])
def test_close_keeps_its_deadline_though_each_new_writer_is_lost_while_it_starts(
    consumer: Consumer, units: int, how: str
) -> None:
    """What the writer is given, here a large graph, must not hold the host."""
    lines = f"""{HELPERS}
UNITS = {units}
{GRAPH}
pusher.start(30)
first = pusher.stats().writer_pid
lost = set()
def hunt():
    while True:
        for pid in writers():
            if pid != first and pid not in lost:
                lost.add(pid)
                try:
                    os.kill(pid, signal.{how})
                except ProcessLookupError:
                    pass
threading.Thread(target=hunt, daemon=True).start()
os.kill(first, 9)
until(lambda: len(lost) > 1 - ("{how}" == "SIGSTOP"), "the loss of a writer that starts")
emit(10)
began = now()
pusher.close(1)
print(now() - began < 11, books()[3], flush=True)
os._exit(0)
"""
    host = producer_script.start(lines, consumer.path)
    try:
        output, errors = host.communicate(timeout=60)
    finally:
        host.kill()
        host.wait()
    assert (host.returncode, output) == (0, "True 0\n"), errors
    for pid in writers_of(host.pid):  # stopped ones, which nobody but their host would have ended
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not writers_of(host.pid))


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("units", [2_000, 20_000])
def test_start_keeps_its_deadline_though_the_writer_is_lost_while_it_starts(
    consumer: Consumer, units: int, how: str
) -> None:
    lines = f"""{HELPERS}
UNITS = {units}
{GRAPH}
hunting = True
lost = set()
def hunt():
    while hunting:
        for pid in set(writers()) - lost:
            lost.add(pid)
            try:
                os.kill(pid, signal.{how})
            except ProcessLookupError:
                pass
hunter = threading.Thread(target=hunt, daemon=True)
hunter.start()
began = now()
try:
    pusher.start(3)
except OSError as error:
    pass
took = now() - began
hunting = False
hunter.join()
pusher.close(0)
print(bool(lost), took < 13, flush=True)
os._exit(0)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "True True\n"), errors


# The working directory


IN_A_DIRECTORY = """
directory = os.environ["DIRECTORY"]
os.mkdir(directory)
os.chdir(directory)
"""
EMIT_AND_KILL = """
emit(3)
assert pusher.flush(30)
kill_writer()
emit(3, 3)
assert pusher.flush(30)
pusher.close()
print(*books(), pusher.stats().writer_restarts)
"""
DIRECTORIES = {
    "deleted before start": "os.rmdir(directory)\npusher.start()",
    "deleted after start": "pusher.start()\nos.rmdir(directory)",
    "another one after start": "pusher.start()\nos.chdir('/')\nos.rmdir(directory)",
    "deleted, and the consumer is optional": "os.rmdir(directory)\npusher.start(wait=False)",
}


@pytest.mark.parametrize("fate", DIRECTORIES)
def test_a_removed_working_directory_does_not_matter(consumer: Consumer, tmp_path, fate: str) -> None:
    lines = f"{HELPERS}{IN_A_DIRECTORY}{DIRECTORIES[fate]}{EMIT_AND_KILL}"
    code, output, errors = producer_script.run(lines, consumer.path, env={"DIRECTORY": str(tmp_path / "gone")})
    assert (code, output) == (0, "6 6 0 0 1\n"), errors
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


def test_a_relative_entry_of_pythonpath_does_not_matter_in_a_removed_directory(consumer: Consumer, tmp_path) -> None:
    """An interpreter refuses to start there."""
    lines = f"{HELPERS}{IN_A_DIRECTORY}pusher.start()\nos.rmdir(directory){EMIT_AND_KILL}"
    path = os.pathsep.join([os.path.relpath(SOURCE), "elsewhere"])
    environment = {"DIRECTORY": str(tmp_path / "gone"), "PYTHONPATH": path}
    code, output, errors = producer_script.run(lines, consumer.path, env=environment)
    assert (code, output) == (0, "6 6 0 0 1\n"), errors
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


def test_a_relative_socket_path_stays_the_one_it_was(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
os.chdir(os.path.dirname(os.environ["SOCKET"]))
pusher = SocketPusher(bus, PusherConfig(socket_path=os.path.basename(os.environ["SOCKET"]), reconnect_backoff=0.01))
pusher.start()
os.chdir("/")
{EMIT_AND_KILL}"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "6 6 0 0 1\n"), errors
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


@pytest.mark.parametrize("where", ["after start", "before start"])
def test_relative_entries_of_sys_path_mean_what_they_meant_when_the_package_was_imported(
    consumer: Consumer, tmp_path, where: str
) -> None:
    """Without `site`, the package and its dependencies are found by these entries only; one of them is an archive."""
    import orjson
    import tenacity

    os.symlink(SOURCE, tmp_path / "lib")
    shutil.make_archive(
        str(tmp_path / "tenacity"), "zip", os.path.dirname(os.path.dirname(tenacity.__file__)), "tenacity"
    )
    os.mkdir(tmp_path / "site")
    os.symlink(os.path.dirname(orjson.__file__), tmp_path / "site" / "orjson")
    moved = {"after start": "pusher.start()\nos.chdir('/')", "before start": "os.chdir('/')\npusher.start()"}[where]
    before = "import sys\nsys.path[:0] = ['tenacity.zip', 'lib', 'site']\n"
    code = f"{before}{producer_script.PROLOGUE}{HELPERS}{moved}{EMIT_AND_KILL}"
    environment = {**os.environ, "SOCKET": consumer.path}
    environment.pop("PYTHONPATH", None)
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "6 6 0 0 1\n"), ended.stderr
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and setpriv(1)")
def test_a_working_directory_that_may_not_be_entered_does_not_matter(consumer: Consumer, tmp_path) -> None:
    directory = tmp_path / "closed"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    directory.chmod(0o700)
    code = f"{producer_script.PROLOGUE}{HELPERS}assert not os.access('.', os.R_OK)\npusher.start()\n{EMIT_AND_KILL}"
    ended = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-P", "-c", code],
        env={**os.environ, "SOCKET": consumer.path},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if ended.stderr.startswith("setpriv:"):
        pytest.skip(ended.stderr)
    assert (ended.returncode, ended.stdout) == (0, "6 6 0 0 1\n"), ended.stderr
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


# Rights


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_host_that_drops_its_rights_delivers_and_closes(socket_path: str) -> None:
    """Here the host may no longer signal its writer, nor remove what root has made."""
    lines = f"""{HELPERS}
import logging, traceback, linecache  # another user may not be able to read the interpreter's files
pusher.start(wait=False)
pid = pusher.stats().writer_pid
emit(3)
os.setgid(65534)
os.setuid(65534)
emit(3, 3)
print("ready", flush=True)
assert pusher.flush(30)
pusher.close()
print(*books(), pusher.stats().writer_restarts, running(pid), flush=True)
"""
    host = producer_script.start(lines, socket_path)
    try:
        assert host.stdout is not None
        host.stdout.readline()
        consumer = Consumer(socket_path)
        output, errors = host.communicate(timeout=60)
    finally:
        host.kill()
        host.wait()
    assert (host.returncode, output, errors) == (0, "6 6 0 0 0 False\n", "")
    assert consumer.wait_for_tasks(6) == list(range(6))
    consumer.go_away()


# The interpreter

EXECUTABLES = {
    "None": "None",
    "empty": "''",
    "missing": "'/nowhere/python'",
    "a directory": "os.environ['TOOLS']",
    "one that hangs": "os.environ['TOOLS'] + '/hangs'",
    "one that fails": "os.environ['TOOLS'] + '/fails'",
}


def tool(path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("executable", EXECUTABLES)
def test_an_interpreter_that_can_not_be_run_is_named_and_nothing_is_left(
    consumer: Consumer, tmp_path, executable: str
) -> None:
    os.mkfifo(tmp_path / "never")
    tool(tmp_path / "hangs", f"exec 3<>{tmp_path}/never; read word <&3")
    tool(tmp_path / "fails", "exit 3")
    lines = f"""{HELPERS}
before = len(os.listdir("/proc/self/fd"))
began = now()
try:
    pusher.start(1)
except OSError as error:
    text = str(error)
    print(sys.executable and sys.executable in text or "executable" in text, now() - began < 11)
    if not (sys.executable and sys.executable in text or "executable" in text):
        print(text)
print(threading.active_count(), len(os.listdir("/proc/self/fd")) - before, pusher.stats().writer_pid, writers())
"""
    before = f"import os, sys\nsys.executable = {EXECUTABLES[executable]}\n"
    code, output, errors = producer_script.run(lines, consumer.path, before=before, env={"TOOLS": str(tmp_path)})
    assert (code, output, errors) == (0, "True True\n1 0 None []\n", "")


@pytest.mark.parametrize("how", ["", "exec "])
def test_an_interpreter_may_be_a_wrapper(consumer: Consumer, tmp_path, how: str) -> None:
    tool(tmp_path / "python", f'{how}"{sys.executable}" "$@"')
    lines = f"{HELPERS}pid = os.getpid()\npusher.start()\n{EMIT_AND_KILL}"
    before = f"import sys\nsys.executable = {str(tmp_path / 'python')!r}\n"
    host = producer_script.start(lines, consumer.path, before=before)
    try:
        output, errors = host.communicate(timeout=60)
    finally:
        host.kill()
        host.wait()
    assert (host.returncode, output) == (0, "6 6 0 0 1\n"), errors
    wait_for(lambda: not writers_of(host.pid))
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


@pytest.mark.parametrize("where", ["host", "host and writer"])
def test_an_interpreter_without_ctypes_will_do(consumer: Consumer, tmp_path, where: str) -> None:
    without = "import sys\nsys.modules['_ctypes'] = sys.modules['ctypes'] = None\n"
    environment = {}
    if where != "host":
        (tmp_path / "sitecustomize.py").write_text(without)
        environment["PYTHONPATH"] = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    lines = f"{HELPERS}pusher.start()\n{EMIT_AND_KILL}"
    code, output, errors = producer_script.run(lines, consumer.path, before=without, env=environment)
    assert (code, output) == (0, "6 6 0 0 1\n"), errors
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


def test_names_of_units_may_be_an_enum_of_the_main_script(consumer: Consumer) -> None:
    lines = """
from enum import StrEnum
class Unit(StrEnum):
    SETUP = "setup"
    APP = "app"
pusher.set_graph({Unit.APP: [Unit.SETUP], Unit.SETUP: []}, 2)
with pusher:
    bus.emit(Event("unit.started", Unit.SETUP, task=1))
print(pusher.stats().sent)
"""
    assert producer_script.run(lines, consumer.path) == (0, "1\n", "")
    wait_for(lambda: len(consumer.lines()) == 2)
    graph, started = consumer.events()
    assert [node["id"] for node in graph.payload["nodes"]] == ["setup", "app"]
    assert started.unit == "setup"


# Memory


def test_what_waits_is_bounded_in_bytes_in_both_processes(socket_path: str) -> None:
    lines = f"""{HELPERS}
def peak(pid):
    return int(open(f"/proc/{{pid}}/status").read().split("VmHWM:")[1].split()[0]) / 1024
pusher = SocketPusher(bus, PusherConfig(socket_path=os.environ["SOCKET"]))
pusher.start(wait=False)
emit(1000, payload="x" * 900_000)
last = None
while last != (last := pusher.stats()):
    time.sleep(0.2)
print(peak("self"), peak(pusher.stats().writer_pid), flush=True)
print(*books(), flush=True)
assert pusher.flush(60)
pusher.close(60)
print(*books(), flush=True)
"""
    host = producer_script.start(lines, socket_path)
    try:
        assert host.stdout is not None
        peaks = [float(number) for number in host.stdout.readline().split()]
        emitted, sent, _, pending = map(int, host.stdout.readline().split())
        consumer = Consumer(socket_path)
        output, errors = host.communicate(timeout=120)
    finally:
        host.kill()
        host.wait()
    assert (host.returncode, emitted, sent) == (0, 1000, 0), errors
    emitted, sent, _, left = map(int, output.split())
    assert (emitted, left) == (1000, 0)
    assert sent == pending > 30
    assert consumer.wait_for_tasks(sent) == sorted(consumer.tasks())  # type: ignore[type-var]
    assert len(consumer.tasks()) == sent
    consumer.go_away()
    assert max(peaks) < 200, peaks  # MiB


# Refusals


def test_ids_rise_whatever_is_refused_while_threads_emit(bus: Bus, consumer: Consumer) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            bus.emit(Event("x", payload="x" * 20_000))

    interval = sys.getswitchinterval()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, event_ids=True, buffer_size=1 << 40)) as pusher:
        pid = pusher.stats().writer_pid
        assert pid is not None
        sys.setswitchinterval(1e-6)
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        try:
            for _ in range(20):
                dropped = pusher.stats().dropped
                os.kill(pid, signal.SIGSTOP)
                wait_for(lambda dropped=dropped: pusher.stats().dropped > dropped + 20)
                sent = pusher.stats().sent
                os.kill(pid, signal.SIGCONT)
                wait_for(lambda sent=sent: pusher.stats().sent > sent + 20)
        finally:
            os.kill(pid, signal.SIGCONT)
            stop.set()
            for worker in workers:
                worker.join()
            sys.setswitchinterval(interval)
        assert pusher.flush(60)
        stats = pusher.stats()
    assert (stats.emitted, stats.pending) == (stats.sent + stats.dropped, 0)
    wait_for(lambda: len(consumer.lines()) == stats.sent)
    ids = [int(line.rpartition(b"-")[2][:-2]) for line in consumer.lines()]
    assert [pair for pair in itertools.pairwise(ids) if pair[0] >= pair[1]] == []
    assert ids[-1] <= stats.emitted
    wait_for(lambda: not is_running(pid))
