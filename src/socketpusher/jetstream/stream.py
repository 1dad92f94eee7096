"""The stream that the events are kept in: made as asked for, or checked to be what a relay needs."""

import base64
from dataclasses import dataclass
from typing import Any

import orjson

from .. import jetstream
from ..config import MIN_MAX_LINE_BYTES
from .connection import NatsConnection, ServerError
from .subjects import checked_prefix, subject_filter

MAX_AGE = 7 * 86_400.0
"""How long a stream that a relay makes keeps events unless told otherwise, in seconds."""

MAX_BYTES = 1 << 30
"""How much it keeps unless told otherwise, in bytes on each replica; then the oldest give way."""

DUPLICATE_WINDOW = 120.0
"""How long it remembers message ids unless told otherwise, in seconds: the server's own default."""

HEADER_BYTES = 1024
"""Room for the headers of a message, which a server counts in with its size."""

SMALLEST = HEADER_BYTES + MIN_MAX_LINE_BYTES
"""A message may have no smaller limit, in bytes."""

NOT_FOUND, NO_STREAM, NOT_IN_ACCOUNT, OVERLAP = 10037, 10059, 10039, 10065
"""Error codes of JetStream."""

MISSING = (
    "there is no JetStream at that server, or not for this user: start nats-server with -js, or have JetStream enabled "
    "for the account"
)


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What the stream is to be; None leaves it to the one that is there, or to the defaults.

    Args:
        name: Its name.
        prefix: What its subjects begin with.
        replicas: On how many servers it is kept.
        max_age: How long it keeps events, in seconds.
        max_bytes: How much it keeps, in bytes.
        duplicate_window: How long it remembers message ids, in seconds.

    Raises:
        ValueError: The name or the prefix can't be one.
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
    """What a relay has to know of the stream that is there.

    Args:
        atomic: Whether it takes batches.
        max_payload: The longest line that it takes, in bytes.
    """

    atomic: bool
    max_payload: int


def checked_name(name: str) -> str:
    """The name; raises `ValueError` if no stream can have it."""
    if not name or len(name) > 200 or not name.isprintable() or any(c in name for c in " .*>/\\"):
        raise ValueError(f"a stream's name has no space, dot, *, >, / or \\ in it, and is not empty: {name!r}")
    return name


def is_missing(error: ServerError) -> bool:
    """Whether the answer to a first request says that there is no JetStream."""
    return error.err_code == NOT_IN_ACCOUNT or not error.err_code


async def info(link: NatsConnection, name: str) -> dict[str, Any] | None:
    """What the server knows of a stream, or None if there is none. Raises as `NatsConnection.ask` does."""
    try:
        return await link.ask(f"$JS.API.STREAM.INFO.{name}")
    except ServerError as error:
        if error.err_code == NO_STREAM:
            return None
        raise


async def prepare(link: NatsConnection, plan: StreamSpec) -> Stream:
    """Make the stream, or check the one that is there, which stays as it is.

    Raises:
        OSError: It can't be used, and why.
        ServerError: JetStream is not there, or can't do it now.
        OutcomeUnknownError: As `NatsConnection.ask` raises it.
    """
    found = await info(link, plan.name)
    if found is None:
        found = await _make(link, plan)
    config = found["config"]
    largest = link.client.max_payload
    if config.get("max_msg_size", -1) > 0:
        largest = min(largest, config["max_msg_size"])
    wrong = _conflicts(config, plan)
    if largest < SMALLEST:
        wrong.append(f"it takes {largest} bytes a message, and events need {SMALLEST} with their headers")
    if wrong:
        raise OSError(
            f"the stream {plan.name} is there but can't be used: {'; '.join(wrong)}; change it, or name another stream"
        )
    return Stream(bool(config.get("allow_atomic")), largest - HEADER_BYTES)


async def _make(link: NatsConnection, plan: StreamSpec) -> dict[str, Any]:
    max_age = MAX_AGE if plan.max_age is None else plan.max_age
    window = plan.duplicate_window
    if window is None:
        window = min(DUPLICATE_WINDOW, max_age)  # the server refuses a longer one
    config = {
        "name": plan.name,
        "description": "events that socketpusher relay has published",
        "subjects": [f"{plan.prefix}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": _nanoseconds(max_age),
        "max_bytes": MAX_BYTES if plan.max_bytes is None else plan.max_bytes,
        "num_replicas": plan.replicas or 1,
        "duplicate_window": _nanoseconds(window),
        "allow_atomic": True,  # a server before 2.12 ignores it
    }
    try:
        return await link.ask(f"$JS.API.STREAM.CREATE.{plan.name}", orjson.dumps(config))
    except ServerError as error:
        if error.code == 503:
            raise
        advice = "choose other settings, or another name for it"
        if error.err_code == OVERLAP:
            advice = f"name the one that takes the subjects {plan.prefix}.>, or choose another prefix"
        raise OSError(f"can't make the stream {plan.name}: {error}; {advice}") from None


def _conflicts(config: dict[str, Any], plan: StreamSpec) -> list[str]:
    """What is wrong with a stream, a clause each."""
    wrong = []
    if not any(_covers(subject, plan.prefix) for subject in config.get("subjects") or ()):
        wrong.append(
            f"it takes the subjects {', '.join(config.get('subjects') or ['of no message'])}, not {plan.prefix}.>"
        )
    if config.get("retention") != "limits":
        wrong.append(f"its retention is {config.get('retention')!r}, not 'limits'")
    if config.get("no_ack"):
        wrong.append("it acknowledges nothing (no_ack)")
    if config.get("sealed"):
        wrong.append("it is sealed")
    for key, asked, unit in (
        ("num_replicas", plan.replicas, ""),
        ("max_bytes", plan.max_bytes, " bytes"),
        ("max_age", plan.max_age, " s"),
        ("duplicate_window", plan.duplicate_window, " s"),
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
    """Whether a subject of a stream takes all that begins with the prefix."""
    return subject == ">" or (subject.endswith(".>") and f"{prefix}.".startswith(subject[:-1]))


async def last_id(link: NatsConnection, name: str, prefix: str, host: str, session: str) -> str:
    """The message id of the last message of a session, or "" if there is none. Raises as `NatsConnection.ask` does."""
    request = {"last_by_subj": subject_filter(prefix, host, session)}
    try:
        found = await link.ask(f"$JS.API.STREAM.MSG.GET.{name}", orjson.dumps(request))
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
