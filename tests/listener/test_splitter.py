"""Lines out of bytes, wherever they are cut."""

import random

from socketpusher.config import MAX_LINE_BYTES
from socketpusher.listener.splitter import LineSplitter


def test_a_line_without_end_takes_no_more_memory_than_the_longest_line() -> None:
    too_long: list[bytes] = []
    lines = LineSplitter(too_long.append)
    for _ in range(100):
        assert lines.feed(b"x" * 65536) == []
        assert len(lines._begun) < MAX_LINE_BYTES
    assert lines.feed(b"\nnext\n") == [b"next"]
    assert lines.feed(b"again\n") == [b"again"]
    assert too_long == [b"x" * 1024]


def test_it_does_not_matter_where_the_stream_is_cut() -> None:
    generator = random.Random(1)
    for _ in range(200):
        stream = bytes(generator.choice(b"ab\n\r") for _ in range(generator.randrange(60)))
        lines, found, position = LineSplitter(print), [], 0
        while position < len(stream):
            size = generator.randrange(1, 9)
            found += lines.feed(stream[position : position + size])
            position += size
        assert found == stream.split(b"\n")[:-1]


def test_an_unfinished_line_is_shown_by_its_first_bytes() -> None:
    lines = LineSplitter(print)
    assert lines.feed(b"whole\n" + b"x" * 2000) == [b"whole"]
    assert lines.unfinished == b"x" * 1024
    lines.feed(b"\n")
    assert lines.unfinished == b""


def test_a_line_that_was_reported_as_too_long_is_not_unfinished_too() -> None:
    too_long: list[bytes] = []
    lines = LineSplitter(too_long.append)
    lines.feed(b"x" * MAX_LINE_BYTES + b"more")
    assert (lines.unfinished, len(too_long)) == (b"", 1)
