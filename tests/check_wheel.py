"""What `pip install` gives: run in an environment with nothing in it but the built wheel and what it depends on.

`tox -e wheel` makes such a one. The package must be whole, without tests, and work with orjson and tenacity alone.
"""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SOURCE = REPOSITORY / "src"
ONE_EVENT = """
import os, tempfile
from socketpusher import Bus, Event, PusherConfig, SocketPusher, listen
with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "s")
    with listen(path) as events:
        with SocketPusher(bus := Bus(), PusherConfig(path)):
            bus.emit(Event("from.a.wheel"))
        print(next(events).type)
"""
INSTALLER = {"pip", "setuptools", "wheel"}  # which a virtual environment may have


def check(right: bool, what: str) -> None:
    if not right:
        raise SystemExit(f"the wheel is wrong: {what}")


def run(*command: str) -> str:
    """What a command prints, run far from the sources."""
    ended = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)
    check(ended.returncode == 0, f"{' '.join(command)} ends with {ended.returncode}: {ended.stderr}")
    return ended.stdout


def main() -> None:
    installed = {distribution.name.lower() for distribution in importlib.metadata.distributions()} - INSTALLER
    check(installed == {"socketpusher", "orjson", "tenacity"}, f"it brings {sorted(installed)}")

    distribution = importlib.metadata.distribution("socketpusher")
    files = {file.as_posix() for file in distribution.files or ()}
    packages = ("socketpusher", "snakemake_logger_plugin_socketpusher")
    packaged = {name for name in files if name.partition("/")[0] in packages and "__pycache__" not in name}
    sources = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*")
        if file.is_file() and file.suffix in (".py", ".typed")
    }
    check(packaged == sources, f"its files differ from the sources in {sorted(packaged ^ sources)}")
    tops = {name.partition("/")[0] for name in files} - {*packages, ".."}  # ../../../bin/socketpusher
    check(all(top.endswith(".dist-info") for top in tops), f"it installs {sorted(tops)}")
    check(any(name.endswith("licenses/LICENSE") for name in files), "it has no license")

    metadata = distribution.metadata
    check(metadata["Requires-Python"] == ">=3.11", f"it needs Python {metadata['Requires-Python']}")
    readme = (REPOSITORY / "README.md").read_text()
    check(metadata.get_payload().strip() == readme.strip(), "its description is not the README")  # type: ignore[union-attr]

    python = sys.executable
    command = os.path.join(sysconfig.get_path("scripts"), "socketpusher")
    version = run(python, "-c", "import socketpusher; print(socketpusher.__version__, socketpusher.__file__)")
    check(version.split()[0] == metadata["Version"], f"its version is {version.split()[0]}, not {metadata['Version']}")
    check(str(SOURCE) not in version, f"what is imported is {version}")
    everything = "import socketpusher; [getattr(socketpusher, name) for name in socketpusher.__all__]"
    run(python, "-W", "error", "-c", everything)
    check(run(python, "-W", "error", "-c", ONE_EVENT) == "from.a.wheel\n", "it does not carry an event")
    check("listen" in run(command, "--help"), "socketpusher --help does not name its commands")
    check(run(python, "-m", "socketpusher", "--help") == run(command, "--help"), "python -m socketpusher differs")


if __name__ == "__main__":
    main()
