"""Waiting for a condition in the host."""

import threading

import pytest

from socketpusher.channel.clock import Deadline
from socketpusher.host.changes import Changes
from support.waiting import wait_for


@pytest.fixture
def changes() -> Changes:
    return Changes()


def test_what_holds_already_is_not_waited_for(changes: Changes) -> None:
    assert changes.wait_until(lambda: True, Deadline(0))
    assert not changes.wait_until(lambda: False, Deadline(0))


def test_each_of_those_who_wait_looks_again_at_a_change(changes: Changes) -> None:
    """The deadline is long, so only the change can end the wait."""
    come = threading.Event()
    results: list[bool] = []
    waiting = [
        threading.Thread(target=lambda: results.append(changes.wait_until(come.is_set, Deadline(600))))
        for _ in range(5)
    ]
    for thread in waiting:
        thread.start()
    wait_for(lambda: len(changes._waiters) == 5)
    changes.notify()  # of something else
    wait_for(lambda: len(changes._waiters) == 5)
    come.set()
    changes.notify()
    for thread in waiting:
        thread.join(60)
    assert results == [True] * 5


def test_a_wait_ends_at_its_deadline_and_says_that_the_condition_does_not_hold(changes: Changes) -> None:
    assert not changes.wait_until(lambda: False, Deadline(0.01))


def test_a_condition_is_asked_again_after_each_pause_though_nothing_is_told(changes: Changes) -> None:
    asked = iter(range(100))
    assert changes.wait_until(lambda: next(asked) > 5, Deadline(600), pause=0.001)


def test_a_change_between_the_question_and_the_wait_is_not_missed(changes: Changes) -> None:
    asked = 0

    def condition() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:  # it has queued up, and looks once more
            changes.notify()
        return asked > 2

    assert changes.wait_until(condition, Deadline(600))


def test_a_wait_that_was_interrupted_does_not_hold_up_the_others(changes: Changes) -> None:
    def interrupted() -> bool:
        if changes._waiters:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        changes.wait_until(interrupted, Deadline(600))
    assert len(changes._waiters) == 1
    changes.notify()
    assert len(changes._waiters) == 0
