"""The hostile hosts of the storm: each a process of its own with its own pusher and listener, all at once.

`KINDS` says what each does while it lives. At its end no process, thread or descriptor may be left (`END`), its books
must add up, and its listener must have every event that they do not count as dropped (`Host.judge`).
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from socketpusher import wire
from support import producer_script
from support.hostile import HELPERS
from support.recorder import Recorder
from support.waiting import is_running

BEGIN = f"""{HELPERS}
import faulthandler, itertools, json, random, subprocess, tempfile, traceback, warnings
warnings.simplefilter("ignore")
sys.path.append(os.environ["TESTS"])
from support.leftovers import left_behind
random.seed(os.environ["SEED"])
report = os.environ["REPORT"]
stacks = open(report + ".stacks", "w")
faulthandler.register(signal.SIGUSR1, file=stacks)
end = now() + float(os.environ["SECONDS"])
config = PusherConfig(os.environ["SOCKET"], event_ids=True, reconnect_backoff=0.01, max_reconnect_backoff=0.1)
total = [0, 0, 0, 0]  # the books of pushers that are closed
old = set()  # closed ones whose books are not in it yet
given = itertools.count()  # events that the bus was given, in this process
def going():
    return now() < end
def loop(*actions):
    while True:
        random.choice(actions)()
        emit(random.randrange(1, 40), payload="x" * random.choice([0, 10, 300, 5000]))
        time.sleep(random.choice([0, 0.001, 0.02]))
        if not going():
            return
def nothing():
    pass
def kill_writer():
    pid = pusher.stats().writer_pid
    if pid and random.random() < 0.1:
        try:
            os.kill(pid, random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM]))
            time.sleep(0.01)
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
def open_another():
    global pusher
    old.add(pusher)
    pusher.close(10)
    pusher = SocketPusher(bus, config)
    pusher.start(wait=False)
def reopen():
    if random.random() < 0.1:
        open_another()
threads = []
def background(work):
    def run():
        while going():
            work()
    threads.append(threading.Thread(target=run))
    threads[-1].start()
def forked(work):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # ends a child that hangs
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
def settle(books):
    total[:] = map(sum, zip(total, books))
before = left_behind()
pusher = SocketPusher(bus, config)
pusher.start(wait=False)
count = bus.subscribe(lambda event: next(given))
"""

END = """
for thread in threads:
    thread.join()
assert pusher.flush(60), pusher.stats()
stats = pusher.stats()
assert books()[3] == 0, stats
pusher.close(30)
assert pusher.stats().sent == stats.sent, (stats, pusher.stats())
assert not pusher.connected
for pusher in {*old, pusher}:
    settle(books())
limit = now() + 30
while left := left_behind() - before:
    assert now() < limit, left
    time.sleep(0.01)
assert multiprocessing.active_children() == []
with open(report, "w") as file:
    json.dump([*total, next(given) if exact else None], file)
"""

KINDS = {
    "reaper": """
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
loop(
    kill_writer,
    reopen,
    lambda: signal.signal(signal.SIGCHLD, random.choice([reap, signal.SIG_IGN])),
    lambda: os.posix_spawn("/bin/true", ["true"], {}),
)
signal.signal(signal.SIGCHLD, reap)
reap()
exact = False
""",
    "ender": """
fork = multiprocessing.get_context("fork")
def end_children():
    for child in multiprocessing.active_children():
        child.terminate()
        child.join()
    time.sleep(0.01)
background(end_children)
loop(kill_writer, lambda: fork.Process(target=emit, args=(50,)).start())
for thread in threads:
    thread.join()
end_children()
exact = False
""",
    "signals": """
class Timeout(Exception):
    pass
may_raise = reopening = False
def once(work):
    global reopening
    if not reopening:
        reopening = True
        try:
            work()
        finally:
            reopening = False
def on_signal(*_):
    global may_raise
    if random.random() < 0.5:
        emit(3)
    elif may_raise:
        may_raise = False
        raise Timeout
    else:
        once(reopen)
signal.signal(signal.SIGALRM, on_signal)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.003)
def interrupted():
    global may_raise
    try:
        may_raise = True
        emit(100)
        may_raise = False
    except Timeout:
        once(open_another)  # for it may have come in the middle of that
loop(interrupted, lambda: once(reopen), kill_writer)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
exact = False
""",
    "forks": """
def some():
    emit(5)
    time.sleep(0.005)
for _ in range(3):
    background(some)
