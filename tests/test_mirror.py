"""The tests are found where the module is: src/socketpusher/ROOM/NAME.py is tested in tests/ROOM/test_NAME.py."""

from pathlib import Path

import pytest

import socketpusher

TESTS = Path(__file__).parent
SOURCE = Path(socketpusher.__file__).parent
MODULES = sorted(file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if file.name != "__init__.py")

# Two test modules may not share a name, for each directory of tests is on the search path.
SAME_NAME = "another room has a module of this name"
# Such a module has no promise of its own; the class that is tested is another module's.
PART = "it is a part of what is tested there"
PROCESS = "it is a process, tested from outside"
COMMAND = "the command is tested as a whole"

ELSEWHERE = {
    "__main__.py": ("cli/test_send.py", PROCESS),
    "channel/descriptors.py": ("channel/test_descriptor.py", "faults/test_descriptors.py has the name"),
    "cli/arguments.py": ("cli/test_send.py", COMMAND),
    "cli/demo.py": ("test_demo.py", COMMAND),
    "cli/diagnosis.py": ("cli/test_doctor.py", PART),
    "cli/flow_control.py": ("cli/test_send.py", PART),
    "cli/nats_options.py": ("jetstream/test_relay.py", PART),
    "cli/output.py": ("cli/test_send.py", PART),
    "cli/relay.py": ("jetstream/test_relay.py", COMMAND),
    "cli/watch.py": ("terminal/test_watch.py", COMMAND),
    "host/supervisor.py": ("test_pusher.py", PROCESS),
    "host/writer_handle.py": ("faults/test_writer_death.py", PROCESS),
    "jetstream/connection.py": ("jetstream/test_nats_connection.py", SAME_NAME),
    "dask_plugin.py": ("sources/test_dask.py", PART),
    "pytest_plugin.py": ("sources/test_pytest.py", PART),
    "writer/main.py": ("test_lifecycle.py", PROCESS),
    "writer/process.py": ("test_lifecycle.py", PROCESS),
    "writer/session.py": ("writer/test_loop.py", PART),
}
"""Modules that are tested in another place: where, and why."""

ROOMS_ELSEWHERE = {"demo": "test_demo.py"}
"""Rooms that are tested as one program."""


def place_of(module: str) -> str:
    room, _, name = module.rpartition("/")
    return f"{room}/test_{name}".lstrip("/")


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_its_test_module(module: str) -> None:
    room = module.partition("/")[0]
    place = ROOMS_ELSEWHERE.get(room) or ELSEWHERE.get(module, (place_of(module), ""))[0]
    assert (TESTS / place).is_file(), f"{module} has no tests/{place}: write it, or say in ELSEWHERE where it is tested"


def test_no_exception_is_left_that_is_not_needed() -> None:
    unknown = set(ELSEWHERE) - set(MODULES)
    needless = {module for module in ELSEWHERE if (TESTS / place_of(module)).is_file()}
    assert (unknown, needless) == (set(), set())


def test_no_two_test_modules_share_a_name() -> None:
    names = [file.name for file in TESTS.rglob("test_*.py")]
    assert {name for name in names if names.count(name) > 1} == set()
