"""Hosts with children of their own: they wait for them, reap them, end them, and fork."""

import os
import signal
import sys

import pytest

from support import producer_script
from support.consumer import Consumer
from support.hostile import HELPERS, writers_of
from support.profile import scaled
from support.waiting import is_running, wait_for

QUIET = 'import warnings\nwarnings.simplefilter("ignore", DeprecationWarning)\n'


def test_a_host_that_ends_all_its_children_does_not_meet_the_writer(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
pusher.start()
children = multiprocessing.active_children()
for child in children:
    child.terminate()
    child.join()
emit(3)
assert pusher.flush(30)
pusher.close()
print(children, *books(), pusher.stats().writer_restarts)
"""
    assert producer_script.run(lines, consumer.path, timeout=30) == (0, "[] 3 3 0 0 0\n", "")
    assert consumer.wait_for_tasks(3) == [0, 1, 2]


@pytest.mark.parametrize("wait", [True, False])
def test_a_host_with_an_open_pusher_has_no_child_to_wait_for(consumer: Consumer, wait: bool) -> None:
    lines = f"""{HELPERS}
def no_child():
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
seen = []
pusher.start(wait={wait})
seen.append(no_child())
emit(3)
assert pusher.flush(30)
seen.append(no_child())
kill_writer()
emit(3, 3)
assert pusher.flush(30)
seen.append(no_child())
pusher.close()
seen.append(no_child())
print(seen)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "[None, None, None, None]\n"), errors


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process takes in orphans")
def test_a_host_that_adopts_orphans_has_no_zombie_of_a_writer(consumer: Consumer) -> None:
    """As one that is process 1 of a container."""
    lines = f"""{HELPERS}
import ctypes
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
pusher.start()
kill_writer()
pusher.close()
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child")
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "no child\n"), errors


def test_a_thread_that_asks_for_active_children_disturbs_no_start_and_no_close(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
stop = False
def ask():
    while not stop:
        multiprocessing.active_children()
thread = threading.Thread(target=ask)
thread.start()
restarts = 0
for number in range({scaled(6)}):
    with SocketPusher(bus, config) as pusher:
        emit(1, number)
    restarts += pusher.stats().writer_restarts
    assert pusher.stats().sent == 1, pusher.stats()
stop = True
thread.join()
print(restarts)
"""
    assert producer_script.run(lines, consumer.path, timeout=120) == (0, "0\n", "")
    assert consumer.wait_for_tasks(scaled(6)) == list(range(scaled(6)))


REAPERS = {
    "ignored before start": ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", ""),
    "ignored after start": ("", "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"),
    "ignored by whoever started the host": ("", ""),
    "a thread that waits": ("threading.Thread(target=reap, daemon=True).start()", ""),
    "a handler that waits": ("signal.signal(signal.SIGCHLD, reap_now)", ""),
}


@pytest.mark.parametrize("way", REAPERS)
def test_a_host_that_reaps_every_child_gets_another_writer(consumer: Consumer, way: str) -> None:
    before, after = REAPERS[way]
    lines = f"""{HELPERS}
def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.0005)
def reap_now(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
{before}
pusher.start()
{after}
emit(3)
assert pusher.flush(30)
kill_writer()
emit(3, 3)
assert pusher.flush(30)
kill_writer()
emit(3, 6)
assert pusher.flush(30)
pusher.close()
print(*books(), pusher.stats().writer_restarts)
"""
    ignore = (lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)) if "whoever" in way else None
    host = producer_script.start(lines, consumer.path, preexec_fn=ignore)
    try:
        output, errors = host.communicate(timeout=60)
    finally:
        host.kill()
        host.wait()
    assert (host.returncode, output) == (0, "9 9 0 0 2\n"), errors
    assert "Traceback" not in errors
    wait_for(lambda: set(consumer.tasks()) == set(range(9)))
    wait_for(lambda: not writers_of(host.pid))


def test_a_host_ends_though_a_forked_child_lives_on(consumer: Consumer) -> None:
    """The child has inherited whatever the pusher has open."""
    lines = f"""{HELPERS}{QUIET}
pusher.start()
emit(3)
child = os.fork()
if child == 0:
    os.closerange(0, 3)
    time.sleep(3600)
    os._exit(0)
print(child, flush=True)
"""
    host = producer_script.start(lines, consumer.path)
    assert host.stdout is not None
    child = int(host.stdout.readline())
    try:
        assert host.wait(30) == 0
        assert is_running(child)
        wait_for(lambda: not writers_of(host.pid))
    finally:
        os.kill(child, signal.SIGKILL)
        host.kill()
        host.communicate()
    assert consumer.wait_for_tasks(3) == [0, 1, 2]


def test_no_resource_tracker_is_started_and_nothing_is_named_in_shared_memory(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
from multiprocessing import resource_tracker
seen = set()
prefix = f"mp-test{{os.getpid()}}"
multiprocessing.current_process()._config["semprefix"] = f"/{{prefix}}"
def look():
    return {{name for name in os.listdir("/dev/shm") if prefix in name}}
def watch():
    while not stop:
        seen.update(look())
stop = False
thread = threading.Thread(target=watch)
thread.start()
with pusher:
    emit(3)
    assert pusher.flush(30)
    kill_writer()
    emit(3, 3)
stop = True
thread.join()
print(sorted(seen), resource_tracker._resource_tracker._pid)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "[] None\n"), errors