def child():
    def work():
        emit(20)
        emit(3, payload="x" * random.choice([10, 40_000, 1_000_000]))
        assert pusher.flush(30)
        assert books() == (23, 23, 0, 0)
    status = forked(work)
    assert status == 0, status
    for _ in range(23):
        next(given)
loop(child, kill_writer)
exact = True
""",
    "closed": """
sys.stdin = sys.stdout = sys.stderr = None
os.closerange(0, 3)
loop(kill_writer)
exact = True
""",
    "busy": """
for _ in range(12):
    background(lambda: sum(range(1000)))
loop(kill_writer, kill_writer, nothing)
exact = True
""",
    "nowhere": """
def move():
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    os.rmdir(directory)
loop(move, kill_writer, reopen)
exact = False
""",
    "logging": """
import logging
free = threading.Event()
def misbehave(*_):
    if random.random() < 0.3:
        raise random.choice([ValueError, SystemExit])
    if threading.current_thread() is not threading.main_thread():
        free.wait(random.choice([0, 0.1, 3]))
    return True
logging.Handler.emit = misbehave
logging.getLogger().addHandler(logging.Handler())
logging.getLogger("socketpusher").addFilter(misbehave)
cycle = []
cycle.append(cycle)
loop(kill_writer, lambda: emit(1, payload=cycle))
free.set()
exact = True
""",
    "frozen": """
from freezegun import freeze_time
with freeze_time("1999-02-02"):
    loop(kill_writer, reopen)
exact = False
""",
    "daemon": """
def daemonize():
    global pusher, before
    if random.random() > 0.05:
        return
    assert pusher.flush(60)
    settle(books())
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    until_end_of(parent)
    emit(100)
    assert not pusher.connected
    pusher.flush(1)
    assert books() == (100, 0, 100, 0), books()
    settle(books())
    pusher.close()
    pusher = SocketPusher(bus, config)
    pusher.start(wait=False)
loop(daemonize, kill_writer)
exact = True
""",
    "cycles": """
interrupts = False
def on_signal(*_):
    global interrupts
    if interrupts:
        interrupts = False
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, on_signal)
def cycle():
    global pusher, interrupts
    old.add(pusher)
    pusher.close(10)
    pusher = SocketPusher(bus, config)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.2))
    try:
        interrupts = True
        pusher.start(wait=random.random() < 0.5)
        emit(random.randrange(300))
        pusher.flush(random.choice([0, 10]))
        pusher.close(10)
        interrupts = False
    except (KeyboardInterrupt, OSError):
        pass
    interrupts = False
    pusher.close(10)
    assert pusher.stats().writer_pid is None
    books()
    open_another()
loop(cycle)
exact = False
""",
    "gevent": """
for _ in range(3):
    threads.append(gevent.spawn(lambda: [(emit(5), gevent.sleep(0.01)) for _ in iter(going, False)]))
