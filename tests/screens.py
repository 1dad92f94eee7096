"""The pictures of `watch` in the README: a run that is really sent to the command, in a terminal of 80x24 and 200x50.

python tests/screens.py [DIRECTORY]
"""

import io
import os
import random
import sys
import tempfile
import time
from itertools import groupby

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher
from support.terminal import Terminal
from support.watching import COMMAND

WORDS = """
setup config schema parser lexer models cache storage index query planner network protocol client server auth session
render template assets styles routes worker queue retry metrics traces alerts search export import backup restore
archive billing invoice ledger report charts mailer notify webhook audit policy limits quota locale fonts icons images
video audio stream codec packer mirror proxy gateway balancer release
"""
NAMES = list(dict.fromkeys(WORDS.split()))
GRAPH = Graph(
    {name: [] if n < 10 else [NAMES[n - 10], NAMES[n - 10 - n % 10 + (n + 3) % 10]] for n, name in enumerate(NAMES)},
    {name: 3 + n * 7 % 6 for n, name in enumerate(NAMES)},
)
BROKEN = "charts"
ERROR = "SyntaxError: invalid syntax (charts.py, line 41)"
COLOURS = {"brown": "yellow", "default": None}  # as rich calls them


def main() -> None:
    """Draw both pictures."""
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../benchmarks/charts")
    for width, height in ((80, 24), (200, 50)):
        with tempfile.TemporaryDirectory() as place:
            draw(os.path.join(place, "run.sock"), width, height, directory)


def draw(path: str, width: int, height: int, directory: str) -> None:
    """Watch a run up to its middle, and keep what is on the screen."""
    with Terminal(*COMMAND, path, width=width, height=height, TERM="xterm-256color") as watcher:
        watcher.shows("waiting for a sender")
        bus = Bus()
        pusher = SocketPusher(bus, PusherConfig(socket_path=path))
        pusher.set_graph(GRAPH, parallelism=6)
        with pusher:
            run_to_its_middle(bus)
            watcher.shows("6 running", "1 failed")
            while watcher.read(0.3):
                pass
            save(watcher, width, height, os.path.join(directory, f"watch-{width}x{height}.svg"))
        watcher.press(b"q")
        watcher.ends()


def run_to_its_middle(bus: Bus) -> None:
    """Six units at a time, some 40 events a second."""
    chance = random.Random(4)
    bus.emit(Event("orch.started"))
    waiting, done, running, lost = list(NAMES), set(), {}, set()
    while len(done) < 41 or len(running) < 6:
        for unit in list(waiting):
            needs = GRAPH.dependencies(unit)
            if lost.intersection(needs):
                waiting.remove(unit)
                lost.add(unit)
                bus.emit(
                    Event("unit.blocked", unit, error=f"waits for {' and '.join(sorted(lost.intersection(needs)))}")
                )
            elif len(running) < 6 and done.issuperset(needs):
                waiting.remove(unit)
                running[unit] = iter(range(1, TASKS[unit] + 1))
                bus.emit(Event("unit.started", unit, payload={"total_tasks": TASKS[unit]}))
        unit = chance.choice(list(running))
        task = next(running[unit], None)
        if task is None:
            del running[unit]
            done.add(unit)
            bus.emit(Event("unit.completed", unit))
        elif unit == BROKEN and task == 3:
            del running[unit]
            lost.add(unit)
            bus.emit(Event("unit.failed", unit, error=ERROR))
        else:
            bus.emit(Event("task.started", unit, task))
            time.sleep(0.025)
            bus.emit(Event("task.completed", unit, task))


TASKS = {node["id"]: node["tasks"] for node in GRAPH.payload()["nodes"]}


def save(watcher: Terminal, width: int, height: int, file: str) -> None:
    """What is on the screen, as a picture."""
    console = Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True)
    for number in range(height):
        cells = [watcher.screen.buffer[number][column] for column in range(width)]
        text = Text()
        for style, part in groupby(cells, key=_style):
            text.append("".join(cell.data for cell in part), style)
        console.print(text, no_wrap=True, crop=True)
    console.save_svg(file, title="socketpusher watch")
    print(f"{os.path.normpath(file)}: {width}x{height}")


def _style(cell: pyte.screens.Char) -> Style:
    colour = COLOURS.get(cell.fg, cell.fg)
    return Style(color=colour and colour.replace("bright", "bright_"), bold=cell.bold, reverse=cell.reverse)


if __name__ == "__main__":
    main()
