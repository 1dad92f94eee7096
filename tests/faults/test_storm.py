"""Some seconds of the fault storm; `tox -e storm` for as long as one likes."""

import sys
import tempfile
import time

import pytest

if sys.platform != "linux":
    pytest.skip("the storm looks into /proc", allow_module_level=True)

from storm import storm
from storm_hosts import KINDS, Host, Hosts

from support.profile import scaled


@pytest.mark.parametrize("seed", range(1, 1 + scaled(2)))
def test_no_storm_loses_tears_or_disorders_anything_that_is_not_counted(seed: int) -> None:
    outcome = storm(2.0, seed)
    assert outcome.problems == []
    assert outcome.emitted > 100


def test_no_hostile_host_loses_tears_or_leaves_anything() -> None:
    over: list[Host] = []
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        hosts = Hosts(KINDS, 1.2, 1, directory)
        try:
            while not hosts.over:
                over += hosts.turn()
                time.sleep(0.02)
        finally:
            hosts.end()
    assert {host.kind: host.problems for host in over if host.problems} == {}
    assert [host.kind for host in over if not host.received] == []
