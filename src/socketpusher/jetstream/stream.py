"""The stream that stores the events: it is created, or checked to be what a relay needs."""

import base64
from dataclasses import dataclass
from typing import Any

import orjson

from .. import jetstream
from ..config import MIN_MAX_LINE_BYTES
from .connection import NatsConnection, ServerError
from .subjects import checked_prefix, subject_filter

MAX_AGE = 7 * 86_400.0
"""How long a new stream keeps events by default, in seconds."""

MAX_BYTES = 1 << 30
"""How much a new stream keeps by default, in bytes on each replica; then the oldest events are removed."""

DUPLICATE_WINDOW = 120.0
"""How long a new stream remembers message ids by default, in seconds: the server's own default."""

HEADER_BYTES = 1024
"""Room for the headers of a message, which count for its size, in bytes."""

SMALLEST = HEADER_BYTES + MIN_MAX_LINE_BYTES
"""The smallest limit on the size of a message that a relay can work with, in bytes."""

NOT_FOUND, NO_STREAM, NOT_IN_ACCOUNT, OVERLAP = 10037, 10059, 10039, 10065
"""Error codes of JetStream."""

MISSING = (
    "JetStream is not enabled at that server, or not for this user: start nats-server with -js, or enable JetStream "
    "for the account"
)


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """The required settings of the stream. None accepts any setting of an existing stream; a new one gets the default.

    Args:
        name: Its name.
        prefix: The prefix of its subjects.
        replicas: On how many servers it is stored.
        max_age: How long it keeps events, in seconds.
        max_bytes: How much it keeps, in bytes.
        duplicate_window: How long it remembers message ids, in seconds.

    Raises:
        ValueError: The name or the prefix is not valid.
    """

    name: str = jetstream.STREAM
    prefix: str = jetstream.PREFIX
    replicas: int | None = None
    max_age: float | None = None
    max_bytes: int | None = None
    duplicate_window: float | None = None

    def __post_init__(self) -> None:
        checked_name(self.name)
        checked_prefix(self.prefix)


@dataclass(frozen=True, slots=True)
class Stream:
    """What a relay has to know about an existing stream.

    Args:
        atomic: Whether it accepts atomic batches.
        max_payload: The longest line that it accepts, in bytes.
    """

    atomic: bool
    max_payload: int


def checked_name(name: str) -> str:
    """The name. Raises `ValueError` if no stream can have it."""
    if not name or len(name) > 200 or not name.isprintable() or any(c in name for c in " .*>/\\"):
        raise ValueError(f"a stream's name must not be empty or contain a space, dot, *, >, / or \\: {name!r}")
    return name


def is_missing(error: ServerError) -> bool:
    """Whether an error of the first request means that JetStream is not enabled."""
    return error.err_code == NOT_IN_ACCOUNT or not error.err_code


async def info(connection: NatsConnection, name: str) -> dict[str, Any] | None:
    """The server's information about a stream; None if it does not exist. Raises as `NatsConnection.request`."""
    try:
        return await connection.request(f"$JS.API.STREAM.INFO.{name}")
    except ServerError as error:
        if error.err_code == NO_STREAM:
            return None
        raise


async def prepare(connection: NatsConnection, spec: StreamSpec) -> Stream:
    """Create the stream, or check the existing one, which is not changed.

    Raises:
        OSError: It can't be used; the message says why.
        ServerError: JetStream is not enabled, or can't do it now.
        OutcomeUnknownError: As `NatsConnection.request`.
    """
    found = await info(connection, spec.name)
    if found is None:
        found = await _make(connection, spec)
    config = found["config"]
    largest = connection.client.max_payload
    if config.get("max_msg_size", -1) > 0:
        largest = min(largest, config["max_msg_size"])
    wrong = _conflicts(config, spec)
    if largest < SMALLEST:
        wrong.append(f"its messages have at most {largest} bytes, and events need {SMALLEST} with their headers")
    if wrong:
        raise OSError(
            f"the stream {spec.name} exists but can't be used: {'; '.join(wrong)}; change it, or name another stream"
        )
    return Stream(bool(config.get("allow_atomic")), largest - HEADER_BYTES)


