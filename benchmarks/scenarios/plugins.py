"""Does a pytest session, a Dask computation or a Snakemake workflow take longer when it is watched?

pytest: 1,000 tests of 5 ms in 30 files. Dask: 1,000 keys of 5 ms in the synchronous scheduler. Snakemake: 10 jobs that
do nothing. Besides, without a target, 3,000 tests and 20,000 keys that do nothing: the plugin's share can't be larger.
Each without the plugin, with a consumer that reads, with one that never reads, without one, and with a path
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
TASKS, EMPTY_TESTS, EMPTY_KEYS, FILES, JOBS = 1_000, 3_000, 20_000, 30, 10
CONSUMERS = {"not watched": "", "reads": "count", "never reads": "stall", "none": "none", "impossible path": "x" * 200}

BUSY = "end = time.perf_counter() + 0.005\n    while time.perf_counter() < end: pass"

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
def load(number):
    %s
graph = {("load", number): (load, number) for number in range(keys)}
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


def _project(runner: Runner, tests: int, body: str) -> str:
    place = runner.processes.path("project")
    os.mkdir(place)
    for number in range(FILES):
        with open(os.path.join(place, f"test_{number}.py"), "w") as file:
            file.write("import time\n")
            file.writelines(f"def test_{test}():\n    {body}\n" for test in range(runner.events(tests) // FILES))
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
        "pytest": (PYTEST, _project(runner, TASKS, BUSY)),
        "pytest, empty": (PYTEST, _project(runner, EMPTY_TESTS, "pass")),
        "Dask": (DASK % BUSY, str(runner.events(TASKS))),
        "Dask, empty": (DASK % "pass", str(runner.events(EMPTY_KEYS))),
        "Snakemake": (SNAKEMAKE, _workflow(runner)),
    }
    for host in [host for host in hosts if importlib.util.find_spec(host.partition(",")[0].lower()) is None]:
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
            if name != "not watched" and "empty" not in host:
                report.targets.append(Target(f"{host}, consumer {name}: time / not watched", times, 1.1))
        report.tables.append(Table(f"{TITLE}: {host}", ["consumer", "s", "times"], rows))
        report.figures[host] = runs
    return report