def test_a_host_that_daemonizes_after_start_counts_its_events_as_dropped_and_says_so_once(consumer: Consumer) -> None:
    """The pusher stays behind with the process that called `start`."""
    lines = f"""{HELPERS}{QUIET}
import logging
logging.basicConfig(format="%(message)s")
pusher.start()
emit(3)
assert pusher.flush(30)
if os.fork():
    os._exit(0)
os.setsid()
until_end_of(parent)
emit(3, 3)
pusher.flush(1)
stats = pusher.stats()
emit(3, 6)
pusher.flush(1)
print(stats.dropped, *books(), pusher.connected, flush=True)
pusher.close(1)
print(*books(), pusher.connected, flush=True)
"""
    code, output, errors = producer_script.run("parent = os.getpid()\n" + lines, consumer.path)
    assert (code, output) == (0, "3 6 0 6 0 False\n6 0 6 0 False\n"), errors
    assert len([line for line in errors.splitlines() if "dropped" in line]) == 1, errors
    assert "Traceback" not in errors
    assert consumer.tasks() == [0, 1, 2]


def test_a_host_with_a_pusher_has_one_thread_more(consumer: Consumer) -> None:
    """From 3.12 on, Python warns of a fork beside threads, so there should be few."""
    lines = f"""{HELPERS}
def threads():
    return threading.active_count(), len(os.listdir("/proc/self/task"))
seen = [threads()]
pusher.start()
seen.append(threads())
emit(10)
assert pusher.flush(30)
seen.append(threads())
pusher.close()
until(lambda: threads() == (1, 1), "the end of the thread")
print(seen)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "[(1, 1), (2, 2), (2, 2)]\n"), errors


def test_a_pool_of_forked_processes_works_beside_a_pusher(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
from concurrent.futures import ProcessPoolExecutor
def work(number):
    emit(1, number)
    return number * number
with pusher:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        print(list(pool.map(work, range(10))))
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, f"{[number * number for number in range(10)]}\n"), errors
    said = [line for line in errors.splitlines() if not line.startswith(" ")]
    assert all("use of fork() may lead to deadlocks" in line for line in said), errors
    assert sys.version_info >= (3, 12) or not said
    assert sorted(consumer.wait_for_tasks(10)) == list(range(10))  # type: ignore[type-var]


# Whatever a thread of the host has locked when another one forks

FORK_MANY = """
import faulthandler
def forked(work, count):
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # ends a child that hangs
            faulthandler.dump_traceback_later(15)  # and this tells where
            try:
                work()
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(1)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if status:
            print("a child ended with", status, flush=True)
            os._exit(1)
"""


def test_a_child_forked_while_another_thread_subscribes_can_subscribe(consumer: Consumer) -> None:
    lines = f"""{HELPERS}{QUIET}{FORK_MANY}
sys.setswitchinterval(1e-5)
def subscribe():
    while True:
        bus.subscribe(print)()
for _ in range(4):
    threading.Thread(target=subscribe, daemon=True).start()
forked(lambda: bus.subscribe(print)(), {scaled(300)})
print("done", flush=True)
os._exit(0)
"""
    code, output, errors = producer_script.run(lines, consumer.path, timeout=120)
    assert (code, output) == (0, "done\n"), errors


def test_start_imports_nothing(consumer: Consumer) -> None:
    """A child forked in the middle of an import would wait for ever when it starts a pusher of its own."""
    lines = f"""{HELPERS}
before = set(sys.modules)
pusher.start()
print(*set(sys.modules) - before)
pusher.close()
"""
    assert producer_script.run(lines, consumer.path) == (0, "\n", "")


def test_a_child_forked_while_another_thread_starts_a_pusher_can_start_its_own(consumer: Consumer) -> None:
    lines = f"""{HELPERS}{QUIET}{FORK_MANY}
theirs = pusher
def start():
    global theirs
    while True:
        theirs = SocketPusher(Bus(), config)
        theirs.start()
        theirs.close()
threading.Thread(target=start, daemon=True).start()
def work():
    theirs.close(1)
    other = Bus()
    own = SocketPusher(other, config)
    own.start(60)  # the machine may be busy, and the other thread starts one writer after the other
    with own:
        other.emit(Event("own"))
        assert own.flush(10)
    assert own.stats().sent == 1, own.stats()
forked(work, {scaled(12)})
print("done", flush=True)
os._exit(0)
"""
    code, output, errors = producer_script.run(lines, consumer.path, timeout=120)
    assert (code, output) == (0, "done\n"), errors
    wait_for(lambda: [event.type for event in consumer.events()].count("own") == scaled(12))


def test_a_child_forked_in_the_middle_of_start_can_close_and_start(consumer: Consumer) -> None:
    """The bus of this host takes its time to subscribe a handler, so `start` is certainly not over."""
    lines = f"""{HELPERS}{QUIET}{FORK_MANY}
inside, go_on = threading.Event(), threading.Event()
class Slow(Bus):
    def subscribe(self, handler):
        inside.set()
        go_on.wait()
        return super().subscribe(handler)
pusher = SocketPusher(Slow(), config)
starting = threading.Thread(target=pusher.start)
starting.start()
inside.wait()
def work():
    pusher.close(1)
    other = Bus()
    with SocketPusher(other, config):
        other.emit(Event("own"))
forked(work, 3)
go_on.set()
starting.join()
pusher.close()
print("done", pusher.stats().writer_restarts)
"""
    assert producer_script.run(lines, consumer.path) == (0, "done 0\n", "")
    wait_for(lambda: [event.type for event in consumer.events()] == ["own"] * 3)
