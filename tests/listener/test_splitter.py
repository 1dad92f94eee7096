"""Cutting a stream of bytes into lines."""

from hypothesis import given
from hypothesis import strategies as st

from socketpusher.config import MAX_LINE_BYTES
from socketpusher.listener.splitter import SHOWN, LineSplitter

PIECES = st.binary(max_size=6) | st.sampled_from([b"\n", b"\n\n", b"ab\n", b"x\ny\n"])


@given(st.lists(PIECES, max_size=12))
def test_lines_are_the_same_wherever_the_bytes_are_cut(pieces: list[bytes]) -> None:
    splitter = LineSplitter(lambda shown: None)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    assert lines == b"".join(pieces).split(b"\n")[:-1]


@given(
    st.lists(st.sampled_from([0, 1, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, 2 * MAX_LINE_BYTES]), min_size=1, max_size=4),
    st.sampled_from([65_536, 1_000_003]),  # none holds a line that is too long as a whole
)
def test_of_a_line_that_is_too_long_only_the_beginning_is_shown_and_the_others_come(sizes: list[int], cut: int) -> None:
    shown: list[bytes] = []
    splitter = LineSplitter(shown.append)
    sent = b"".join(b"x" * size + b"\n" for size in sizes)
    lines = [line for start in range(0, len(sent), cut) for line in splitter.feed(sent[start : start + cut])]
    assert [len(line) for line in lines] == [size for size in sizes if size < MAX_LINE_BYTES]
    assert shown == [b"x" * SHOWN for size in sizes if size >= MAX_LINE_BYTES]


def test_a_line_without_an_end_is_told_of_before_it_ends_and_is_not_kept() -> None:
    shown: list[bytes] = []
    splitter = LineSplitter(shown.append)
    for _ in range(100):
        assert splitter.feed(b"x" * 100_000) == []
        assert len(splitter._begun) < MAX_LINE_BYTES
    assert shown == [b"x" * SHOWN]
    assert splitter.feed(b"x\nnext\n") == [b"next"]
