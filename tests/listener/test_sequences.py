"""What is a repetition and what is missing, told by ids."""

from hypothesis import given
from hypothesis import strategies as st

from socketpusher.listener.sequences import GAPS, SESSIONS, SequenceTracker
from socketpusher.wire import EventId


def taken(*ids: str, sessions: SequenceTracker | None = None) -> list[tuple[str, list[int]] | None]:
    """What becomes of each: None for a repetition, else the id and the numbers that were missed before it."""
    sessions = sessions or SequenceTracker()
    outcomes = []
    for id in ids:
        event_id = EventId.parse(id.lstrip("*"))
        assert event_id is not None
        missed = sessions.observe(event_id, retained=id.startswith("*"))
        outcomes.append(None if missed is None else (id, list(missed)))
    return outcomes


def test_what_comes_in_order_is_new() -> None:
    assert taken("s-1", "s-2", "s-3") == [("s-1", []), ("s-2", []), ("s-3", [])]


def test_what_comes_twice_is_a_repetition() -> None:
    assert taken("s-1", "s-2", "s-1", "s-2", "s-3") == [("s-1", []), ("s-2", []), None, None, ("s-3", [])]


def test_what_is_remembered_of_a_session_is_bounded() -> None:
    """Each late event splits a gap into two."""
    tracker = SequenceTracker()
    taken("s-1", "s-90000", *(f"s-{number}" for number in range(3, 6000, 2)), sessions=tracker)
    assert len(tracker._sequence._missing) == GAPS


def test_what_is_missing_between_two_is_a_gap() -> None:
    assert taken("s-1", "s-5", "s-6") == [("s-1", []), ("s-5", [2, 3, 4]), ("s-6", [])]


def test_what_came_before_the_listener_is_no_gap() -> None:
    assert taken("s-700", "s-701", "s-703") == [("s-700", []), ("s-701", []), ("s-703", [702])]


def test_what_lies_behind_an_event_that_is_told_again_is_no_gap() -> None:
    # A new consumer in the middle of a run is told `orch.started` first, and then what it had not read.
    assert taken("*s-5", "s-700", "s-702") == [("*s-5", []), ("s-700", []), ("s-702", [701])]
    assert taken("*s-1", "s-700", "s-702") == [("*s-1", []), ("s-700", []), ("s-702", [701])]
    assert taken("*s-1", "s-2", "s-4") == [("*s-1", []), ("s-2", []), ("s-4", [3])]


def test_what_comes_late_is_new_once() -> None:
    outcomes = taken("s-1", "s-5", "s-3", "s-3", "s-2", "s-4", "s-4", "s-6")
    assert outcomes == [("s-1", []), ("s-5", [2, 3, 4]), ("s-3", []), None, ("s-2", []), ("s-4", []), None, ("s-6", [])]


def test_what_comes_late_from_before_the_listener_is_new_too() -> None:
    assert taken("s-700", "s-650", "s-650") == [("s-700", []), ("s-650", []), None]


def test_sessions_have_nothing_to_do_with_each_other() -> None:
    assert taken("a-1", "b-1", "a-2", "b-3", "a-1") == [("a-1", []), ("b-1", []), ("a-2", []), ("b-3", [2]), None]


def test_memory_is_bounded_and_the_busiest_are_remembered() -> None:
    sessions = SequenceTracker()
    for number in range(1, 3 * SESSIONS):
        assert taken(f"busy-{number}", f"idle{number}-1", sessions=sessions)[0] is not None
    assert len(sessions._sequences) == SESSIONS
    assert taken("busy-1", sessions=sessions) == [None]
    for number in range(1, 3 * GAPS):
        taken(f"gaps-{2 * number}", sessions=sessions)
    assert len(sessions._sequence._missing) == GAPS


@given(st.lists(st.integers(1, 30)))
def test_every_number_is_new_the_first_time_and_a_repetition_afterwards(numbers: list[int]) -> None:
    seen: set[int] = set()
    reported: set[int] = set()
    for number, outcome in zip(numbers, taken(*(f"s-{number}" for number in numbers)), strict=True):
        assert (outcome is None) == (number in seen)
        seen.add(number)
        if outcome is not None:
            assert not seen & set(outcome[1])
            assert not reported & set(outcome[1])
            reported |= set(outcome[1])
    if numbers:
        assert reported == {n for n in range(numbers[0] + 1, max(numbers)) if _passed_over(n, numbers)}


def _passed_over(number: int, numbers: list[int]) -> bool:
    """Whether something higher came before it, and nothing lower had to be known for that."""
    first_above = next(place for place, other in enumerate(numbers) if other >= number)
    return numbers[first_above] > number and first_above > 0
