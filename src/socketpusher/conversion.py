"""Converts payloads to what JSON can express.

`to_jsonable` never raises and never gives up the whole because of a part: a part that can't be converted is replaced by
a short placeholder. It runs only for events that orjson refuses, so it is written for coverage, not for speed.
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

import orjson

from .signal_errors import raised_by_signal_handler

MAX_DEPTH = 100  # orjson refuses more than 254; 100 is easier to read, and leaves room on a deep stack
_UNSET = object()
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1  # the ints that orjson accepts


def to_jsonable(value: Any, on_placeholder: Callable[[str], object]) -> Any:
    """Convert `value` to dicts with str keys, lists, strings, 64-bit ints, floats, booleans and None.

    Paths, UUIDs, decimals and larger ints become strings; dates and times ISO 8601; a timedelta its seconds; bytes the
    text they hold; sets and tuples lists; an exception "Type: message"; an enum its value; a dataclass a dict; a numpy
    array or scalar its values; an `orjson.Fragment` what it contains; any other object its `str()`. A lone surrogate is
    written as its escape (`\\udc80`).

    Args:
        value: Anything.
        on_placeholder: Called with each placeholder. It replaces a cycle, nesting deeper than 100 levels, or an object
            that raises when it is read.
    """
    return _Converter(on_placeholder).convert(value)


def to_json(value: Any) -> bytes:
    """The value as `encode` writes a payload, also if it is nested deeper than orjson writes or has lone surrogates."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(to_jsonable(value, lambda placeholder: None))


def text(value: object) -> str:
    """`str(value)` without lone surrogates. Raises what `str(value)` raises."""
    return str.encode(str(value), "utf-8", "backslashreplace").decode()


def format_error(error: BaseException) -> str:
    """The exception as "Type: message", or a placeholder if its `__str__` raises."""
    return str(to_jsonable(error, lambda placeholder: None)).removesuffix(": ")


class Real:
    """The real types. freezegun replaces their names in every module, but not inside a class."""

    datetime, date, time = datetime, date, time


def exact_datetime(value: datetime) -> datetime:
    """The same time as exactly a `datetime`, not a subclass."""
    return Real.datetime.combine(Real.datetime.date(value), Real.datetime.timetz(value))


class _Converter:
    def __init__(self, on_placeholder: Callable[[str], object]) -> None:
        self._on_placeholder = on_placeholder
        self._path: list[int] = []  # the identities of the containers that enclose the current value

    def convert(self, value: Any) -> Any:
        if id(value) in self._path:
            return self._placeholder(value, "contains itself")
        if len(self._path) >= MAX_DEPTH:
            return self._placeholder(value, f"nested deeper than {MAX_DEPTH} levels")
        self._path.append(id(value))
        try:
            return self._by_type(value, type(value))
        except Exception as error:  # of a hostile __str__, __iter__, ...
            if raised_by_signal_handler(error):
                raise
            return self._placeholder(value, f"raised {_name(type(error))}")
        finally:
            self._path.pop()

    def _placeholder(self, value: object, reason: str) -> str:
        placeholder = f"<{_name(type(value))}: {reason}>"
        self._on_placeholder(placeholder)
        return placeholder

    def _by_type(self, value: Any, kind: type) -> Any:
        # Not `isinstance`: it also asks `__class__`, which may lie (`Mock(spec=float)`) or raise. And only the methods
        # of the built-in types are called, because a subclass may override them with anything.
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
        if issubclass(kind, orjson.Fragment):
            return self.convert(orjson.loads(orjson.dumps(value)))
        if issubclass(kind, Decimal | UUID):
            return text(value)
        if issubclass(kind, os.PathLike):
            return self.convert(os.fspath(value))
        if dataclasses.is_dataclass(kind):
            names = [f.name for f in dataclasses.fields(kind) if not f.name.startswith("_")]  # as orjson does
            found = {text(name): getattr(value, name, _UNSET) for name in names}
            return {name: self.convert(item) for name, item in found.items() if item is not _UNSET}
        numpy = sys.modules.get("numpy")  # if not imported, the value is not one of its
        if numpy is not None and issubclass(kind, (numpy.ndarray, numpy.generic)):
            return self._by_numpy(value, kind)
        return text(value)

    def _by_numpy(self, value: Any, kind: type) -> Any:
        if value.dtype.kind in "biuf":
            try:  # fast, and with as few digits as the type needs
                return orjson.loads(orjson.dumps(value, None, orjson.OPT_SERIALIZE_NUMPY))
            except TypeError:  # not contiguous, of a subclass, or numbers that are not a machine's
                pass
        values = value.astype("datetime64[us]").tolist() if value.dtype.kind == "M" else value.tolist()
        return text(value) if type(values) is kind else self.convert(values)

    def _key(self, key: object) -> str:
        plain_key = self.convert(key)
        if isinstance(plain_key, str):
            return plain_key
        if plain_key is None or isinstance(plain_key, bool):
            return {None: "null", True: "true", False: "false"}[plain_key]
        return text(plain_key)


def _iso8601(value: datetime) -> str:
    """The time as orjson writes it: with "Z" at the end in UTC, or without a time zone."""
    written = value.isoformat()
    if value.utcoffset() is None:
        return f"{written}Z"
    return f"{written[:-6]}Z" if written.endswith("+00:00") else written


_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def _name(kind: type) -> str:
    """The name of a type, even if its metaclass overrides `__name__`."""
    return text(_name_of(kind))
