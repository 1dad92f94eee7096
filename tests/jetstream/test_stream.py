"""What a relay asks of a stream that is there; `test_relay` asks a server."""

import base64
from typing import Any

import pytest

from socketpusher.jetstream.connection import ServerError
from socketpusher.jetstream.stream import StreamSpec, _conflicts, _covers, _message_id, checked_name, is_missing

MADE = {
    "subjects": ["events.>"],
    "retention": "limits",
    "max_age": 60_000_000_000,
    "max_bytes": 1 << 20,
    "num_replicas": 1,
    "duplicate_window": 2_000_000_000,
}


@pytest.mark.parametrize(
    "asked", [{}, {"max_age": 60.0}, {"max_bytes": 1 << 20}, {"replicas": 1}, {"duplicate_window": 2.0}]
)
def test_a_stream_that_is_as_asked_for_can_be_used(asked: dict[str, Any]) -> None:
    assert _conflicts(MADE, StreamSpec(**asked)) == []


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ({"subjects": ["other.>"]}, {}, ("other.>", "events.>")),
        ({"subjects": None}, {}, ("events.>",)),
        ({"retention": "interest"}, {}, ("interest", "limits")),
        ({"no_ack": True}, {}, ("no_ack",)),
        ({"sealed": True}, {}, ("sealed",)),
        ({}, {"replicas": 3}, ("num_replicas", "1", "3")),
        ({}, {"max_bytes": 5}, ("max_bytes", "1 MiB", "5 bytes")),
        ({}, {"max_age": 61.0}, ("max_age", "60 s", "61 s")),
        ({}, {"duplicate_window": 1.5}, ("duplicate_window", "2 s", "1.5 s")),
        ({"max_age": 0}, {"max_age": 61.0}, ("max_age", "0 s", "61 s")),
    ],
)
def test_each_thing_that_is_otherwise_is_named_with_both_values(
    made: dict[str, Any], asked: dict[str, Any], words: tuple[str, ...]
) -> None:
    (clause,) = _conflicts({**MADE, **made}, StreamSpec(**asked))
    assert [word for word in words if word not in clause] == []


def test_everything_that_is_wrong_is_told_at_once() -> None:
    assert len(_conflicts({"retention": "workqueue", "no_ack": True}, StreamSpec(replicas=3))) == 4


@pytest.mark.parametrize(
    ("subject", "covers"),
    [
        (">", True),
        ("events.>", True),
        ("events.a.>", True),
        ("events.a.b.>", False),
        ("events.*", False),
        ("events", False),
        ("event.>", False),
        ("events.a", False),
        ("events.ab.>", False),
    ],
)
def test_a_subject_covers_what_begins_with_it(subject: str, covers: bool) -> None:
    assert _covers(subject, "events.a") == covers


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a*", "a>", "a/b", "a\\b", "a\n", "x" * 201])
def test_a_name_that_no_stream_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        checked_name(name)
    with pytest.raises(ValueError, match="name"):
        StreamSpec(name=name)


@pytest.mark.parametrize("name", ["EVENTS", "a-b_c", "ä", "x" * 200])
def test_a_name_that_a_stream_can_have_is_taken(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ("NATS/1.0\r\nNats-Msg-Id: run-1\r\n\r\n", "run-1"),
        ("NATS/1.0\r\nOther: x\r\nNats-Msg-Id:run-1:2\r\n\r\n", "run-1:2"),
        ("NATS/1.0\r\nOther: x\r\n\r\n", ""),
        ("", ""),
    ],
)
def test_the_id_of_a_message_is_found_among_its_headers(headers: str, found: str) -> None:
    assert _message_id(base64.b64encode(headers.encode()).decode()) == found


@pytest.mark.parametrize(("err_code", "missing"), [(10039, True), (0, True), (10059, False)])
def test_no_jetstream_is_told_from_no_stream(err_code: int, missing: bool) -> None:
    assert is_missing(ServerError(503, err_code, "x")) == missing
