"""`socketpusher demo --hosts`: schedulers, relays, a server and a watcher, and nothing of them left."""

import os
import re
import signal
import tempfile

import pytest

from socketpusher.demo.fleet import run_fleet
from support.cli import run, running
from support.nats import needs_server
from support.sessions import session_of
from support.waiting import wait_for


@needs_server
def test_three_hosts_are_watched_at_once() -> None:
    shown = run("demo", "--hosts", "3", "--package", "json", "--plain")
    assert shown.returncode == 0, shown.stderr
    live, _, second = shown.stdout.partition("a watcher that starts now knows:")
    for host in ("host-1", "host-2", "host-3"):
        assert re.search(rf"{host} \w+ unit.completed json", live)
        assert re.search(rf"^{host} \w+  completed in", second, re.MULTILINE)


@needs_server
def test_ctrl_c_leaves_nothing_of_a_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        with running("demo", "--hosts", "2", "--plain", start_new_session=True) as process:
            while b"unit.started" not in process.stdout.readline():
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            assert b"Traceback" not in process.communicate(timeout=30)[1]
        assert process.returncode == 130
        wait_for(lambda: not session_of(process))
        assert os.listdir(directory) == []


def test_a_server_that_ends_at_once_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: "/bin/false")
    with pytest.raises(ChildProcessError, match="nats-server ended at once; run it to see why: /bin/false -js -p"):
        run_fleet(1, ["json"])


def test_a_wrong_package_is_reported() -> None:
    shown = run("demo", "--hosts", "1", "--package", "nothing.of.the.kind")
    assert shown.returncode == 1
    assert shown.stderr.count("\n") == 1
