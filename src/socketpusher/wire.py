"""The wire format: one event, one JSON object, one line. Bytes in and out, no sockets.

`encode(event)` accepts any payload, and is cheap enough to run in the thread that emits. `decode(line)` accepts what
other programs write, and its error names the key that is wrong.

Keys come in the order of `WireEvent`. `type` and `time` are always present; `unit` and `error` are left out when empty;
`task`, `pr` and `payload` when None; `id` is present with `event_ids` (see `EventId`); `retained` (MQTT's word) marks
lines that repeat the state of the run. The time is RFC 3339 in UTC ending in "Z". A line is UTF-8 and ends with its
only newline.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import NoneType
from typing import Any, NamedTuple, NotRequired, TypedDict

import orjson

from .config import MAX_LINE_BYTES
from .conversion import Real, exact_datetime, text, to_jsonable
from .events import Event, EventType
from .graph import EdgePayload, GraphPayload, NodePayload, graph_in, smaller_graphs
from .signal_errors import raised_by_signal_handler

__all__ = ["DecodeError", "EdgePayload", "GraphPayload", "NodePayload", "WireEvent", "decode", "encode"]

_dumps = orjson.dumps
# Neither dataclasses nor numpy: orjson crashes at a field that is not set, and at a datetime64 of 15 minutes.
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC | orjson.OPT_PASSTHROUGH_DATACLASS
_NEWLINE = ord("\n")
_INT64 = range(-(2**63), 2**63)
_ESCAPED = 6  # the most bytes that one character takes in JSON: \u0000


class WireEvent(TypedDict):
    """The JSON object on a line."""

    type: str
    time: str
    unit: NotRequired[str]
    task: NotRequired[int]
    pr: NotRequired[int]
    payload: NotRequired[Any]
    error: NotRequired[str]
    id: NotRequired[str]
    retained: NotRequired[bool]


class EventId(NamedTuple):
    """The parts of an event's id, "<session>-<n>". A session has 1 to 100 characters, and n starts at 1.

    Args:
        session: One pusher, from its start to its end.
        n: The number of the event; it rises by one with each.
    """

    session: str
    n: int

    @classmethod
    def parse(cls, id: object) -> "EventId | None":
        """The parts of an id; None if it does not have this form."""
        match = _match_id(id) if isinstance(id, str) else None
        return cls(match[1], int(match[2])) if match else None


_match_id = re.compile(r"(.{1,100})-([1-9][0-9]{0,17})", re.DOTALL).fullmatch


class DecodeError(ValueError):
    """The line is not an event; the message says which key is wrong, and how."""


def _ignore(placeholder: str) -> None:
    pass


def encode(
    event: Event, max_line_bytes: int = MAX_LINE_BYTES, on_placeholder: Callable[[str], object] = _ignore
) -> bytes:
    """Encode an event as a line.

    What orjson refuses is converted (see `socketpusher.conversion`; NaN and infinities become null). What can't be
    converted is replaced by a placeholder, and so is the payload of a line that would be too long. An event without a
    time gets the current time; a naive time is taken as UTC. Whether an `orjson.Fragment` contains JSON is not checked.

    Args:
        event: The event; it is not changed.
        max_line_bytes: The longest line, in bytes with its newline; at least 1024.
        on_placeholder: Called with each placeholder that replaces something.

    Returns:
        The line in UTF-8, with its only newline at the end.
    """
    wire: dict[str, Any]
    try:
        kind, unit, task, pr, error, time = event.type, event.unit, event.task, event.pr, event.error, event.time
        # Nearly every event passes this test. It asks for exact types: orjson refuses subclasses or writes them
        # differently, and `in range` iterates over 2**64 numbers for a subclass of int. The cheaper `__class__`
        # is enough elsewhere: a lie makes orjson refuse, or a line that `decode` refuses.
        if (
            (kind.__class__ is not str and kind.__class__ is not EventType)
            or (unit.__class__ is not str and unit is not None)
            or (error.__class__ is not str and error is not None)
            or (task is not None and (type(task) is not int or task not in _INT64))
            or (pr is not None and (type(pr) is not int or pr not in _INT64))
            or time.__class__ is not Real.datetime
            or time.tzinfo is not UTC
        ):
            event = _normalized(event, on_placeholder)
            kind, unit, task, pr, error, time = event.type, event.unit, event.task, event.pr, event.error, event.time
        wire = {"type": kind, "time": time}
        if unit:
            wire["unit"] = unit
        if task is not None:
            wire["task"] = task
        if pr is not None:
            wire["pr"] = pr
        if event.payload is not None:
            wire["payload"] = event.payload
        if error:
            wire["error"] = error
        line = _dumps(wire, None, _OPTIONS)
        if _NEWLINE in line:
            raise ValueError("an orjson.Fragment, which orjson does not read, contains a newline")
        line += b"\n"  # as `_line`; the call would add 8 % to an encode
    except Exception as refused:  # a TypeError of orjson, or anything from a hostile object
        if raised_by_signal_handler(refused):
            raise
        wire = _converted(_normalized(event, on_placeholder), on_placeholder)
        line = _line(wire)
    return line if len(line) <= max_line_bytes else _shortened(wire, line, max_line_bytes, on_placeholder)


def _line(wire: dict[str, Any]) -> bytes:
    # Not OPT_APPEND_NEWLINE: orjson's result keeps the 4 KiB buffer that it was written into, and a copy takes only
    # what it needs (4,125 and 257 bytes for a line of 199, measured with 3.13). This is the cheapest way to copy.
    return _dumps(wire, None, _OPTIONS) + b"\n"


def _normalized(event: Event, on_placeholder: Callable[[str], object]) -> Event:
    """The event with everything but its payload as `decode` expects it."""
    return Event(
        type=text(to_jsonable(event.type, on_placeholder)),
        unit="" if event.unit is None else text(to_jsonable(event.unit, on_placeholder)),
        task=_int64("task", event.task, on_placeholder),
        pr=_int64("pr", event.pr, on_placeholder),
        payload=event.payload,
        error="" if event.error is None else text(to_jsonable(event.error, on_placeholder)),
        time=_utc(event.time, on_placeholder),
    )


def _converted(event: Event, on_placeholder: Callable[[str], object]) -> dict[str, Any]:
    """The JSON object of a normalized event whose payload orjson refuses."""
    fields = {"type": event.type, "time": event.time, "unit": event.unit or None, "task": event.task, "pr": event.pr}
    wire = {**fields, "payload": to_jsonable(event.payload, on_placeholder), "error": event.error or None}
    return {key: value for key, value in wire.items() if value is not None}


def _int64(key: str, number: object, on_placeholder: Callable[[str], object]) -> int | None:
    if issubclass(type(number), int) and (exact := int.__int__(number)) in _INT64:  # type: ignore[arg-type]
        return exact
    if number is not None:
        on_placeholder(f"<{key}: not a 64-bit int, left out>")
    return None


def _utc(time: object, on_placeholder: Callable[[str], object]) -> datetime:
    if issubclass(type(time), Real.datetime):
        try:
            exact = exact_datetime(time)  # type: ignore[arg-type]
            return exact.replace(tzinfo=UTC) if exact.utcoffset() is None else exact.astimezone(UTC)
        except Exception as error:  # outside the years 1 to 9999 in UTC, or a hostile tzinfo
            if raised_by_signal_handler(error):
                raise
            on_placeholder("<time: not expressible in UTC, sent as the current time>")
    elif time is not None:
        on_placeholder("<time: not a datetime, sent as the current time>")
    return Real.datetime.now(UTC)


def _shortened(wire: dict[str, Any], line: bytes, limit: int, on_placeholder: Callable[[str], object]) -> bytes:
    """The line with a smaller graph or without its payload, and with its strings cut if that is not enough."""
    if wire["type"] == EventType.ORCH_STARTED and (smaller := _with_smaller_graph(line, limit, on_placeholder)):
        return smaller
    placeholder = f"<payload left out: the line of {len(line)} bytes is over the limit of {limit}>"
    on_placeholder(placeholder)
    if "payload" in wire:
        wire["payload"] = placeholder
        line = _line(wire)
        if len(line) <= limit:
            return line
    longest = limit // (4 * _ESCAPED)  # three strings, and a fourth part for everything else
    for key in ("type", "unit", "error"):
        if len(wire.get(key, "")) > longest:
            wire[key] = wire[key][: longest - 6] + " [cut]"
    return _line(wire)


def _with_smaller_graph(line: bytes, limit: int, on_placeholder: Callable[[str], object]) -> bytes | None:
    """The line of an `orch.started` with as much of its graph as fits; None without a graph, or if nothing fits."""
    try:
        wire = orjson.loads(line)
        graph = graph_in(payload := wire.get("payload"))
        if graph is None:
            return None
        for smaller_graph in smaller_graphs(graph):
            smaller = _line({**wire, "payload": {**payload, "graph": smaller_graph}})
            if len(smaller) <= limit:
                return smaller
        smaller = _line({**wire, "payload": {**payload, "graph": {"nodes": [], "edges": [], "levels": []}}})
        if len(smaller) > limit:
            return None
    except Exception as error:  # a Fragment holds no JSON, or JSON that is nested deeper than orjson writes
        if raised_by_signal_handler(error):
            raise
        return None
    on_placeholder(f"<graph left out: its {len(graph['nodes'])} units do not fit into a line of {limit} bytes>")
    return smaller


def shortened(line: bytes, max_line_bytes: int, on_placeholder: Callable[[str], object] = _ignore) -> bytes:
    """The line of an event as `encode` writes it, with its id, and with a placeholder if it would be too long."""
    fields = parse(line)
    id = b',"id":%b' % orjson.dumps(fields["id"]) if EventId.parse(fields.get("id")) is not None else b""
    shorter = encode(event_of(fields), max_line_bytes - len(id), on_placeholder)
    return shorter.removesuffix(b"}\n") + id + b"}\n"


_RETAINED = b',"retained":true}\n'
RETAINED_BYTES = len(_RETAINED) - 2
"""The length of the key `retained` on a line, in bytes."""


def retained(line: bytes) -> bytes:
    """The line of an event with the key `retained`, which marks it as a repetition."""
    return line if line.endswith(_RETAINED) else line[:-2] + _RETAINED


def as_sent(line: bytes) -> bytes:
    """The line, with its newline, without the key `retained`."""
    return line[: -len(_RETAINED)] + b"}\n" if line.endswith(_RETAINED) else line


def is_retained(wire: Mapping[str, Any]) -> bool:
    """Whether the JSON object of an event may be a repetition. Version 0.1 did not mark its `orch.started`."""
    return wire.get("retained") is True or wire.get("type") == EventType.ORCH_STARTED


def decode(line: bytes | bytearray | memoryview | str) -> Event:
    """Decode the event on a line.

    Args:
        line: UTF-8 or str, with or without the newline at its end. Unknown keys are ignored.

    Returns:
        The event, its time aware and in UTC.

    Raises:
        DecodeError: The line is not a JSON object or contains a newline, or a key is missing or has the wrong type.
    """
    fields = parse(line)
    plain = bytes(line) if isinstance(line, memoryview) else line
    if (plain.find("\n", 0, -1) if isinstance(plain, str) else plain.find(b"\n", 0, -1)) >= 0:
        raise DecodeError(f"a line must not contain a newline before its end: {_excerpt(repr(line))}")
    return event_of(fields)


def parse(line: bytes | bytearray | memoryview | str) -> dict[str, Any]:
    """The JSON object on a line, with any keys. Raises `DecodeError` if the line is not a JSON object."""
    try:
        wire = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"a line is not JSON: {json_error(error)}: {_excerpt(line)}") from None
    if wire.__class__ is not dict:
        raise DecodeError(f"a line must be a JSON object, not {_excerpt(line)}")
    return wire


def json_error(error: orjson.JSONDecodeError) -> str:
    """Return what is wrong with a text that is not JSON."""
    if "surrogates not allowed" in error.msg:
        return "it is not UTF-8"
    return "it is empty" if "empty" in error.msg else str(error)


def event_of(wire: dict[str, Any]) -> Event:
    """The event of a JSON object. Raises `DecodeError` if a key is missing or has the wrong type."""
    get: Callable[..., Any] = wire.get
    kind, unit, task, pr, error = get("type"), get("unit", ""), get("task"), get("pr"), get("error", "")
    # Nearly every line passes this one test, which keeps decoding close to orjson's own speed.
    if not (
        kind.__class__ is unit.__class__ is error.__class__ is str
        and (task is None or task.__class__ is int)
        and (pr is None or pr.__class__ is int)
    ):
        raise _wrong_key(wire)
    try:
        stamp = wire["time"]
        time = Real.datetime.fromisoformat(stamp)
        if time.tzinfo is not UTC:
            if time.tzinfo is None:
                raise ValueError(stamp)
            time = time.astimezone(UTC)
        # fromisoformat accepts more of ISO 8601 than RFC 3339 allows; these two characters tell them apart.
        if stamp[10] not in "Tt " or stamp[16] != ":":
            raise ValueError(stamp)
    except (LookupError, TypeError, ValueError, OverflowError):
        raise _wrong("time", 'an RFC 3339 time such as "2026-11-23T17:08:00.25Z"', wire) from None
    return Event(kind, unit, task, pr, get("payload"), error, time)


def _wrong_key(wire: dict[str, Any]) -> DecodeError:
    """The error for the first key that has the wrong type. There must be one."""
    for key, kinds in _KINDS.items():
        if (key in wire or key == "type") and wire.get(key).__class__ not in kinds:
            break
    return _wrong(key, "a string" if str in kinds else "an integer", wire)


_KINDS = {"type": (str,), "unit": (str,), "task": (int, NoneType), "pr": (int, NoneType), "error": (str,)}


def _wrong(key: str, expected: str, wire: dict[str, Any]) -> DecodeError:
    if key not in wire:
        return DecodeError(f"the key {key!r} of an event is missing; it must be {expected}")
    value = wire[key]  # orjson reads lists that are nested deeper than 3.11 can show
    shown = "a list" if type(value) is list else "an object" if type(value) is dict else _excerpt(repr(value))
    return DecodeError(f"the key {key!r} of an event must be {expected}, not {shown}")


def _excerpt(value: object) -> str:
    shown = repr(value) if not isinstance(value, str) else value
    return shown if len(shown) <= 80 else f"{shown[:80]}... ({len(shown)} characters)"
