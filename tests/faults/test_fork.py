"""A host that forks after `start`."""

import os
import signal

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, wire
from support import producer_script
from support.consumer import Consumer
from support.hostile import HELPERS
from support.waiting import wait_for

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Python warns that a process with threads forks, which is what is tried here.
FORK = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
fork = multiprocessing.get_context("fork")
def emit(kind, count, payload=None):
    for number in range(count):
        bus.emit(Event(kind, task=number, payload=payload))
pusher.start()
"""

WAYS = {
    "os.fork and os._exit": """
pid = os.fork()
if pid == 0:
    emit("child", 5)
    os._exit(0)
os.waitpid(pid, 0)
""",
    "os.fork and sys.exit": """
pid = os.fork()
if pid == 0:
    emit("child", 5000)
    sys.exit()
os.waitpid(pid, 0)
""",
    "multiprocessing": """
child = fork.Process(target=emit, args=("child", 5000))
child.start()
child.join()
""",
    "a pool": """
with fork.Pool(1) as pool:
    pool.apply(emit, ("child", 5000))
    pool.close()
    pool.join()
""",
    "a child that closes the pusher": """
def work():
    emit("child", 5000)
    assert pusher.flush()
    pusher.close()
    stats = pusher.stats()
    assert (stats.emitted, stats.sent, stats.dropped, stats.pending) == (5000, 5000, 0, 0), stats
child = fork.Process(target=work)
child.start()
child.join()
""",
    "a grandchild": """
def work():
    grandchild = fork.Process(target=emit, args=("child", 5000))
    grandchild.start()
    grandchild.join()
child = fork.Process(target=work)
child.start()
child.join()
""",
    "lines too large for a datagram": """
child = fork.Process(target=emit, args=("child", 5, "x" * 1_000_000))
child.start()
child.join()
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_events_of_a_forked_child_arrive_whole_and_the_parent_is_undisturbed(consumer: Consumer, way: str) -> None:
    lines = f"""{FORK}
emit("parent", 3)
{WAYS[way]}
emit("parent", 3)
with pusher:
    assert pusher.flush()
    assert pusher.connected
print(pusher.stats().emitted, pusher.stats().sent, pusher.stats().writer_restarts)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, errors) == (0, "")
    emitted = int(output.split()[0])
    assert output == f"{emitted} {emitted} 0\n"
    wait_for(lambda: len(consumer.lines()) == emitted)
    events = consumer.events()
    count = emitted - 6
    assert count in (5, 5000)
    assert [e.task for e in events if e.type == "child"] == list(range(count))
    assert [e.task for e in events if e.type == "parent"] == [0, 1, 2] * 2
    assert len(consumer.connections) == 1


def test_many_children_at_once_while_every_lock_is_in_use(consumer: Consumer) -> None:
    """Threads emit, flush and ask for the books while children are forked: whatever was locked, no child hangs."""
    lines = f"""{FORK}
stop = False
def work():
    while not stop:
        emit("parent", 20)
        pusher.stats()
        pusher.flush(0.01)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            emit("child", 10)
            pusher.stats()
            pusher.flush(10)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
stop = True
for thread in threads:
    thread.join()
pusher.close(30)
print(pusher.stats().dropped, flush=True)
"""
    code, output, errors = producer_script.run(lines, consumer.path, timeout=120)
    assert (code, output, errors) == (0, "0\n", "")
    wait_for(lambda: consumer.torn() == [b""])
    children = [event.task for event in consumer.events() if event.type == "child"]
    assert sorted(children) == sorted(list(range(10)) * 60)  # type: ignore[type-var]


def test_a_child_that_is_killed_while_it_emits_tears_nothing(consumer: Consumer) -> None:
    lines = f"""{FORK}
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        threading.Timer(0.005, os.kill, (os.getpid(), 9)).start()
        while True:
            emit("child", 1, "x" * 50_000)
            time.sleep(0.0005)
    os.waitpid(pid, 0)
    emit("parent", 1)
pusher.close(30)
"""
    code, _, errors = producer_script.run(lines, consumer.path, timeout=120)
    assert (code, errors) == (0, "")
    wait_for(lambda: consumer.torn() == [b""])
    for line in consumer.lines():
        wire.decode(line)
    assert [event.type for event in consumer.events()].count("parent") == 20


def test_a_child_whose_host_has_ended_is_not_delayed(consumer: Consumer) -> None:
    lines = f"""{HELPERS}{FORK}
pid = os.fork()
if pid == 0:
    until_end_of(host)
    emit("child", 3)
    stats = pusher.stats()
    print(stats.emitted, stats.sent, stats.dropped, stats.pending, flush=True)
    sys.exit()
