"""What JSON can't express is turned into what it can; `test_wire` has whole events of it."""

import json
import sys
from collections import OrderedDict, UserDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import numpy
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher.conversion import MAX_DEPTH, exact_datetime, format_error, text, to_jsonable

PARTS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)  # with lone surrogates
    | st.binary(max_size=5)
    | st.decimals()
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.timedeltas()
    | st.complex_numbers()
    | st.builds(ValueError, st.text(max_size=5))
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.dates() | st.tuples(st.integers())
ANYTHING = st.recursive(
    PARTS,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def converted(value: Any) -> tuple[Any, list[str]]:
    """The value as it is converted, and the notes."""
    notes: list[str] = []
    return to_jsonable(value, notes.append), notes


@given(ANYTHING)
def test_whatever_it_is_given_comes_out_as_orjson_takes_it(value: Any) -> None:
    plain, notes = converted(value)
    assert json.loads(orjson.dumps(plain)) is not ...
    assert notes == []


@given(JSON)
def test_what_json_can_express_stays_as_it_is(value: Any) -> None:
    assert converted(value) == (value, [])


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        (PurePosixPath("/a"), "/a"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Decimal("1.10"), "1.10"),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        (date(2026, 11, 23), "2026-11-23"),
        (time(17, 8), "17:08:00"),
        (datetime(2026, 11, 23, tzinfo=UTC), "2026-11-23T00:00:00Z"),
        (datetime(2026, 11, 23), "2026-11-23T00:00:00Z"),
        (datetime(2026, 11, 23, tzinfo=timezone(timedelta(hours=2))), "2026-11-23T00:00:00+02:00"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (UserDict(a={1}), {"a": [1]}),
        ({None: 1, True: 2, 3: 3, (4,): 4}, {"null": 1, "true": 2, "3": 3, "[4]": 4}),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (numpy.float32(0.5), 0.5),
        (ValueError("bad"), "ValueError: bad"),
        ("a\udc80", "a\\udc80"),
        (b"a\xff", "a\\xff"),
    ],
)
def test_it_becomes_what_the_docstring_says(value: Any, plain: Any) -> None:
    assert converted(value) == (plain, [])


def test_of_two_keys_that_become_the_same_the_last_one_stays() -> None:
    assert converted({1: "a", "1": "b"}) == ({"1": "b"}, [])


def test_what_contains_itself_is_noted_there_and_the_rest_stays() -> None:
    value: dict[str, Any] = {"a": 1}
    value["again"] = [value, 2]
    assert converted(value) == ({"a": 1, "again": ["<dict: contains itself>", 2]}, ["<dict: contains itself>"])


def test_what_is_there_twice_but_not_in_itself_is_there_twice() -> None:
    shared = [1]
    assert converted([shared, shared]) == ([[1], [1]], [])


@pytest.mark.parametrize(("depth", "noted"), [(MAX_DEPTH, False), (MAX_DEPTH + 1, True)])
def test_the_deepest_nesting_is_as_said(depth: int, noted: bool) -> None:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    plain, notes = converted(value)
    assert bool(notes) == noted
    assert ("nested deeper" in json.dumps(plain)) == noted


def test_what_raises_is_noted_and_its_neighbours_stay() -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert converted([1, HostileError(), 2]) == (
        [1, "<HostileError: raised RuntimeError>", 2],
        ["<HostileError: raised RuntimeError>"],
    )


def test_an_interrupt_comes_out_of_it() -> None:
    """It is not the value's fault."""

    class Interrupted:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(Interrupted())


@pytest.mark.parametrize("value", ["", "é", "\ud800", 7, sys])
def test_a_text_can_be_written_as_utf8(value: object) -> None:
    assert text(value).encode() == str(value).encode("utf-8", "backslashreplace")


def test_a_time_of_a_subclass_is_an_exact_datetime_of_the_same_time() -> None:
    class Pendulum(datetime):
        pass

    exact = exact_datetime(Pendulum(2026, 11, 23, 17, 8, 0, 5, UTC, fold=1))
    assert type(exact) is datetime
    assert exact == datetime(2026, 11, 23, 17, 8, 0, 5, UTC)
    assert exact.fold == 1


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no disk"), "ValueError: no disk"),
        (KeyError("a"), "KeyError: 'a'"),
        (RuntimeError(), "RuntimeError"),
        (OSError(2, "No such file", "/a"), "FileNotFoundError: [Errno 2] No such file: '/a'"),
        (ValueError("\udc80"), "ValueError: \\udc80"),
        (HostileError(), "<HostileError: raised RuntimeError>"),
    ],
)
def test_the_text_of_an_error_is_its_type_and_its_message_or_a_note(error: BaseException, text: str) -> None:
    assert format_error(error) == text
