"""What a listener reports: once an episode by default, each to an `on_problem` of one's own."""

import asyncio
import select
import threading
import types
from collections.abc import Callable, Iterator

import pytest

from socketpusher import Event, Gap, RefusedSender, SkippedLine, listen
from socketpusher.listener.listener import Listener
from socketpusher.listener.problems import FrequentProblem, Problem, ProblemLog, Recovery, Sender
from support.senders import line, send, sender_to
from support.waiting import wait_for

SENDER = Sender(12, 0)
SKIPPED = SkippedLine(SENDER, "it is no event", b"x")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    monkeypatch.setattr("socketpusher.listener.problems.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    yield now


def test_the_first_problem_of_an_episode_is_reported_at_once_and_the_others_are_counted(clock: list[float]) -> None:
    said: list[str] = []
    log = ProblemLog(said.append)
    for problem in (SKIPPED, SKIPPED, Gap(SENDER, "s", 2, 4), RefusedSender(SENDER), Gap(SENDER, "s", 6, 6), SKIPPED):
        log(problem)
        clock[0] += 0.5
    assert said == [str(SKIPPED)]
    assert log.remaining() == 0.5
    log.end_episode()
    assert len(said) == 1
    clock[0] += 0.5
    log.end_episode()
    assert said[1:] == ["2 more skipped lines, 2 more gaps, 1 more refused sender within 3.5 s; 4 more missing events"]
    assert log.remaining() is None


def test_a_problem_after_a_quiet_second_begins_another_episode(clock: list[float]) -> None:
    said: list[str] = []
    log = ProblemLog(said.append)
    for _ in range(3):
        log(SKIPPED)
        assert log.remaining() is None  # there is nothing more to say
        clock[0] += 1
    assert said == [str(SKIPPED)] * 3


def test_an_episode_without_end_is_reported_once_a_minute(clock: list[float]) -> None:
    said: list[str] = []
    log = ProblemLog(said.append)
    for _ in range(3 * 480):
        log(SKIPPED)
        clock[0] += 0.125
    assert said == [str(SKIPPED), "479 more skipped lines within 60.0 s"] * 2 + [str(SKIPPED)]


def test_a_plain_sentence_is_reported_at_once_and_not_counted(clock: list[float]) -> None:
    said: list[str] = []
    log = ProblemLog(said.append)
    skipped = FrequentProblem("skipped")
    for problem in (skipped, skipped, "lost", skipped, Recovery("back")):
        log(problem)
    assert said == ["skipped", "lost", "back"]
    log.end_episode(at_once=True)
    assert said[3:] == ["2 more problems within 0.0 s"]


def in_a_thread(listener: Listener[Event]) -> None:
    next(listener, None)


def in_asyncio(listener: Listener[Event]) -> None:
    asyncio.run(_next(listener))


async def _next(listener: Listener[Event]) -> None:
    await anext(aiter(listener), None)


@pytest.mark.parametrize("form", [in_a_thread, in_asyncio])
def test_many_lines_that_are_no_events_are_two_warnings_and_the_second_needs_no_further_event(
    socket_path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, form: Callable[..., None]
) -> None:
    monkeypatch.setattr(ProblemLog, "QUIET", 3.0)  # longer than a busy machine pauses
    monkeypatch.setattr(ProblemLog, "LONGEST", 1e6)
    with listen(socket_path) as listener:
        reading = threading.Thread(target=form, args=(listener,))
        reading.start()
        send(socket_path, b"x\n" * 20_000)
        wait_for(lambda: len(caplog.messages) == 2)
        listener.close()
        reading.join()
    assert caplog.messages[0].startswith("skipped what process")
    assert caplog.messages[1].startswith("19,999 more skipped lines within")


def test_closing_reports_what_was_counted(socket_path: str, caplog: pytest.LogCaptureFixture) -> None:
    with listen(socket_path) as listener:
        send(socket_path, b"x\nx\nx\n" + line(1))
        next(listener)
        assert len(caplog.messages) == 1
    assert len(caplog.messages) == 2


def test_a_gap_before_each_event_is_one_warning_an_episode(socket_path: str, caplog: pytest.LogCaptureFixture) -> None:
    with listen(socket_path) as listener:
        send(socket_path, b"".join(line(number, f',"id":"s-{number}"') for number in range(1, 300, 3)))
        assert [next(listener).type for _ in range(100)][-1] == "298"
        assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("events 2 to 3 are missing")
    assert caplog.messages[1].startswith("98 more gaps within")
    assert caplog.messages[1].endswith("196 more missing events")


def test_no_character_that_a_terminal_obeys_is_in_a_report(socket_path: str, caplog: pytest.LogCaptureFixture) -> None:
    with listen(socket_path) as listener:
        send(socket_path, b"".join(line(number, ',"id":"\\u001b[2J\\n-' + f'{number}"') for number in (1, 3)))
        assert [next(listener).type for _ in range(2)] == ["1", "3"]
    (message,) = caplog.messages
    assert message.startswith("event 2 is missing")
    assert message.isprintable()


def test_what_was_decoded_when_an_on_problem_raised_comes_with_the_next_read(socket_path: str) -> None:
    def refuse(problem: Problem) -> None:
        raise RuntimeError(problem)

    for end in (b"", line(2)):
        with listen(socket_path, on_problem=refuse) as listener, sender_to(socket_path) as sender:
            sender.sendall(line(1) + b"x\n" + end)
            got: list[str] = []
            while not got:
                try:
                    got = [event.type for event in listener.read(hold=True)]
                except RuntimeError:
                    assert select.select([listener], [], [], 0)[0]
                listener.release()
        assert got == ["1", "2"][: 1 + bool(end)]


def test_what_was_decoded_when_an_on_problem_raised_comes_first_in_an_iteration(socket_path: str) -> None:
    def refuse(problem: Problem) -> None:
        raise RuntimeError(problem)

    with listen(socket_path, on_problem=refuse) as listener:
        send(socket_path, line(1) + b"x\n" + line(2))
        with pytest.raises(RuntimeError):
            while True:
                assert listener.read() == []  # the sender connects
        assert [next(listener).type for _ in range(2)] == ["1", "2"]


def test_an_on_problem_of_ones_own_gets_each(socket_path: str) -> None:
    problems: list[Problem] = []
    with listen(socket_path, on_problem=problems.append) as listener:
        send(socket_path, b"x\n" * 5000 + line(1))
        next(listener)
    assert len(problems) == 5000
