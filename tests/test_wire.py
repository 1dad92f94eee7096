"""The wire format, held to by hypothesis."""

import dataclasses
import enum
import http
import json
import math
import signal
from collections import OrderedDict, deque, namedtuple
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import MagicMock, Mock
from uuid import UUID

import numpy
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event, EventType, wire
from socketpusher.config import MAX_LINE_BYTES

TIME = datetime(2026, 11, 23, 17, 8, 0, 250000, tzinfo=UTC)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)
times = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone.min])).filter(
    lambda time: 2 < time.year < 9998
)
json_values = st.recursive(
    st.none() | st.booleans() | int64 | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
events = st.builds(
    Event,
    type=text | st.sampled_from(EventType),
    unit=text,
    task=st.none() | int64,
    pr=st.none() | int64,
    payload=json_values,
    error=text,
    time=times,
)


class Color(enum.Enum):
    RED = ("r", 1)


@dataclasses.dataclass
class Point:
    x: int
    y: Any
    _hidden: int = 0


class Hostile:
    """Raises whenever it is looked at."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __iter__ = __len__ = __hash__ = __eq__ = __bool__ = __str__  # type: ignore[assignment]


class HostileMapping(Mapping):
    def __getitem__(self, key):
        raise KeyError("no")

    def __iter__(self):
        return iter("ab")

    def __len__(self):
        return 2


class Faceless:
    """Raises when it is asked for its class, as some proxies do."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("no")

    def __str__(self) -> str:
        return "faceless"


class Nameless(type):
    """A class whose name can't be asked for."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError("no")


class Unnamed(metaclass=Nameless):
    def __str__(self) -> str:
        raise RuntimeError("no")


def of_subclass(kind: type, *args: Any) -> Any:
    """An instance of a subclass whose methods lie."""
    lies = dict.fromkeys(("__str__", "__repr__", "__format__", "isoformat", "__iter__", "items"), lambda self: "a lie")
    return type("Sub", (kind,), lies)(*args)


class Name(enum.StrEnum):
    APP = "app"


class Number(float, enum.Enum):
    HALF = 0.5


@dataclasses.dataclass(slots=True)
class Slots:
    """orjson crashes at the field that is not set."""

    a: int
    b: int = dataclasses.field(init=False)


def nested(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


class NoOffset(tzinfo):
    def utcoffset(self, dt: datetime | None) -> None:
        return None


def cycle() -> list[Any]:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


hostile = st.recursive(
    json_values
    | st.binary(max_size=8)
    | st.text(max_size=8)  # lone surrogates
    | st.integers()
    | st.floats()
    | st.sets(st.integers(), max_size=3)
    | st.sampled_from([Path("/a/b"), Decimal("1.10"), ValueError("bad"), Color.RED, Point(1, {2}), object, len])
    | json_values.map(lambda value: orjson.Fragment(orjson.dumps(value, option=orjson.OPT_INDENT_2)))
    | st.builds(
        lambda make: make(),
        st.sampled_from([Hostile, cycle, deep, object, HostileMapping, Faceless, Mock, MagicMock]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.none() | st.integers() | st.booleans() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(events)
def test_decode_gives_back_what_encode_was_given(event: Event) -> None:
    assert wire.decode(wire.encode(event)) == event


@given(events, st.sampled_from([bytes, bytearray, memoryview, bytes.decode]), st.booleans())
def test_decode_takes_bytes_and_str_with_or_without_the_newline(event: Event, kind: Any, newline: bool) -> None:
    line = wire.encode(event)
    assert wire.decode(kind(line if newline else line[:-1])) == event


@given(
    st.one_of(
        events,
        st.builds(Event, type=st.text(), payload=hostile, time=st.none() | times),
        st.builds(Event, type=text, unit=st.text(), error=st.text(), payload=st.none() | hostile),
    )
)
def test_a_line_is_one_json_object_with_one_newline_at_its_end(event: Event) -> None:
    line = wire.encode(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    parsed = json.loads(line.decode("utf-8"))
    order = ["type", "time", "unit", "task", "pr", "payload", "error"]
    assert list(parsed) == [key for key in order if key in parsed]
    assert {"type", "time"} <= set(parsed)
    assert parsed["time"].endswith("Z")
    assert ("unit" in parsed) == (event.unit != "")
    assert ("error" in parsed) == (event.error != "")
    assert ("task" in parsed) == (event.task is not None)
    assert ("pr" in parsed) == (event.pr is not None)
    assert ("payload" in parsed) == (event.payload is not None)
    wire.decode(line)


@given(st.builds(Event, *[hostile] * 7))
def test_an_event_with_anything_anywhere_is_encoded(event: Event) -> None:
    """Not only the payload: every field may hold what it should not."""
    assert wire.decode(wire.encode(event))


@given(
    st.builds(Event, type=text, unit=text, error=text, payload=st.text(max_size=3000), time=times),
    st.sampled_from(["type", "unit", "error", "payload"]),
    st.sampled_from(["\0", "x", "é", "\U0001f600"]),
    st.integers(1024, 5000),
)
def test_no_line_is_over_the_limit(event: Event, field: str, filler: str, limit: int) -> None:
    setattr(event, field, filler * 5000)
    notes: list[str] = []
    line = wire.encode(event, max_line_bytes=limit, on_placeholder=notes.append)
    assert len(line) <= limit
    assert notes
    assert wire.decode(line).time == event.time


def test_zero_and_empty_containers_are_kept() -> None:
    line = wire.encode(Event("x", task=0, pr=0, payload={}, time=TIME))
    assert line == b'{"type":"x","time":"2026-11-23T17:08:00.250000Z","task":0,"pr":0,"payload":{}}\n'


def test_all_keys_in_their_order() -> None:
    line = wire.encode(Event("unit.failed", "app", 3, 17, [1, None], "exit 1", TIME))
    assert line == (
        b'{"type":"unit.failed","time":"2026-11-23T17:08:00.250000Z","unit":"app","task":3,"pr":17,'
        b'"payload":[1,null],"error":"exit 1"}\n'
    )


def test_the_limit_is_exact() -> None:
    """What known consumers accept: 1,048,576 bytes with the newline."""
    empty = len(wire.encode(Event("x", payload="", time=TIME)))
    fits = wire.encode(Event("x", payload="a" * (MAX_LINE_BYTES - empty), time=TIME))
    assert len(fits) == MAX_LINE_BYTES
    over = wire.encode(Event("x", payload="a" * (MAX_LINE_BYTES - empty + 1), time=TIME))
    assert wire.decode(over).payload == "<payload left out: the line of 1048577 bytes is over the limit of 1048576>"


def test_a_missing_naive_or_impossible_time_becomes_a_valid_one() -> None:
    before = datetime.now(UTC)
    notes: list[str] = []
    assert before <= wire.decode(wire.encode(Event("x"))).time <= datetime.now(UTC)  # type: ignore[operator]
    assert wire.decode(wire.encode(Event("x", time=TIME.replace(tzinfo=None)))).time == TIME
    beyond = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
    for wrong in (beyond, 17.5):
        wire.encode(Event("x", time=wrong), on_placeholder=notes.append)  # type: ignore[arg-type]
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Path("/a/b"), "/a/b"),
        ({3}, [3]),
        (frozenset(), []),
        ((1, (2,)), [1, [2]]),
        (deque([1]), [1]),
        ({"a": 1}.keys(), ["a"]),
        (b"abc\xff", "abc\\xff"),
        (bytearray(b"x"), "x"),
        (ValueError("bad"), "ValueError: bad"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (timedelta(seconds=90), 90.0),
        (date(2026, 1, 2), "2026-01-02"),
        (numpy.arange(3), [0, 1, 2]),
        (numpy.array([[1, 2], [3, 4]])[:, 0], [1, 3]),
        (numpy.float64(1.5), 1.5),
        (numpy.array(["x"], dtype=object), ["x"]),
        (Point(1, {2}), {"x": 1, "y": [2]}),
        (Color.RED, ["r", 1]),
        ({2: "a", None: "b", True: "c", (1, 2): "d"}, {"2": "a", "null": "b", "true": "c", "[1, 2]": "d"}),
        ("a\udc80", "a\\udc80"),
        ({"\udc80": 1}, {"\\udc80": 1}),
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        (2**64 - 1, 2**64 - 1),
        (math.nan, None),
        (math.inf, None),
        (of_subclass(str, "x"), "x"),
        (of_subclass(int, 5), 5),
        (of_subclass(int, 2**70), str(2**70)),
        (of_subclass(float, 1.5), 1.5),
        (of_subclass(dict, {"a": 1}), {"a": 1}),
        (of_subclass(list, [1]), [1]),
        (of_subclass(tuple, (1,)), [1]),
        (of_subclass(set, {1}), [1]),
        (of_subclass(bytes, b"x"), "x"),
        (of_subclass(date, 2026, 1, 2), "2026-01-02"),
        (of_subclass(time, 1, 2), "01:02:00"),
        (of_subclass(datetime, 2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006Z"),
        (of_subclass(datetime, 2026, 1, 2), "2026-01-02T00:00:00Z"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (datetime(2026, 1, 2), "2026-01-02T00:00:00Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1))), "2026-01-02T00:00:00+01:00"),
        (type("Id", (UUID,), {})(int=1), "00000000-0000-0000-0000-000000000001"),
        (namedtuple("Pair", "a b")(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        ({of_subclass(str, "k"): 1, Name.APP: 2, http.HTTPStatus.OK: 3}, {"k": 1, "app": 2, "200": 3}),
        (Name.APP, "app"),
        (Number.HALF, 0.5),
        (http.HTTPStatus.OK, 200),
        (numpy.ma.array([1, 2]), [1, 2]),
        (numpy.arange(3).view(type("Array", (numpy.ndarray,), {})), [0, 1, 2]),
        (numpy.longdouble(1.5), "1.5"),
        (orjson.Fragment(b'{"a":\n[1]}'), {"a": [1]}),
        (orjson.Fragment(b"[" * 300 + b"\n" + b"]" * 300), nested("<list: nested deeper than 100 levels>", 98)),
        (Slots(1), {"a": 1}),
        (numpy.datetime64("2026-11-27T00:07"), "2026-11-27T00:07:00Z"),
        (numpy.datetime64("2026-11-27T00:07").astype("M8[15m]"), "2026-11-27T00:00:00Z"),
        (numpy.array(["2026-11-27T00:07", "NaT"], dtype="M8[ns]"), ["2026-11-27T00:07:00Z", None]),
        (numpy.float32(0.1), 0.1),
        (numpy.arange(4.0)[::2], [0.0, 2.0]),
        (orjson.Fragment(b"[1\n"), "<Fragment: raised JSONDecodeError>"),
        (Hostile(), "<Hostile: raised RuntimeError>"),
        (HostileMapping(), "<HostileMapping: raised KeyError>"),
        (cycle(), [1, {"again": "<list: contains itself>"}]),
    ],
)
def test_what_orjson_does_not_take_is_converted(value: Any, expected: Any) -> None:
    # Beside something else that is not JSON, so that the conversion is the library's own throughout.
    for payload in ({"value": value}, {"value": value, "other": {1}}):
        assert wire.decode(wire.encode(Event("x", payload=payload))).payload["value"] == expected


@pytest.mark.parametrize(
    "payload",
    [
        orjson.Fragment(b"x" * 2_000_000),
        {"a": orjson.Fragment(b'"\\ud800"'), "b": "x" * 2_000_000},
        {"a": orjson.Fragment(b"[" * 300 + b"]" * 300), "b": "x" * 2_000_000, "graph": {"nodes": [{"id": "a"}]}},
    ],
)
def test_a_start_whose_graph_can_not_be_read_gets_a_placeholder(payload: Any) -> None:
    decoded = wire.decode(wire.encode(Event("orch.started", payload=payload)))
    assert decoded.payload.startswith("<payload left out: the line of ")


@pytest.mark.parametrize("kind", [float, int, str, dict, list, datetime, Event])
def test_an_object_that_fakes_its_class_is_encoded(kind: type) -> None:
    mock = Mock(spec=kind, __str__=lambda self: "a mock")
    assert wire.decode(wire.encode(Event("x", payload={"value": mock}))).payload == {"value": "a mock"}
    notes: list[str] = []
    event = Event(mock, mock, mock, mock, mock, mock, mock)
    decoded = wire.decode(wire.encode(event, on_placeholder=notes.append))
    assert (decoded.type, decoded.unit, decoded.error, decoded.task) == ("a mock", "a mock", "a mock", None)
    assert notes == [
        "<task: not a 64-bit int, left out>",
        "<pr: not a 64-bit int, left out>",
        "<time: not a datetime, sent as the current time>",
    ]


def test_numbers_of_a_subclass_are_their_value_at_once() -> None:
    event = Event("x", task=http.HTTPStatus.OK, pr=of_subclass(int, -(2**63)), time=TIME)
    assert wire.decode(wire.encode(event)) == Event("x", task=200, pr=-(2**63), time=TIME)
    assert wire.decode(wire.encode(Event("x", task=of_subclass(int, 2**63), pr=True, time=TIME))).pr == 1


def test_names_of_a_subclass_are_their_text() -> None:
    event = Event(of_subclass(str, "t"), Name.APP, error=of_subclass(str, "e"), time=TIME)
    assert wire.decode(wire.encode(event)) == Event("t", "app", error="e", time=TIME)


@pytest.mark.parametrize("where", ["unit", "error", "type", "task", "pr", "time", "payload"])
def test_an_object_whose_class_can_not_be_asked_for_is_encoded(where: str) -> None:
    event = Event("x", time=TIME)
    setattr(event, where, Faceless())
    decoded = wire.decode(wire.encode(event))
    assert getattr(decoded, where) in (None, "faceless") or where == "time"


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=1)), NoOffset(), None])
def test_a_time_of_a_subclass_is_that_time(zone: tzinfo | None) -> None:
    own = of_subclass(datetime, 2026, 11, 23, 17, 8, 0, 250000, zone)
    expected = TIME - (timedelta(hours=1) if isinstance(zone, timezone) and zone is not UTC else timedelta())
    for payload in (None, {1}):
        assert wire.decode(wire.encode(Event("x", time=own, payload=payload))).time == expected


def test_keys_with_none_are_left_out() -> None:
    event = Event("x", unit=None, error=None, time=TIME)  # type: ignore[arg-type]
    assert wire.encode(event) == b'{"type":"x","time":"2026-11-23T17:08:00.250000Z"}\n'
    event.payload = {1}
    assert wire.encode(event) == b'{"type":"x","time":"2026-11-23T17:08:00.250000Z","payload":[1]}\n'
    event.task = http.HTTPStatus.OK
    assert b"None" not in wire.encode(event)


class HandlerError(Exception):
    """What the signal handler below raises."""


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise HandlerError


class Interrupts:
    """Is interrupted by a signal when it is looked at."""

    def __str__(self) -> str:
        signal.raise_signal(signal.SIGUSR1)
        return ""


class ZoneInterrupts(tzinfo):
    def utcoffset(self, dt: datetime | None) -> timedelta:
        signal.raise_signal(signal.SIGUSR1)
        return timedelta()


@pytest.mark.parametrize(
    "event",
    [
        Event("x", payload={"a": [Interrupts()]}),
        Event("x", unit=Interrupts()),  # type: ignore[arg-type]
        Event("x", time=datetime(2026, 1, 1, tzinfo=ZoneInterrupts())),
        Event("x", payload=ValueError(Interrupts())),
    ],
)
def test_what_a_signal_handler_raises_is_let_through(event: Event) -> None:
    before = signal.signal(signal.SIGUSR1, interrupt)
    notes: list[str] = []
    try:
        with pytest.raises(HandlerError):
            wire.encode(event, on_placeholder=notes.append)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert notes == []


def test_an_object_that_can_not_be_read_becomes_a_placeholder() -> None:
    notes: list[str] = []
    assert wire.decode(wire.encode(Event("x", payload=Unnamed()), on_placeholder=notes.append)).payload == notes[0]
    assert notes == ["<Unnamed: raised RuntimeError>"]
    assert wire.decode(wire.encode(Event("x", payload=[Faceless()]))).payload == ["faceless"]


def test_a_payload_too_deep_has_a_placeholder_where_it_gets_too_deep() -> None:
    notes: list[str] = []
    line = wire.encode(Event("x", payload=deep()), on_placeholder=notes.append)
    assert notes == ["<list: nested deeper than 100 levels>"]
    assert b"nested deeper" in line


def test_a_hostile_payload_deep_in_a_callers_stack_does_not_raise() -> None:
    def recurse(depth: int) -> bytes:
        return recurse(depth - 1) if depth else wire.encode(Event("x", payload={"p": deep()}))

    for depth in range(700, 1000, 7):
        try:
            line = recurse(depth)
        except RecursionError:
            return  # by now there is no room to call encode at all
        assert wire.decode(line).type == "x"


def test_an_invalid_number_is_left_out_and_reported() -> None:
    notes: list[str] = []
    line = wire.encode(Event("x", task=2**80, pr="17", time=TIME), on_placeholder=notes.append)  # type: ignore[arg-type]
    assert wire.decode(line) == Event("x", time=TIME)
    assert notes == ["<task: not a 64-bit int, left out>", "<pr: not a 64-bit int, left out>"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not JSON: it is empty"),
        (b"\n", "not JSON: it is empty"),
        (b"{", "not JSON"),
        (b'{"type":"x"}{"type":"y"}', "not JSON"),
        (b"\xff", "not JSON: it is not UTF-8"),
        (b"[1]", r"must be a JSON object, not b'\[1\]'"),
        ("null", "must be a JSON object, not null"),
        (b'{"time":"2026-11-23T17:08:00Z"}', "key 'type' of an event is missing"),
        (b'{"type":null,"time":"2026-11-23T17:08:00Z"}', "key 'type' of an event must be a string, not None"),
        (b'{"type":"x"}', "key 'time' of an event is missing"),
        (b'{"type":"x","time":5}', "key 'time'"),
        (b'{"type":"x","time":""}', "key 'time'"),
        (b'{"type":"x","time":"2026-11-23"}', "key 'time'"),
        (b'{"type":"x","time":"2026-11-23T17:08:00"}', "key 'time'"),
        (b'{"type":"x","time":"20261123T170800Z"}', "key 'time'"),
        (b'{"type":"x","time":"2026-11-23T17:08:00Z","unit":5}', "key 'unit'"),
        (b'{"type":"x","time":"2026-11-23T17:08:00Z","unit":null}', "key 'unit'"),
        (b'{"type":"x","time":"2026-11-23T17:08:00Z","task":1.5}', "key 'task' of an event must be an integer"),
        (b'{"type":"x","time":"2026-11-23T17:08:00Z","task":true}', "key 'task'"),
        (b'{"type":"x","time":"2026-11-23T17:08:00Z","pr":"1"}', "key 'pr'"),
        (b'{"type":"x","time":"2026-11-23T17:08:00Z","error":[]}', "key 'error'"),
        (5, "not JSON"),
    ],
)
def test_decode_names_the_wrong_key(line: Any, message: str) -> None:
    with pytest.raises(wire.DecodeError, match=message) as caught:
        wire.decode(line)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "kind", [str, str.encode, lambda line: bytearray(line.encode()), lambda line: memoryview(line.encode())]
)
def test_decode_refuses_what_a_reader_would_see_as_two_lines(kind: Any, newline: str) -> None:
    line = f'{{"type":"x",{newline}"time":"2026-11-23T17:08:00Z"}}{newline}'
    with pytest.raises(wire.DecodeError, match="a line must not contain a newline before its end") as refused:
        wire.decode(kind(line))
    assert "\n" not in str(refused.value)
    wire.decode(kind(line.replace(newline, "", 1)))


@given(st.binary() | st.text() | json_values.map(json.dumps))
def test_decode_raises_nothing_else(line: Any) -> None:
    try:
        wire.decode(line)
    except wire.DecodeError:
        pass


def test_decode_tolerates_unknown_keys_and_what_other_programs_write() -> None:
    line = (
        b' {"pr": null, "new": {"a": 1}, "time": "2026-11-23T19:08:00.250000999+02:00", "type": "x", "task": null} \r\n'
    )
    assert wire.decode(line) == Event("x", time=TIME)


def test_the_event_is_not_changed() -> None:
    payload = {"a": {1, 2}}
    event = Event("x", payload=payload, time=TIME.astimezone(timezone(timedelta(hours=1))))
    wire.encode(event, max_line_bytes=1024)
    assert event.payload is payload
    assert payload == {"a": {1, 2}}
    assert event.time is not None
    assert event.time.utcoffset() == timedelta(hours=1)


def test_a_lone_surrogate_in_a_name_is_escaped_and_changes_nothing_else() -> None:
    line = wire.encode(Event("t\udc80", "u\udc80", error="e\udc80", time=TIME))
    assert line == (
        b'{"type":"t\\\\udc80","time":"2026-11-23T17:08:00.250000Z","unit":"u\\\\udc80","error":"e\\\\udc80"}\n'
    )


@given(st.integers(1, 10**18 - 1), st.text(min_size=1, max_size=100))
def test_an_id_has_a_session_and_a_number(n: int, session: str) -> None:
    assert wire.EventId.parse(f"{session}-{n}") == (session, n)


@pytest.mark.parametrize(
    "id",
    [
        None,
        5,
        "",
        "-",
        "a",
        "-1",
        "a-",
        "a--",
        "a-0",
        "a-01",
        "a-1x",
        "a-1\n",
        "a-٣",
        "a-" + "9" * 19,
        "a" * 101 + "-1",
    ],
)
def test_what_has_not_the_form_of_an_id_is_not_parsed(id: object) -> None:
    assert wire.EventId.parse(id) is None