os.kill(os.getpid(), 9)
"""
    code, output, _ = producer_script.run("host = os.getpid()\n" + lines, consumer.path)
    assert (code, output) == (-9, "3 0 3 0\n")


def test_a_forked_child_may_start_a_pusher_of_its_own(consumer: Consumer) -> None:
    lines = f"""{FORK}
def work():
    with SocketPusher(other := Bus(), config):
        other.emit(Event("own", task=1))
child = fork.Process(target=work)
child.start()
child.join()
emit("parent", 1)
pusher.close()
print(child.exitcode)
"""
    assert producer_script.run(lines, consumer.path) == (0, "0\n", "")
    wait_for(lambda: sorted(event.type for event in consumer.events()) == ["own", "parent"])


def test_a_forked_child_that_closes_the_pusher_keeps_nothing_of_it(consumer: Consumer) -> None:
    """A daemon closes what it has inherited, and starts a pusher of its own; the host is undisturbed."""
    lines = f"""
sys.path.append({TESTS!r})
from support.leftovers import descriptors
before = descriptors()
{FORK}
def work():
    emit("child", 5)
    pusher.close()
    assert (pusher.stats().emitted, pusher.stats().sent, pusher.connected) == (5, 5, False), pusher.stats()
    print(descriptors() - before, flush=True)
pid = os.fork()
if pid == 0:
    try:
        work()
    finally:
        os._exit(0)
os.waitpid(pid, 0)
emit("parent", 1)
assert pusher.flush()
assert pusher.connected
pusher.close()
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output, errors) == (0, "set()\n", "")
    wait_for(lambda: sorted(event.type for event in consumer.events()) == ["child"] * 5 + ["parent"])


def test_what_a_forked_child_has_emitted_last_is_sent_though_the_pusher_closes(bus, consumer: Consumer) -> None:
    """It is on its way when `close` begins."""
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.start()
    supervisor = pusher._supervisor
    tell = supervisor._request_shutdown

    def emitted_meanwhile(*args) -> None:
        list(supervisor._fork_channel.sending(wire.encode(Event("x", task=7)), 1))
        tell(*args)

    supervisor._request_shutdown = emitted_meanwhile
    pusher.close()
    assert consumer.wait_for_tasks(1) == [7]
    assert pusher.stats().sent == 1


def test_interrupts_of_a_forked_child_that_emits_lose_and_repeat_nothing_else(consumer: Consumer) -> None:
    """Also while the child's end of the channel is in use."""

    class Interrupted(KeyboardInterrupt):
        pass

    def interrupt(*_: object) -> None:
        if armed:
            armed.clear()
            raise Interrupted

    armed: list[None] = []
    bus = Bus()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1 << 40)) as pusher:
        result, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            sure = emitted = interrupts = 0
            try:
                signal.signal(signal.SIGALRM, interrupt)
                signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0013)
                while interrupts < 500:
                    try:
                        armed.append(None)
                        emitted += 1
                        bus.emit(Event("x", task=emitted))
                        sure += 1
                        armed.clear()
                    except Interrupted:
                        interrupts += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                pusher.flush(30)
                os.write(told, b"%d %d" % (sure, pusher.stats().dropped))
            finally:
                os._exit(0)
        os.close(told)
        os.waitpid(pid, 0)
        sure, dropped = map(int, os.read(result, 100).split())
        os.close(result)
        assert dropped == 0
        assert pusher.flush(30)
        sent = pusher.stats().sent
    assert sent >= sure
    tasks = consumer.wait_for_tasks(sent)
    assert len(tasks) == len(set(tasks))


def test_pending_log_records_of_the_host_are_not_written_by_a_forked_child(consumer: Consumer) -> None:
    lines = f"""{FORK}
import logging
class Slow(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
        may_go_on.wait(60)
said, may_go_on = [], threading.Event()
logging.getLogger("socketpusher").addHandler(Slow())
say = pusher._supervisor._log_message
say(logging.WARNING, "first")
while not said:
    time.sleep(0.001)
say(logging.WARNING, "second")
pid = os.fork()
if pid == 0:
    may_go_on.set()
    say(logging.WARNING, "of the child")
    while "of the child" not in said:
        time.sleep(0.001)
    print(said, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
may_go_on.set()
pusher.close()
print(said)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "['first', 'of the child']\n['first', 'second']\n"), errors


def test_flush_waits_for_what_a_forked_child_has_handed_over_before(bus, consumer: Consumer) -> None:
    """A host that has waited for its child may end right after a flush."""
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        for number in range(1, 101):
            list(pusher._supervisor._fork_channel.sending(wire.encode(Event("x", task=number)), 1))
            assert pusher.flush(30)
            assert pusher.stats().sent == number