async def _make(connection: NatsConnection, spec: StreamSpec) -> dict[str, Any]:
    max_age = MAX_AGE if spec.max_age is None else spec.max_age
    window = spec.duplicate_window
    if window is None:
        window = min(DUPLICATE_WINDOW, max_age)  # the server refuses a longer one
    config = {
        "name": spec.name,
        "description": "events that socketpusher relay has published",
        "subjects": [f"{spec.prefix}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": _nanoseconds(max_age),
        "max_bytes": MAX_BYTES if spec.max_bytes is None else spec.max_bytes,
        "num_replicas": spec.replicas or 1,
        "duplicate_window": _nanoseconds(window),
        "allow_atomic": True,  # a server before 2.12 ignores it
    }
    try:
        return await connection.request(f"$JS.API.STREAM.CREATE.{spec.name}", orjson.dumps(config))
    except ServerError as error:
        if error.code == 503:
            raise
        advice = "choose other settings, or another name for it"
        if error.err_code == OVERLAP:
            advice = f"name the stream that has the subjects {spec.prefix}.>, or choose another prefix"
        raise OSError(f"can't create the stream {spec.name}: {error}; {advice}") from None


def _conflicts(config: dict[str, Any], spec: StreamSpec) -> list[str]:
    """What is wrong with an existing stream, one clause each."""
    wrong = []
    if not any(_covers(subject, spec.prefix) for subject in config.get("subjects") or ()):
        wrong.append(f"its subjects are {', '.join(config.get('subjects') or ['none'])}, not {spec.prefix}.>")
    if config.get("retention") != "limits":
        wrong.append(f"its retention is {config.get('retention')!r}, not 'limits'")
    if config.get("no_ack"):
        wrong.append("it acknowledges nothing (no_ack)")
    if config.get("sealed"):
        wrong.append("it is sealed")
    for key, asked, unit in (
        ("num_replicas", spec.replicas, ""),
        ("max_bytes", spec.max_bytes, " bytes"),
        ("max_age", spec.max_age, " s"),
        ("duplicate_window", spec.duplicate_window, " s"),
    ):
        found = config.get(key, 0)
        if unit == " s":
            found /= 1e9
        if asked is not None and found != asked:
            wrong.append(f"its {key} is {_quantity(found, unit)}, not {_quantity(asked, unit)}")
    return wrong


def _quantity(value: float, unit: str) -> str:
    """Return a number with its unit, such as "60 s" or "1 GiB"."""
    if unit != " bytes":
        return f"{value:g}{unit}"
    units = ["bytes", "KiB", "MiB", "GiB"]
    while len(units) > 1 and value >= 1024 and value % 1024 == 0:
        value //= 1024
        units.pop(0)
    return f"{value:,} {units[0]}"


def _covers(subject: str, prefix: str) -> bool:
    """Whether a subject of a stream includes all subjects with the prefix."""
    return subject == ">" or (subject.endswith(".>") and f"{prefix}.".startswith(subject[:-1]))


async def last_id(connection: NatsConnection, name: str, prefix: str, host: str, session: str) -> str:
    """The id of the last message of a session; "" if there is none. Raises as `NatsConnection.request`."""
    request = {"last_by_subj": subject_filter(prefix, host, session)}
    try:
        found = await connection.request(f"$JS.API.STREAM.MSG.GET.{name}", orjson.dumps(request))
    except ServerError as error:
        if error.err_code == NOT_FOUND:
            return ""
        raise
    return _message_id(found["message"].get("hdrs", ""))


def _message_id(headers: str) -> str:
    for line in base64.b64decode(headers).decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name == "Nats-Msg-Id":
            return value.strip()
    return ""


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
