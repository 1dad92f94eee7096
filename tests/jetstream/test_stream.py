"""What a relay asks of a stream that is there; `test_relay` asks a server."""

from typing import Any

import pytest
from nats.js.api import StreamConfig, SubjectTransform
from nats.js.errors import APIError

from socketpusher.jetstream.options import NatsOptions
from socketpusher.jetstream.stream import _conflicts, _covers, is_missing

MADE = StreamConfig(
    subjects=["events.>"],
    retention="limits",
    max_age=60.0,
    max_bytes=1 << 20,
    num_replicas=1,
    duplicate_window=2.0,
)


@pytest.mark.parametrize(
    "asked", [{}, {"max_age": 60.0}, {"max_bytes": 1 << 20}, {"num_replicas": 1}, {"duplicate_window": 2.0}]
)
def test_a_stream_that_is_as_asked_for_can_be_used(asked: dict[str, Any]) -> None:
    assert _conflicts(MADE, "events", StreamConfig(**asked)) == []


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ({"subjects": ["other.>"]}, {}, ("other.>", "events.>")),
        ({"subjects": None}, {}, ("events.>",)),
        ({"retention": "interest"}, {}, ("interest", "limits")),
        ({"no_ack": True}, {}, ("no_ack",)),
        ({"sealed": True}, {}, ("sealed",)),
        ({"subject_transform": SubjectTransform("events.>", "kept.>")}, {}, ("subject_transform",)),
        ({}, {"num_replicas": 3}, ("num_replicas", "1", "3")),
        ({}, {"max_bytes": 5}, ("max_bytes", "1 MiB", "5 bytes")),
        ({}, {"max_age": 61.0}, ("max_age", "60 s", "61 s")),
        ({}, {"duplicate_window": 1.5}, ("duplicate_window", "2 s", "1.5 s")),
        ({"max_age": 0}, {"max_age": 61.0}, ("max_age", "0 s", "61 s")),
    ],
)
def test_each_thing_that_is_otherwise_is_named_with_both_values(
    made: dict[str, Any], asked: dict[str, Any], words: tuple[str, ...]
) -> None:
    (clause,) = _conflicts(MADE.evolve(**made), "events", StreamConfig(**asked))
    assert [word for word in words if word not in clause] == []


def test_everything_that_is_wrong_is_told_at_once() -> None:
    made = StreamConfig(retention="workqueue", no_ack=True)
    assert len(_conflicts(made, "events", StreamConfig(num_replicas=3))) == 4


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
        ("*.>", True),
        ("*.b.>", False),
        ("events.*.>", True),
        ("events.a.*.*.>", True),
        ("*.*.*.*.>", True),
        ("events.a.h.*.>", False),
        ("events.a.*.*.*", False),
        ("events.a.*.*.*.>", False),  # not a type of one token
    ],
)
def test_a_stream_must_cover_the_subjects_of_all_events(subject: str, covers: bool) -> None:
    assert _covers(subject, "events.a") == covers


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a*", "a>", "a/b", "a\\b", "a\n", "x" * 201])
def test_a_name_that_no_stream_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        NatsOptions("nats://localhost", stream=name)


@pytest.mark.parametrize("name", ["EVENTS", "a-b_c", "ä", "x" * 200])
def test_a_name_that_a_stream_can_have_is_taken(name: str) -> None:
    assert NatsOptions("nats://localhost", stream=name).stream == name


@pytest.mark.parametrize(("err_code", "missing"), [(10039, True), (0, True), (10059, False)])
def test_no_jetstream_is_told_from_no_stream(err_code: int, missing: bool) -> None:
    assert is_missing(APIError(code=503, err_code=err_code, description="x")) == missing
