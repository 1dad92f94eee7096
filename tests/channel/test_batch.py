"""Parts of batches."""

from hypothesis import given
from hypothesis import strategies as st

from socketpusher.channel.batch import Batch


@given(st.integers(0, 5), st.integers(1, 9), st.integers(0, 20), st.integers(0, 9))
def test_without_leaves_exactly_the_other_lines(first: int, count: int, start: int, length: int) -> None:
    numbers = range(first, first + count)
    batch = Batch(first, first + count, b"".join(b"%d\n" % number for number in numbers))
    parts = batch.without(start, start + length)
    left = [int(line) for part in parts for line in part.data.split()]
    assert left == [number for number in numbers if not start <= number < start + length]
    assert all(part.end - part.first == part.data.count(b"\n") > 0 for part in parts)
    assert all(part.data.startswith(b"%d\n" % part.first) for part in parts)
