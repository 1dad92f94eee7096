"""Turns what schedulers put into a payload into what JSON can express.

`plain` never raises and never loses the whole for a part: what can't be converted becomes a short note in its place.
It runs only for the events that orjson refuses, so it is written for coverage, not for speed.
"""

import dataclasses
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Set, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from .signal_errors import raised_by_signal_handler

MAX_DEPTH = 100  # orjson refuses more than 254; a note at 100 reads better, and leaves room on a deep stack
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1  # what orjson takes for an int


def to_jsonable(value: Any, on_note: Callable[[str], object]) -> Any:
    """`value` in dicts with str keys, lists, strings, 64-bit ints, floats, booleans and None.

    Paths, UUIDs, decimals and larger ints become strings; dates and times ISO 8601; a timedelta its seconds; bytes the
    text they hold; sets and tuples lists; an exception "Type: message"; an enum its value; a dataclass a dict; a numpy
    array or scalar its values; any other object its `str()`. A lone surrogate is written as its escape (`\\udc80`).

    Args:
        value: Anything.
        on_note: Called with each note that takes the place of something: a cycle, nesting deeper than 100 levels,
            an object that raises when it is looked at.
    """
    return _Converter(on_note).convert(value)


def text(value: object) -> str:
    """`str(value)` without lone surrogates. Raises what `str(value)` raises."""
    return str.encode(str(value), "utf-8", "backslashreplace").decode()


class Real:
    """The types themselves. A host that freezes time (freezegun) replaces their names in every module, not in here."""

    datetime, date, time = datetime, date, time


def exact_datetime(value: datetime) -> datetime:
    """The same time as a `datetime` that is none of a subclass."""
    return Real.datetime.combine(Real.datetime.date(value), Real.datetime.timetz(value))


class _Converter:
    def __init__(self, on_note: Callable[[str], object]) -> None:
        self._on_note = on_note
        self._path: list[int] = []  # the identities of the containers that enclose the current value

    def convert(self, value: Any) -> Any:
        if id(value) in self._path:
            return self._note(value, "contains itself")
        if len(self._path) >= MAX_DEPTH:
            return self._note(value, f"nested deeper than {MAX_DEPTH} levels")
        self._path.append(id(value))
        try:
            return self._by_type(value, type(value))
        except Exception as error:  # a hostile __str__, __iter__, ...: whatever it raises, the event goes out
            if raised_by_signal_handler(error):
                raise
            return self._note(value, f"raised {_name(type(error))}")
        finally:
            self._path.pop()

    def _note(self, value: object, reason: str) -> str:
        note = f"<{_name(type(value))}: {reason}>"
        self._on_note(note)
        return note

    def _by_type(self, value: Any, kind: type) -> Any:
        # By the type, for `isinstance` also asks `__class__`, which may lie (a `Mock(spec=float)`) or raise. And by the
        # methods of the built-in types, for those of a subclass may do anything.
        if value is None or kind is bool:
            return value
        if issubclass(kind, Enum):
            return self.convert(value.value)
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if _SMALLEST <= number <= _LARGEST else str(number)
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, str):
            return text(str.__str__(value))
        if issubclass(kind, bytes | bytearray | memoryview):
            return memoryview(value).tobytes().decode("utf-8", "backslashreplace")
        if issubclass(kind, Mapping):
            items = dict.items(value) if issubclass(kind, dict) else value.items()
            return {self._key(key): self.convert(item) for key, item in list(items)}
        for built_in in (list, tuple, set, frozenset):
            if issubclass(kind, built_in):
                return [self.convert(item) for item in list(built_in.__iter__(value))]
        if issubclass(kind, Set | deque | ValuesView):
            return [self.convert(item) for item in list(value)]
        if issubclass(kind, Real.datetime):
            return _iso8601(exact_datetime(value))
        if issubclass(kind, Real.date | Real.time):
            return (Real.date if issubclass(kind, Real.date) else Real.time).isoformat(value)
        return self._by_other_type(value, kind)

    def _by_other_type(self, value: Any, kind: type) -> Any:
        if issubclass(kind, BaseException):
            return f"{_name(kind)}: {text(value)}"
        if issubclass(kind, timedelta):
            return timedelta.total_seconds(value)
        if issubclass(kind, Decimal | UUID):
            return text(value)
        if issubclass(kind, os.PathLike):
            return self.convert(os.fspath(value))
        if dataclasses.is_dataclass(kind):
            names = [f.name for f in dataclasses.fields(kind) if not f.name.startswith("_")]  # as orjson does
            return {text(name): self.convert(getattr(value, name)) for name in names}
        numpy = sys.modules.get("numpy")  # whoever has something of its types has imported it
        if numpy is not None and issubclass(kind, (numpy.ndarray, numpy.generic)):
            values = value.tolist()
            return text(value) if type(values) is kind else self.convert(values)
        return text(value)

    def _key(self, key: object) -> str:
        plain_key = self.convert(key)
        if isinstance(plain_key, str):
            return plain_key
        if plain_key is None or isinstance(plain_key, bool):
            return {None: "null", True: "true", False: "false"}[plain_key]
        return text(plain_key)


def _iso8601(value: datetime) -> str:
    """As orjson writes it: UTC ends in "Z", and so does what has no time zone."""
    written = value.isoformat()
    if value.utcoffset() is None:
        return f"{written}Z"
    return f"{written[:-6]}Z" if written.endswith("+00:00") else written


_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def _name(kind: type) -> str:
    """The name of a type, whatever its metaclass has to say about it."""
    return text(_name_of(kind))
