"""The command line: `python -m benchmarks`."""

import argparse
import json
import os
import platform
import signal
import sys
import time
from importlib import import_module
from typing import Any

from . import peers
from .charts import draw
from .processes import ROOT, Processes
from .report import Target, show, targets_table
from .runner import Runner
from .scenarios import ALL

DESCRIPTION = """\
Measure socketpusher and its alternatives.

Every measurement runs a fresh host process that emits, and a fresh consumer process that only reads; peers take
turns within a round (A B C A B C), and tables show the median with the lowest and the highest round. All scenarios
take about twelve minutes on two cores. Run it on an idle machine.
"""
EXAMPLES = """\
examples:
  python -m benchmarks                     everything: tables, targets, results.json, charts/
  python -m benchmarks busy burst          two scenarios
  python -m benchmarks --quick             a smoke test (its figures mean nothing)
  python -m benchmarks burst --rounds 7    more rounds
  python -m benchmarks --peers socketpusher pyzmq_push -- burst
  python -m benchmarks --old ../socketpusher-0.1.0 size    compare with an earlier checkout
  python benchmarks/coalescing.py          the fact that the design is based on, in half a minute

peers that can't be imported are left out, and the output says so; to install all of them:
  pip install loguru fluent-logger pyzmq faster-fifo numpy matplotlib
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"one or more of: {', '.join(ALL)} (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="describe the scenarios and the peers, and exit")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often to repeat each measurement (3)")
    parser.add_argument("--quick", action="store_true", help="a fraction of the events, one round: a smoke test")
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="only these, and socketpusher and the floor")
    parser.add_argument(
        "--old", type=_source, metavar="DIRECTORY",
        help="a checkout of an earlier version, or its src, to compare with",
    )  # fmt: skip
    parser.add_argument(
        "--json", metavar="FILE", default=None,
        help="the file for the figures of every round (benchmarks/results.json)",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.scenarios) - set(ALL):
        parser.error(f"unknown scenario {', '.join(sorted(unknown))}; choose from {', '.join(ALL)}")
    if chosen.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if chosen.list:
        return _list()
    # SIGTERM ends a run like Ctrl-C, with all its processes
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Processes() as processes:
            runner = Runner(processes, 1 if chosen.quick else chosen.rounds, chosen.quick, chosen.old or "")
            if chosen.peers:
                if unknown := set(chosen.peers) - set(runner.peers):
                    parser.error(f"unknown peer {', '.join(sorted(unknown))}; choose from {', '.join(runner.peers)}")
                runner.peers = {p: m for p, m in runner.peers.items() if p in (*peers.ALWAYS, *chosen.peers)}
            # The figures of a smoke test mean nothing, so they overwrite no others.
            path = chosen.json or (os.devnull if chosen.quick else os.path.join(ROOT, "benchmarks", "results.json"))
            return _run(runner, chosen.scenarios or list(ALL), path)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is left running", file=sys.stderr)
        return 130


def _source(directory: str) -> str:
    """The directory of the package in a checkout."""
    for source in (os.path.join(directory, "src"), directory):
        if os.path.isfile(os.path.join(source, "socketpusher", "__init__.py")):
            return os.path.abspath(source)
    raise argparse.ArgumentTypeError(f"socketpusher is not in {directory}")


def _list() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `--list | head` is not an error
    for name in ALL:
        module = import_module(f"benchmarks.scenarios.{name}")
        print(f"{name:12} {module.TITLE}\n{_indented(module.__doc__)}\n")
    found, left_out = peers.available(old=True)
    for name, module in found.items():
        print(f"{name}\n{_indented(module.__doc__)}\n")
    for name, why in left_out.items():
        print(f"{name}: left out, {why}")
    return 0


def _indented(text: str | None) -> str:
    return "\n".join(f"    {line}".rstrip() for line in (text or "").strip().splitlines())


def machine(runner: Runner) -> dict[str, Any]:
    """The machine and the versions that the figures are of."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": peers.versions(runner.peers),
        "load": round(os.getloadavg()[0], 2),
        "rounds": runner.rounds,
        "quick": runner.quick,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _run(runner: Runner, scenarios: list[str], path: str) -> int:
    about = machine(runner)
    command = "python -m benchmarks " + " ".join(sys.argv[1:])
    print(f"{command.strip()}\n{about['processor']}, {about['cores']} cores, {about['system']}, {about['python']}")
    print(", ".join(f"{name} {number}" for name, number in about["versions"].items()))
    for name, why in runner.left_out.items():
        print(f"left out: {name} ({why})")
    start = time.monotonic()
    results: dict[str, Any] = {}
    targets: list[Target] = []
    for name in scenarios:
        begin = time.monotonic()
        found = import_module(f"benchmarks.scenarios.{name}").run(runner)
        results[name] = found.as_json()
        targets += found.targets
        for table in found.tables:
            show(table)
        print(f"  [{name}: {time.monotonic() - begin:.0f} s]", flush=True)
    show(targets_table(targets))
    took = time.monotonic() - start
    print(f"\n{sum(target.reached is True for target in targets)} of {len(targets)} targets reached, in {took:.0f} s")
    with open(path, "w") as file:
        json.dump(
            {"command": command.strip(), "machine": about, "seconds": round(took), "scenarios": results}, file, indent=1
        )
    if path != os.devnull:
        print(f"written: {os.path.relpath(path)}")
    if not runner.quick:
        _draw(runner, results)
    return 0


def _draw(runner: Runner, results: dict[str, Any]) -> None:
    figures = {name: found["figures"] for name, found in results.items()}
    try:
        for picture in draw(figures, runner.peers, os.path.join(ROOT, "benchmarks", "charts")):
            print(f"written: {os.path.relpath(picture)}")
    except ImportError as error:
        print(f"no charts: {error}; pip install matplotlib")


if __name__ == "__main__":
    sys.exit(main())
