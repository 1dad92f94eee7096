"""The pytest plugin: `pytest --socketpusher` sends the session's events; see `socketpusher.sources.pytest`.

It does nothing unless the option, or the ini option `socketpusher`, is given. A consumer is optional.
"""

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .pusher import SocketPusher

_PUSHER: "pytest.StashKey[SocketPusher]" = pytest.StashKey()
_HEADER: "pytest.StashKey[str]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    text = "send the session's events to the Unix socket PATH, or to the default one, for `socketpusher watch`"
    group = parser.getgroup("socketpusher")
    group.addoption("--socketpusher", nargs="?", const="", default=None, metavar="PATH", help=text)
    parser.addini("socketpusher", f"{text}: a path, or `default`", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Start a pusher if the option asks for one.

    A worker of xdist needs none, for its controller has all reports; nor does a session that only collects.
    """
    path = config.getoption("--socketpusher")
    if path and (os.path.isdir(path) or os.path.isfile(path.partition("::")[0])):  # or every test would run
        advice = "write --socketpusher=PATH, or --socketpusher behind the tests"
        raise pytest.UsageError(f"--socketpusher: {path} is not a socket; {advice}")
    if path is None:
        path = {"": None, "default": ""}.get(ini := config.getini("socketpusher"), ini)
    if path is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    from .events import Bus
    from .plugin import start
    from .sources.pytest import SessionEvents

    bus = Bus()
    try:
        pusher = start(bus, path)
    except (OSError, ValueError, RuntimeError) as error:  # watching must not break what is watched
        config.stash[_HEADER] = f"socketpusher: no events are sent: {error}"
        return
    config.stash[_PUSHER] = pusher
    config.stash[_HEADER] = f"socketpusher: events go to {pusher.config.socket_path}"
    config.pluginmanager.register(SessionEvents(bus), "socketpusher-events")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say where the events go, or why they don't."""
    return config.stash.get(_HEADER, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Send what is left, but don't wait for a consumer that is not there."""
    pusher = config.stash.get(_PUSHER, None)
    if pusher is not None:
        from .plugin import close

        close(pusher)
