"""The lines of a file, whatever is in it."""

import gzip
import io

import pytest

from socketpusher.cli.lines import numbered_lines


def lines_of(data: bytes) -> list[tuple[int, bytes]]:
    return list(numbered_lines(io.BufferedReader(io.BytesIO(data)), "it"))  # type: ignore[arg-type]


@pytest.mark.parametrize("compressed", [False, True])
def test_lines_have_their_numbers_and_blank_ones_are_skipped(compressed: bool) -> None:
    data = b'\xef\xbb\xbf{"a":1}\r\n\n  \n {"b":2}'
    assert lines_of(gzip.compress(data) if compressed else data) == [(1, b'{"a":1}'), (4, b'{"b":2}')]


def test_of_a_line_that_is_too_long_only_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a newline, such as /dev/zero, must not fill the memory."""
    monkeypatch.setattr("socketpusher.cli.lines.LONGEST_LINE", 4)
    assert lines_of(b"abc\n" + b"x" * 30 + b"\n" + b"yyyy\nz\n") == [(1, b"abc"), (2, b"xxxx"), (3, b"yyyy"), (4, b"z")]


def test_a_damaged_file_yields_what_can_be_read() -> None:
    found = []
    with pytest.raises(OSError, match="can't read it to its end, it is damaged"):
        for _, line in numbered_lines(io.BufferedReader(io.BytesIO(gzip.compress(b"a\nb\n")[:-4])), "it"):  # type: ignore[arg-type]
            found.append(line)
    assert found == [b"a", b"b"]
