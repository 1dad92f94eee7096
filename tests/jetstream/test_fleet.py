"""`socketpusher demo --hosts`: schedulers, relays, a server and a watcher, and nothing of them left."""

import re

from support.cli import run
from support.nats import needs_server


@needs_server
def test_three_hosts_are_watched_at_once() -> None:
    shown = run("demo", "--hosts", "3", "--package", "json", "--plain")
    assert shown.returncode == 0, shown.stderr
    live, _, told = shown.stdout.partition("as another watcher that comes now is told:")
    for host in ("host-1", "host-2", "host-3"):
        assert re.search(rf"{host} \w+ unit.completed json", live)
        assert re.search(rf"^{host} \w+  completed in", told, re.MULTILINE)


def test_an_unknown_package_is_reported() -> None:
    shown = run("demo", "--hosts", "1", "--package", "nothing.of.the.kind")
    assert shown.returncode == 1
    assert shown.stderr.count("\n") == 1
