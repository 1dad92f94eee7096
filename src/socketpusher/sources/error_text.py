"""What an exception becomes in the `error` of an event."""

from ..conversion import to_jsonable


def format_error(error: BaseException) -> str:
    """The exception as "Type: message", or a note if it raises when it is asked for its message."""
    return str(to_jsonable(error, _ignore)).removesuffix(": ")


def _ignore(note: str) -> None:
    pass
