"""Does a pytest session, a Dask computation or a Snakemake workflow take longer when it is watched?

pytest: 3,000 tests that do next to nothing, in 30 files, so the plugin's share is as large as it can be. Dask: 20,000
keys of a graph in the synchronous scheduler, which spends nearly all time in Dask itself. Snakemake: 10 jobs that do
nothing. Each without the plugin, with a consumer that reads, with one that never reads, without one, and with a path
that can't be. The time is that of the session, computation or command, including the close of the pusher. What is not
installed is left out.
"""

import importlib.util
import json
import os

from ..processes import MeasurementError
from ..report import Report, Table, Target
from ..runner import Figures, Runner, ratio, spread

TITLE = "Plugins: pytest, Dask and Snakemake, watched and not"
TESTS, FILES, KEYS, JOBS = 3_000, 30, 20_000, 10
CONSUMERS = {"not watched": "", "reads": "count", "never reads": "stall", "none": "none", "impossible path": "x" * 200}

PYTEST = """
import json, sys, time
import pytest
place, path = sys.argv[1:]
arguments = ["-p", "no:terminal", "-p", "no:cacheprovider", "--rootdir", place, place]
began = time.perf_counter()
code = pytest.main([*arguments, f"--socketpusher={path}"] if path else arguments)
print(json.dumps({"seconds": time.perf_counter() - began, "code": int(code)}), flush=True)
"""

DASK = """
import json, sys, time
from contextlib import ExitStack, suppress
import dask
from socketpusher import Bus, plugin
from socketpusher.sources.dask import LocalRun
keys, path = int(sys.argv[1]), sys.argv[2]
graph = {("load", number): (abs, number) for number in range(keys)}
graph["total"] = (len, list(graph))
began = time.perf_counter()
with ExitStack() as opened:
    if path:
        bus = Bus()
        with suppress(OSError, ValueError):
            opened.callback(plugin.close, plugin.start(bus, path))
        opened.enter_context(LocalRun(bus))
    dask.get(graph, "total")
print(json.dumps({"seconds": time.perf_counter() - began, "code": 0}), flush=True)
"""

SNAKEMAKE = """
import json, subprocess, sys, time
place, path = sys.argv[1:]
command = [sys.executable, "-m", "snakemake", "--cores", "2", "--forceall", "--quiet", "all"]
if path:
    command += ["--logger", "socketpusher", "--logger-socketpusher-path", path]
began = time.perf_counter()
code = subprocess.call(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(json.dumps({"seconds": time.perf_counter() - began, "code": code}), flush=True)
"""


def _measure(runner: Runner, script: str, what: str, consumer: str) -> Figures:
    try:
        if consumer in ("", CONSUMERS["impossible path"]):
            with runner.processes.run(script, what, consumer) as child:
                figures: Figures = json.loads(child.line())
        else:
            with runner.processes.consumer(consumer) as (path, _), runner.processes.run(script, what, path) as child:
                figures = json.loads(child.line())
    except MeasurementError as error:
        return {"failed": str(error)}
    return figures if figures["code"] == 0 else {"failed": f"exit code {figures['code']}"}


def _project(runner: Runner) -> str:
    place = runner.processes.path("project")
    os.mkdir(place)
    tests = runner.events(TESTS) // FILES
    for number in range(FILES):
        with open(os.path.join(place, f"test_{number}.py"), "w") as file:
            file.write("".join(f"def test_{test}(): pass\n" for test in range(tests)))
    return place


def _workflow(runner: Runner) -> str:
    place = runner.processes.path("workflow")
    os.mkdir(place)
    numbers = list(range(JOBS))
    with open(os.path.join(place, "Snakefile"), "w") as file:
        file.write(f'rule all:\n    input: expand("{{n}}.txt", n={numbers})\n')
        file.write('rule one:\n    output: "{n}.txt"\n    shell: "touch {output}"\n')
    return place


def run(runner: Runner) -> Report:
    report = Report([])
    hosts = {
        "pytest": (PYTEST, _project(runner)),
        "Dask": (DASK, str(runner.events(KEYS))),
        "Snakemake": (SNAKEMAKE, _workflow(runner)),
    }
    for host in [host for host in hosts if importlib.util.find_spec(host.lower()) is None]:
        del hosts[host]
    for host, (text, what) in hosts.items():
        script = runner.processes.path("script.py")
        with open(script, "w") as file:
            file.write(text)

        def case(consumer: str, script: str = script, what: str = what) -> Figures:
            return _measure(runner, script, what, consumer)

        runs = runner.interleaved({name: lambda mode=mode: case(mode) for name, mode in CONSUMERS.items()}, slow=30)
        bare = runs["not watched"]
        rows = []
        for name, found in runs.items():
            times = ratio(found, bare, "seconds")
            rows.append([name, spread(found, "seconds", digits=2), f"{times:.2f}" if times else "-"])
            if name != "not watched":
                report.targets.append(Target(f"{host}, consumer {name}: time / not watched", times, 1.1))
        report.tables.append(Table(f"{TITLE}: {host}", ["consumer", "s", "times"], rows))
        report.figures[host] = runs
    return report
