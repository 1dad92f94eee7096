"""Hosts that close descriptors, reuse their numbers, or have none left."""

import pytest

from support import producer_script
from support.consumer import Consumer
from support.hostile import HELPERS
from support.waiting import wait_for

# Standard streams may be closed here, so what a host finds goes into a file.
RESULT = """
def result(*words):
    with open(os.environ["RESULT"], "w") as file:
        print(*words, file=file)
def standard(pid):
    "What a process has on 0 to 2."
    found = set()
    for number in range(3):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            pass
    return found - {"/dev/null"}
"""
CLOSE = "os.closerange(0, 3)\n"


@pytest.mark.parametrize("when", ["before start", "after start"])
def test_a_host_without_standard_streams_has_nothing_of_ours_there(consumer: Consumer, tmp_path, when: str) -> None:
    before, after = (CLOSE, "") if when == "before start" else ("", CLOSE)
    lines = f"""{HELPERS}{RESULT}
{before}pusher.start()
{after}emit(3)
assert pusher.flush(30)
seen = [standard("self")]
kill_writer()
emit(3, 3)
assert pusher.flush(30)
seen.append(standard("self"))
pusher.close()
result(*books(), pusher.stats().writer_restarts, set().union(*seen))
"""
    code, _, _ = producer_script.run(lines, consumer.path, env={"RESULT": str(tmp_path / "result")})
    assert code in (0, 120)  # Python can't flush what it could not log
    assert (tmp_path / "result").read_text() == "6 6 0 0 1 set()\n"
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


def test_files_of_the_host_on_the_numbers_of_standard_streams_stay_as_they_are(consumer: Consumer, tmp_path) -> None:
    lines = f"""{HELPERS}{RESULT}
pusher.start()
os.closerange(0, 3)
files = [open(os.environ["RESULT"] + str(number), "w+b", buffering=0) for number in range(3)]
assert [file.fileno() for file in files] == [0, 1, 2]
emit(3)
kill_writer()
emit(3, 3)
assert pusher.flush(30)
intact = [os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)) for file in files]
pusher.close()
result(*books(), intact)
"""
    code, _, _ = producer_script.run(lines, consumer.path, env={"RESULT": str(tmp_path / "result")})
    assert code == 0
    assert (tmp_path / "result").read_text() == "6 6 0 0 [True, True, True]\n"
    assert [(tmp_path / f"result{number}").read_text() for number in (0, 1)] == ["", ""]  # on 2 is the log
    wait_for(lambda: set(consumer.tasks()) == set(range(6)))


@pytest.mark.parametrize("reuse", ["nothing", "files", "sockets"])
def test_descriptors_that_a_host_has_closed_are_not_touched_any_more(consumer: Consumer, tmp_path, reuse: str) -> None:
    """As python-daemon and others do it; then the host's own files get the same numbers."""
    lines = f"""{HELPERS}
import gc, logging, socket
logging.basicConfig(format="%(message)s")
pusher.start()
emit(3)
assert pusher.flush(30)
os.closerange(3, 256)
mine, others = [], []
if "{reuse}" == "files":
    mine = [open(os.environ["FILES"] + f"/{{number}}", "w+b", buffering=0) for number in range(40)]
if "{reuse}" == "sockets":
    for _ in range(20):
        one, two = socket.socketpair()
        two.setblocking(False)
        mine.append(one)
        others.append(two)
identities = [os.fstat(file.fileno()).st_ino for file in mine]
emit(1000, 3)
pusher.flush(0.5)
emit(3, 1003)
pusher.close(1)
closed = books()
emit(3, 1006)
assert books() == closed  # a closed pusher does nothing more, although it had ended before
print(*closed[::3], pusher.connected, pusher.stats().writer_pid)
del pusher
gc.collect()
for file, identity in zip(mine, identities):
    assert os.fstat(file.fileno()).st_ino == identity, file
    assert "{reuse}" != "files" or not os.path.getsize(file.name), file
for other in others:
    try:
        assert False, other.recv(1000)
    except BlockingIOError:
        pass
print("intact", flush=True)
for file in mine + others:
    file.close()
"""
    code, output, errors = producer_script.run(lines, consumer.path, env={"FILES": str(tmp_path)})
    assert (code, output) == (0, "1006 0 False None\nintact\n"), errors
    assert errors
    assert "Traceback" not in errors
    assert consumer.tasks()[:3] == [0, 1, 2]
    wait_for(lambda: consumer.torn() == [b""])


def test_what_a_forked_child_emits_is_whole_or_dropped_while_the_host_has_no_descriptor(consumer: Consumer) -> None:
    """A line that is too large for a datagram travels as a descriptor, which the host then can't receive."""
    lines = f"""{HELPERS}
import resource, warnings
warnings.simplefilter("ignore", DeprecationWarning)
pusher.start()
emit(1)
assert pusher.flush(30)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
go, goes = os.pipe()
told, tell = os.pipe()
child = os.fork()
if child == 0:
    os.read(go, 1)
    for number in range(10):
        bus.emit(Event("child", task=number, payload=str(number) * 40_000))
        bus.emit(Event("child", task=number, payload=str(number) * 400_000))
        bus.emit(Event("child", task=number, payload="small"))
    pusher.flush(10)
    stats = pusher.stats()
    assert (stats.emitted, stats.pending) == (30, 0), stats
    os.write(tell, f"{{stats.dropped}}".encode())
    os._exit(0)
taken = [os.dup(0) for _ in range(64)]
lowest = os.dup(0)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
os.write(goes, b"x")
code = os.waitpid(child, 0)[1]
emit(1, 1)
flushed = pusher.flush(30)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
emit(1, 2)
flushed = pusher.flush(30) and flushed
pusher.close()
emitted, sent, dropped, pending = books()
print(code, flushed, emitted, sent, dropped, pending, int(os.read(told, 100)))
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output[:6]) == (0, "0 True"), errors
    sent, dropped, pending, dropped_there = map(int, output.split()[3:])
    wait_for(lambda: len(consumer.lines()) >= sent)
    events = consumer.events()  # raises for a line that is not whole
    assert consumer.torn() == [b""]
    assert len(events) == sent
    assert (sent + dropped + dropped_there, pending) == (33, 0)
    assert [event.task for event in events if event.type == "x"] == [0, 1, 2]
    for event in events:
        if event.type == "child":
            assert event.payload in (str(event.task) * 40_000, str(event.task) * 400_000, "small")
