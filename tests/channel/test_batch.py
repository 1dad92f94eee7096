"""Parts of batches."""

from hypothesis import given
from hypothesis import strategies as st

from socketpusher.channel.batch import SPARSE_BYTES, Batch


@given(st.integers(0, 5), st.integers(1, 9), st.integers(0, 20), st.integers(0, 9))
def test_without_leaves_exactly_the_other_lines(first: int, count: int, start: int, length: int) -> None:
    numbers = range(first, first + count)
    batch = Batch(first, first + count, b"".join(b"%d\n" % number for number in numbers))
    parts = batch.without(start, start + length)
    left = [int(line) for part in parts for line in part.data.split()]
    assert left == [number for number in numbers if not start <= number < start + length]
    assert all(part.end - part.first == part.data.count(b"\n") > 0 for part in parts)
    assert all(part.data.startswith(b"%d\n" % part.first) for part in parts)


BEGINNINGS = st.sampled_from([b"", b"a", b"ab", b"b"])
SIZES = st.sampled_from([0, 1, SPARSE_BYTES, 3 * SPARSE_BYTES])


@given(st.lists(st.tuples(BEGINNINGS, SIZES), min_size=1, max_size=6), st.integers(0, 1 << 17), st.integers(0, 1 << 17))
def test_lines_are_counted_and_found_however_few_and_large_they_are(
    parts: list[tuple[bytes, int]], start: int, size: int
) -> None:
    lines = [beginning + bytes(size) for beginning, size in parts]
    batch = Batch(5, 5 + len(lines), b"".join(line + b"\n" for line in lines))
    start %= len(batch.data)
    stop = min(start + size, len(batch.data))
    assert batch.count_lines(start, stop) == batch.data[start:stop].count(b"\n")
    for prefix in b"a", b"ab", b"b", b"\0\0":
        found = any(line.startswith(prefix) for line in lines)
        assert batch.has_line(prefix) == found, prefix


@given(st.lists(st.sampled_from([0, 1, 100]), min_size=1, max_size=9), st.integers(0, 9), st.integers(0, 9))
def test_any_part_of_a_batch_has_its_lines_and_their_sizes(sizes: list[int], start: int, length: int) -> None:
    lines = [b"%d" % number + bytes(size) + b"\n" for number, size in enumerate(sizes)]
    first, end = sorted((min(start, len(lines)), min(start + length, len(lines))))
    for data in b"".join(lines), bytearray(b"".join(lines)):
        batch = Batch(7, 7 + len(lines), data)  # type: ignore[arg-type]  # used like bytes
        assert batch.lines(7 + first, 7 + end).data == b"".join(lines[first:end])
    assert list(batch.sizes()) == [*map(len, lines)]
    assert list(batch.sizes(backwards=True)) == [*map(len, reversed(lines))]
