"""The text of an exception, for the `error` of an event."""

from ..conversion import to_jsonable


def format_error(error: BaseException) -> str:
    """The exception as "Type: message", or a placeholder if its `__str__` raises."""
    return str(to_jsonable(error, lambda placeholder: None)).removesuffix(": ")
