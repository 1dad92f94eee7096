"""What hosts that misbehave have in common: lines for `producer_script`, and a look at their writers."""

from pathlib import Path

from support.waiting import is_running

# `os.times` is what neither freezegun nor a test replaces.
HELPERS = """
def now():
    return os.times().elapsed
def until(condition, what="", timeout=30):
    asked = now()
    end = asked + timeout
    while not condition():
        if now() > end:
            os.write(2, f"never came true: {what}; {pusher.stats()}\\n".encode())
            os._exit(99)
        time.sleep(0.002 + 3 * (now() - asked))  # what is waited for needs the CPU
        asked = now()
def emit(count, first=0, payload=None):
    for number in range(first, first + count):
        bus.emit(Event("x", task=number, payload=payload))
def kill_writer():
    pid = pusher.stats().writer_pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: pusher.stats().writer_pid not in (pid, None), "another writer")
def books():
    stats = pusher.stats()
    assert stats.emitted == stats.sent + stats.dropped + stats.pending, stats
    return stats.emitted, stats.sent, stats.dropped, stats.pending
def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
def until_end_of(parent):
    def threads():
        try:
            return os.listdir(f"/proc/{parent}/task")
        except OSError:
            return []
    # The parent of a child is another one before the parent's other threads have closed its descriptors.
    until(lambda: os.getppid() != parent and len(threads()) < 2, "the end of the parent")
def writers():
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open(f"/proc/{name}/cmdline", "rb").read().split(b"\\0")
        except OSError:
            continue
        if f"host={os.getpid()}".encode() in command:
            found.append(int(name))
    return found
"""


def writers_of(host: int) -> list[int]:
    """The processes that the pushers of a host have started, running ones."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            ours = f"host={host}".encode() in command.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if ours and is_running(command.parent.name):
            found.append(int(command.parent.name))
    return found
