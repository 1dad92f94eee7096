"""One scheduler and one `socketpusher watch`, which is killed when half of the work is done, and started again."""

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from ..terminal.watch import can_draw
from .modules import find_modules
from .processes import Process, interruptible, running_processes
from .scheduler import HALFWAY

_NEXT = """
Now watch events of your own: run  socketpusher watch  here, and elsewhere
python3 - <<END
from socketpusher import Bus, Event, SocketPusher
with SocketPusher(bus := Bus()):
    bus.emit(Event("unit.started", unit="hello"))
END"""


def run_demo(names: Sequence[str] = (), *, plain: bool = False) -> None:
    """Run the demo, and print what was measured.

    Args:
        names: The packages or modules to work on; none means the standard library.
        plain: Whether to print lines though the output is a terminal.

    Raises:
        ValueError: A package can't be worked on.
        OSError: A process can't be started, or ended too early.
        BrokenPipeError: Nobody reads the output any more.
    """
    find_modules(names)  # so that a wrong name is reported before anything is started
    plain = plain or not can_draw()
    # What a display that was killed could not do: wrap lines, show the cursor, leave the alternate screen.
    restore = "" if plain else "\x1b[?7h\x1b[?25h\x1b[?1049l"
    with running_processes() as processes:
        path = os.path.join(processes.directory, "demo.sock")
        print("starting socketpusher watch, and a scheduler that never sleeps ...", flush=True)
        display = processes.start_watch(path, "--exit-code", plain=plain)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        scheduler = processes.start_python(f"{__package__}.scheduler", path, *names, **streams)
        report = ""
        while line := _next_line(scheduler, display):
            if line == HALFWAY:
                display.kill()
                display.wait()
                print(f"{restore}killed the display, process {display.pid}; starting another one ...", flush=True)
                display = processes.start_watch(path, "--exit-code", plain=plain)
            else:
                report += line
        if code := display.poll():
            print(restore, end="", flush=True)
            if code == 128 + signal.SIGPIPE:
                raise BrokenPipeError
            raise ChildProcessError(f"the demo's display ended too early, with exit code {code}; run the demo again")
        if scheduler.wait() != 0:
            why = report.rstrip().rpartition("\n")[2]  # the last line of a traceback
            raise ChildProcessError(f"the demo's scheduler ended with exit code {scheduler.returncode}: {why}")
        with interruptible(), suppress(subprocess.TimeoutExpired):
            display.wait(10)  # it has read that the run has ended, and prints what it knows of it
    print(f"display  killed halfway and started again; above is what the second one knows\n{report}{_NEXT}")


def _next_line(scheduler: Process, display: Process) -> str:
    """Wait for the next line of the scheduler. Returns "" at its end, or when the display has failed."""
    assert scheduler.stdout is not None
    with interruptible():
        while not display.poll():
            if select.select([scheduler.stdout], [], [], 0.1)[0]:
                return scheduler.stdout.readline().decode(errors="replace")
    return ""
