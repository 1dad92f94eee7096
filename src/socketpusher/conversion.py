"""Turns what schedulers put into a payload into what JSON can express.

`plain` never raises and never loses the whole for a part: what can't be converted becomes a short note in its place.
It runs only for the events that orjson refuses, so it is written for coverage, not for speed.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

MAX_DEPTH = 100  # orjson refuses more than 254; a note at 100 reads better, and leaves room on a deep stack
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1  # what orjson takes for an int


def plain(value: Any, on_note: Callable[[str], object]) -> Any:
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
            return self._by_type(value)
        except Exception as error:  # a hostile __str__, __iter__, ...: whatever it raises, the event goes out
            return self._note(value, f"raised {type(error).__name__}")
        finally:
            self._path.pop()

    def _note(self, value: object, reason: str) -> str:
        note = f"<{text(type(value).__name__)}: {reason}>"
        self._on_note(note)
        return note

    def _by_type(self, value: Any) -> Any:
        match value:
            case None | bool() | float():
                return value
            case Enum():
                return self.convert(value.value)
            case int():
                return int(value) if _SMALLEST <= value <= _LARGEST else str(int(value))
            case str():
                return text(value)
            case bytes() | bytearray() | memoryview():
                return bytes(value).decode("utf-8", "backslashreplace")
            case dict():
                return {self._key(key): self.convert(item) for key, item in list(dict.items(value))}
            case Mapping():
                return {self._key(key): self.convert(item) for key, item in list(value.items())}
            case list() | tuple() | Set():
                return [self.convert(item) for item in list(value)]
            case BaseException():
                return f"{type(value).__name__}: {text(value)}"
            case datetime() | date() | time():
                return value.isoformat()
            case timedelta():
                return value.total_seconds()
            case Decimal() | UUID():
                return str(value)
            case os.PathLike():
                return self.convert(os.fspath(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [f.name for f in dataclasses.fields(value) if not f.name.startswith("_")]  # as orjson does
            return {name: self.convert(getattr(value, name)) for name in names}
        if type(value).__module__ == "numpy":
            return self.convert(value.tolist())
        if isinstance(value, Iterable) and type(value).__name__ in ("deque", "dict_keys", "dict_values", "dict_items"):
            return [self.convert(item) for item in list(value)]
        return text(value)

    def _key(self, key: object) -> str:
        plain_key = self.convert(key)
        if isinstance(plain_key, str):
            return plain_key
        if plain_key is None or isinstance(plain_key, bool):
            return {None: "null", True: "true", False: "false"}[plain_key]
        return text(plain_key)
