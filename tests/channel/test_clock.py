"""The clock that host and writer share."""

import subprocess
import sys

import pytest

from socketpusher.channel import clock
from socketpusher.channel.clock import LONGEST_WAIT, Deadline


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its one item."""
    time = [1000.0]
    monkeypatch.setattr(clock, "now", lambda: time[0])
    return time


def test_a_deadline_is_over_when_its_seconds_have_passed(time: list[float]) -> None:
    deadline = Deadline(5)
    assert (deadline.remaining(), deadline.over()) == (5, False)
    time[0] += 4.5
    assert (deadline.remaining(), deadline.over()) == (0.5, False)
    time[0] += 0.5
    assert (deadline.remaining(), deadline.over()) == (0, True)
    time[0] += 1
    assert (deadline.remaining(), deadline.over()) == (0, True)


def test_a_deadline_in_the_past_is_over_now(time: list[float]) -> None:
    deadline = Deadline(-3)
    assert (deadline.at, deadline.remaining(), deadline.over()) == (1000, 0, True)


@pytest.mark.parametrize("seconds", [1e7, 1e10, sys.float_info.max])
def test_a_deadline_far_away_is_waited_for_in_parts_that_the_system_takes(time: list[float], seconds: float) -> None:
    deadline = Deadline(seconds)
    assert deadline.remaining() == LONGEST_WAIT
    assert not deadline.over()


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"), [(0.5, 1_000_500_000_000), (9.3e9, 2**63 - 1), (sys.float_info.max, 2**63 - 1)]
)
def test_a_deadline_fits_the_ledger_whatever_it_is(time: list[float], seconds: float, nanoseconds: int) -> None:
    assert Deadline(seconds).nanoseconds() == nanoseconds


def test_the_clock_is_the_same_in_every_process() -> None:
    before = clock.now()
    code = "from socketpusher.channel.clock import now; print(now())"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert before < float(theirs.stdout) < clock.now()


def test_a_host_that_freezes_time_does_not_stop_it() -> None:
    import freezegun

    with freezegun.freeze_time("2026-11-23"):
        before = clock.now()
        while clock.now() == before:
            pass
        assert not Deadline(60).over()
