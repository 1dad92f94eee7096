"""The stream that stores the events: it is created, or checked to be what a relay needs."""

from contextlib import suppress
from typing import NamedTuple

from nats.js.api import RawStreamMsg, RetentionPolicy, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from .. import wire
from ..config import MIN_MAX_LINE_BYTES
from .connection import NatsConnection
from .options import NatsOptions
from .subjects import subject_filter

# The defaults of a new stream:
MAX_AGE = 7 * 86_400.0  # how long it keeps events, in seconds
MAX_BYTES = 1 << 30  # how much it keeps, in bytes on each replica; then the oldest events are removed
DUPLICATE_WINDOW = 120.0  # how long it remembers message ids, in seconds: the server's own default

HEADER_BYTES = 2048  # room for the headers of a message, which count for its size
SMALLEST = HEADER_BYTES + MIN_MAX_LINE_BYTES  # the smallest limit on the size of a message that a relay can work with

NOT_FOUND, NO_STREAM, NOT_IN_ACCOUNT, OVERLAP = 10037, 10059, 10039, 10065
"""Error codes of JetStream."""

MISSING = (
    "JetStream is not enabled at that server, or not for this user: start nats-server with -js, or enable JetStream "
    "for the account"
)


LAST_EVENT = "Socketpusher-Last-Event"
"""The header of a line without an id: the number of the last event of its session before it."""


class Stream(NamedTuple):
    """What a relay has to know about an existing stream."""

    atomic: bool  # whether it accepts atomic batches
    max_payload: int  # the longest line that it accepts, in bytes
    duplicate_window: float  # how long it remembers message ids, in seconds


class Stored(NamedTuple):
    """How much of a session a stream has."""

    number: int  # of the last event with an id; 0 if there is none
    sequence: int  # of the last message of the session in the stream; 0 if there is none


def is_missing(error: APIError) -> bool:
    """Whether an error of the first request means that JetStream is not enabled."""
    return error.err_code == NOT_IN_ACCOUNT or not error.err_code


async def info(connection: NatsConnection, name: str) -> StreamInfo | None:
    """The server's information about a stream; None if it does not exist. Raises as `NatsConnection.call`."""
    try:
        return await connection.call(connection.manager.stream_info(name))
    except NotFoundError as error:
        if error.err_code == NO_STREAM:
            return None
        raise


async def prepare(connection: NatsConnection, options: NatsOptions, limits: StreamConfig) -> Stream:
    """Create the stream, or check the existing one, which is not changed.

    Args:
        connection: The connection to its servers.
        options: Its name and prefix.
        limits: Its `num_replicas`, `max_age`, `max_bytes` and `duplicate_window`. An existing stream may have any that
            are not given here; a new one gets the default.

    Raises:
        OSError: It can't be used; the message says why.
        APIError: JetStream is not enabled, or can't do it now.
        OutcomeUnknownError: As `NatsConnection.call`.
    """
    found = await info(connection, options.stream) or await _create(connection, options, limits)
    config = found.config
    largest = connection.client.max_payload
    if config.max_msg_size and config.max_msg_size > 0:
        largest = min(largest, config.max_msg_size)
    wrong = _conflicts(config, options.prefix, limits)
    if largest < SMALLEST:
        wrong.append(f"its messages have at most {largest} bytes, and events need {SMALLEST} with their headers")
    if wrong:
        what = f"the stream {options.stream} exists but can't be used"
        raise OSError(f"{what}: {'; '.join(wrong)}; change it, or name another stream")
    return Stream(bool(config.allow_atomic), largest - HEADER_BYTES, config.duplicate_window or 0)


