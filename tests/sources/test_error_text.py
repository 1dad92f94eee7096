"""What an exception becomes in the `error` of an event."""

import pytest

from socketpusher.sources.error_text import format_error


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
def test_it_is_the_type_and_the_message_or_a_note(error: BaseException, text: str) -> None:
    assert format_error(error) == text
