"""The host dies, or is told to end."""

import os
import pty
import signal

import pytest

from support import producer_script
from support.consumer import Consumer
from support.waiting import is_running, wait_for

DEATHS = {
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "os._exit": "os._exit(9)",
    "segfault": "import faulthandler; faulthandler._sigsegv()",
}


@pytest.mark.parametrize("death", DEATHS)
def test_what_has_reached_the_writer_is_sent_when_the_host_dies(consumer: Consumer, death: str) -> None:
    lines = f"""
pusher.start()
for number in range(2000):
    bus.emit(Event("x", task=number))
while pusher._supervisor.ledger.received < 2000:
    time.sleep(0.001)
print(pusher.stats().writer_pid, flush=True)
{DEATHS[death]}
"""
    code, output, _ = producer_script.run(lines, consumer.path)
    assert code in (-9, 9, -11)
    assert consumer.wait_for_tasks(2000) == list(range(2000))
    wait_for(lambda: not is_running(output))


def test_a_writer_whose_host_dies_with_a_stalled_consumer_ends_at_its_deadline(consumer: Consumer) -> None:
    consumer.stall()
    lines = """
pusher.start()
for number in range(1000):
    bus.emit(Event("x", task=number, payload="x" * 2000))
pusher.flush(0.2)
print(pusher.stats().writer_pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    _, output, _ = producer_script.run(lines, consumer.path)
    wait_for(lambda: not is_running(output))  # 5 s
    consumer.go_on()


def test_a_writer_whose_host_dies_without_a_consumer_ends_at_its_deadline(socket_path: str) -> None:
    lines = """
pusher.start(wait=False)
bus.emit(Event("x"))
while pusher._supervisor.ledger.received < 1:
    time.sleep(0.001)
print(pusher.stats().writer_pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    _, output, _ = producer_script.run(lines, socket_path)
    wait_for(lambda: not is_running(output))


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"])
def test_a_writer_ends_though_a_forked_child_of_its_dead_host_lives(consumer: Consumer, fork: str) -> None:
    """The child has inherited the host's ends of every pipe. One that C has forked keeps them open, so none of them
    tells of the host's death."""
    lines = f"""
import ctypes, warnings
warnings.simplefilter("ignore", DeprecationWarning)
pusher.start()
bus.emit(Event("x", task=1))
pusher.flush()
child = {fork}
if child == 0:
    os.close(1)
    os.close(2)
    time.sleep(3600)
    os._exit(0)
print(pusher.stats().writer_pid, child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    _, output, _ = producer_script.run(lines, consumer.path)
    writer, child = output.split()
    try:
        wait_for(lambda: not is_running(writer))
        assert is_running(child)
    finally:
        os.kill(int(child), signal.SIGKILL)
    assert consumer.wait_for_tasks(1) == [1]
    wait_for(lambda: not is_running(child))


def test_a_host_killed_while_it_hands_over_a_batch_leaves_no_writer(consumer: Consumer) -> None:
    """The writer has a part of a message, of which the rest never comes."""
    lines = """
pusher.start()
pid = pusher.stats().writer_pid
os.kill(pid, signal.SIGSTOP)
for number in range(2000):
    bus.emit(Event("x", task=number, payload="x" * 1000))
assert not pusher.flush(0)
while len(pusher._supervisor.outbox._unsettled) < 2:
    time.sleep(0.001)
print(pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    host = producer_script.start(lines, consumer.path)
    assert host.stdout is not None
    output, _ = host.communicate()
    os.kill(int(output), signal.SIGCONT)
    wait_for(lambda: not is_running(output))
    assert consumer.torn() == [b""]


def test_ctrl_c_in_a_terminal_is_the_hosts_affair(consumer: Consumer) -> None:
    """The terminal signals the whole process group. Events of the host's clean-up arrive, and nobody shows a trace."""
    lines = """
try:
    with pusher:
        try:
            print("pid", pusher.stats().writer_pid, flush=True)
            for number in range(1000):
                bus.emit(Event("x", task=number))
            time.sleep(3600)
        finally:
            bus.emit(Event("x", task=1000))
            print("cleaned up", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    ours, theirs = pty.openpty()
    host = producer_script.start(
        lines, consumer.path, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal
    )
    os.close(theirs)
    shown = ""
    try:
        while "pid" not in shown:
            shown += os.read(ours, 1000).decode()
        consumer.wait_for_tasks(1000)
        os.write(ours, b"\x03")
        while True:
            try:
                shown += os.read(ours, 1000).decode()
            except OSError:  # the last process has closed it
                break
    finally:
        os.close(ours)
        host.kill()
        host.wait()
    assert host.returncode == 0
    assert "Traceback" not in shown
    assert "cleaned up" in shown
    assert "interrupted" in shown
    assert consumer.wait_for_tasks(1001) == list(range(1001))


def take_terminal() -> None:
    """In the host: a session of its own, with its standard input as the terminal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_signals_that_reach_the_whole_group_while_the_writer_starts_do_not_kill_it(consumer: Consumer) -> None:
    lines = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
stop = False
def storm():
    while not stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.killpg(0, number)
        time.sleep(0.0005)
thread = threading.Thread(target=storm)
thread.start()
with pusher:
    for number in range(100):
        bus.emit(Event("x", task=number))
    assert pusher.flush()
stop = True
thread.join()
print(pusher.stats().writer_restarts)
"""
    assert producer_script.run(lines, consumer.path, start_new_session=True) == (0, "0\n", "")
    assert consumer.wait_for_tasks(100) == list(range(100))
