"""What host and writer tell each other besides lines."""

import pytest

from socketpusher.channel.messages import REPORT_BYTES, Report


@pytest.mark.parametrize("character", ["a", "\n", "é", "\U0001f600"])
def test_a_report_of_any_length_is_one_line_that_a_pipe_takes_as_a_whole(character: str) -> None:
    line = Report(character * 100_000, level=40).encode()
    assert len(line) <= REPORT_BYTES
    assert line.count(b"\n") == 1