async def _create(connection: NatsConnection, options: NatsOptions, limits: StreamConfig) -> StreamInfo:
    max_age = limits.max_age or MAX_AGE
    config = limits.evolve(
        name=options.stream,
        description="events that socketpusher relay has published",
        subjects=[f"{options.prefix}.>"],
        max_age=max_age,
        max_bytes=limits.max_bytes or MAX_BYTES,
        duplicate_window=limits.duplicate_window or min(DUPLICATE_WINDOW, max_age),  # the server refuses a longer one
        allow_atomic=True,  # a server before 2.12 ignores it
    )
    try:
        return await connection.call(connection.manager.add_stream(config))
    except ServiceUnavailableError:
        raise
    except APIError as error:
        advice = "choose other settings, or another name for it"
        if error.err_code == OVERLAP:
            advice = f"name the stream that has the subjects {options.prefix}.>, or choose another prefix"
        raise OSError(f"can't create the stream {options.stream}: {error.description}; {advice}") from None


def _conflicts(config: StreamConfig, prefix: str, limits: StreamConfig) -> list[str]:
    """What is wrong with an existing stream, one clause each."""
    wrong = []
    subjects = config.subjects or []
    if not any(_covers(subject, prefix) for subject in subjects):
        wrong.append(f"its subjects are {', '.join(subjects or ['none'])}, not {prefix}.>")
    if config.retention != RetentionPolicy.LIMITS:
        wrong.append(f"its retention is {config.retention!r}, not 'limits'")
    if config.no_ack:
        wrong.append("it acknowledges nothing (no_ack)")
    if config.sealed:
        wrong.append("it is sealed")
    if config.subject_transform:
        wrong.append("it changes subjects (subject_transform)")
    for key, unit in (("num_replicas", ""), ("max_bytes", " bytes"), ("max_age", " s"), ("duplicate_window", " s")):
        found, asked = getattr(config, key) or 0, getattr(limits, key)
        if asked and found != asked:
            wrong.append(f"its {key} is {_quantity(found, unit)}, not {_quantity(asked, unit)}")
    return wrong


def _quantity(value: float, unit: str) -> str:
    """Return a number with its unit, such as "60 s" or "1 GiB"."""
    if unit != " bytes":
        return f"{value:.15g}{unit}"
    units = ["bytes", "KiB", "MiB", "GiB"]
    while len(units) > 1 and value >= 1024 and value % 1024 == 0:
        value //= 1024
        units.pop(0)
    return f"{value:,} {units[0]}"


def _covers(subject: str, prefix: str) -> bool:
    """Whether a subject of a stream includes the subjects of all events: PREFIX.HOST.SESSION.TYPE, where TYPE may be
    one token or more."""
    for token, needed in zip(subject.split("."), [*prefix.split("."), "*", "*", ">"], strict=False):
        if token == ">":
            return True
        if needed == ">" or token not in ("*", needed):
            return False
    return False


async def stored_up_to(connection: NatsConnection, options: NatsOptions, host: str, session: str) -> Stored:
    """How much the stream has of a session. Raises as `NatsConnection.call`."""
    subject = subject_filter(options.prefix, host, session)
    if (message := await _last(connection, options, subject)) is None:
        return Stored(0, 0)
    number = _last_event(message, session)
    if number is None:  # it is of somebody else, or the server's marker in place of what has expired
        state = (await connection.call(connection.manager.stream_info(options.stream, subject))).state
        others = [await _last(connection, options, each) for each in state.subjects or ()]
        number = max((_last_event(other, session) or 0 for other in others if other is not None), default=0)
    return Stored(number, message.seq or 0)


async def _last(connection: NatsConnection, options: NatsOptions, subject: str) -> RawStreamMsg | None:
    try:
        return await connection.call(connection.manager.get_last_msg(options.stream, subject))
    except NotFoundError as error:
        if error.err_code == NOT_FOUND:
            return None
        raise


def _last_event(message: RawStreamMsg, session: str) -> int | None:
    """The number of the last event of a session up to a message; None if a relay has not published it."""
    found = event_id(message.data or b"")
    if found is not None and found.session == session:
        return found.n
    with suppress(KeyError, ValueError):
        return int((message.headers or {})[LAST_EVENT])
    return None


def event_id(data: bytes) -> wire.EventId | None:
    """The id of the event in a message. None if it has none, or is no event: somebody else has published it."""
    with suppress(wire.DecodeError):
        return wire.EventId.parse(wire.parse(data).get("id"))
    return None