loop(kill_writer)
exact = True
""",
}

# What a pusher has sent is with the kernel when it closes. Nobody sends it again if the listener is killed then, so
# only the listeners of hosts that keep one pusher are killed.
KEEP_ONE_PUSHER = {"ender", "forks", "closed", "busy", "logging", "gevent"}


def session(pid: int) -> list[int]:
    """The running processes of a session: a host, its children, and its writers."""
    found = set()
    for _ in range(2):  # one look may miss a child whose parent ends meanwhile
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                if int(stat.read_text().rpartition(")")[2].split()[3]) == pid and is_running(stat.parent.name):
                    found.add(int(stat.parent.name))
    return list(found)


def end_session(pid: int) -> None:
    """Kill all of it, with what is started meanwhile."""
    while found := session(pid):
        for member in found:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.005)


def read_events(connections: Iterable[list[bytes]]) -> tuple[dict[bytes, wire.Event], int, list[str]]:
    """The events with an id by their ids, how many lines they were, and what is wrong with the lines."""
    events: dict[bytes, wire.Event] = {}
    lines = 0
    problems = []
    for connection in connections:
        last = 0
        for line in connection:
            try:
                event = wire.decode(line)
            except wire.DecodeError as error:
                problems.append(f"torn: {error} {line!r}")
                continue
            if b'"id":"' not in line[-80:]:
                continue  # the graph
            key, _, behind = line.rpartition(b'"id":"')[2].partition(b'"')
            number = int(key.rpartition(b"-")[2])
            if number <= last:
                problems.append(f"out of order: id {number} after {last}")
            last = number
            if b'"retained":true' not in behind:  # what is told again is not counted
                lines += 1
                events.setdefault(key, event)
    return events, lines, problems


class Host:
    """One of them, alive from the start."""

    def __init__(self, kind: str, seed: int, seconds: float, directory: str) -> None:
        self.kind = kind
        self.seed = seed
        self.began = time.monotonic()
        self.ends = self.began + seconds
        self.emitted = self.received = 0
        self.problems: list[str] = []  # once it is over
        directory = os.path.join(directory, f"{kind}-{seed}")
        os.mkdir(directory)
        self.report = os.path.join(directory, "report")
        self.recorder = Recorder(os.path.join(directory, "s"))
        self.weather = random.Random(f"{kind} {seed}")
        environment = {
            "REPORT": self.report,
            "SECONDS": str(seconds),
            "SEED": f"{kind} {seed}",
            "TESTS": os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        }
        green = "import gevent.monkey\ngevent.monkey.patch_all()\ngevent.sleep(0)\n" if kind == "gevent" else ""
        with open(self.report + ".errors", "w") as errors:
            self.process = producer_script.start(
                BEGIN + KINDS[kind] + END, self.recorder.path, before=green, env=environment,
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def age(self) -> float:
        return time.monotonic() - self.began

    def disturb(self) -> None:
        """Do something to the listener, while the host has time."""
        if time.monotonic() > self.ends - 0.5:
            self.recorder.go_on()
            return
        what = self.weather.random()
        if what < 0.05 and self.kind in KEEP_ONE_PUSHER:
            self.recorder.kill()
            self.recorder.start()
        elif what < 0.1:
            self.recorder.stall()
        elif what < 0.5:
            self.recorder.go_on()

    def over(self) -> bool:
        """Whether it is to be judged: nothing of it runs any more, or it had more than enough time."""
        ended = self.process.poll() is not None and not session(self.process.pid)
        return ended or time.monotonic() > self.ends + 100

    def judge(self) -> None:
        """Find out what is wrong, once it is over."""
        for pid in session(self.process.pid):
            self.problems.append(f"process {pid} still runs")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)  # a host writes its stacks
            time.sleep(1)
        self.end()
        if self.process.returncode != 0 or not os.path.exists(self.report):
            self.problems.append(f"ended with {self.process.returncode}")
            self.problems += [Path(f"{self.report}.{kind}").read_text()[-3000:] for kind in ("stacks", "errors")]
            return
        self.emitted, sent, dropped, pending, given = json.loads(Path(self.report).read_text())
        if self.emitted != sent + dropped or pending or given not in (None, self.emitted):
            self.problems.append(f"the books: {self.emitted} emitted, {sent=} {dropped=} {pending=} {given=}")
        events, self.received, wrong = read_events(self.recorder.connections())
        self.problems += wrong
        if not self.emitted - dropped <= len(events) <= self.emitted:
            self.problems.append(f"{self.emitted - len(events)} events missing, {dropped} counted as dropped")

    def end(self) -> None:
        """Leave no process, whatever state it is in."""
        end_session(self.process.pid)
        self.process.wait()
        if self.recorder.process is not None:
            with suppress(AssertionError):  # what it lacks will be missing
                self.recorder.catch_up()
        self.recorder.kill()


class Hosts:
    """Keeps one host of each kind alive until the time is over.

    Args:
        kinds: Which.
        seconds: How long, in all.
        seed: Of the first of each kind; the next one's is higher by 1.
        directory: Where they have their sockets and records.
        life: How long one lives, in seconds.
    """

    def __init__(self, kinds: Iterable[str], seconds: float, seed: int, directory: str, life: float = 60.0) -> None:
        self._ends = time.monotonic() + seconds
        self._life = life
        self._directory = directory
        self._next = [(kind, seed) for kind in kinds]
        self.alive: list[Host] = []

    def turn(self) -> list[Host]:
        """Begin one, if one is missing, and disturb those that live. Returns those that are over, judged."""
        if self._next:
            kind, seed = self._next.pop(0)
            life = min(self._life, max(2.0, self._ends - time.monotonic()))
            self.alive.append(Host(kind, seed, life, self._directory))
        over = [host for host in self.alive if host.over()]
        for host in over:
            host.judge()
            shutil.rmtree(os.path.dirname(host.report))
            self.alive.remove(host)
            if time.monotonic() < self._ends - 2:
                self._next.append((host.kind, host.seed + 1))
        for host in self.alive:
            host.disturb()
        return over

    @property
    def over(self) -> bool:
        return not self._next and not self.alive

    def end(self) -> None:
        """At once, and without a word on what was wrong."""
        for host in self.alive:
            host.recorder.kill()
            host.end()
