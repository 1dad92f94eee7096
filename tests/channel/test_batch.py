"""What the host keeps for the case that the writer dies."""

from hypothesis import given
from hypothesis import strategies as st

from socketpusher.channel.batch import Batch, Retained


def batch(first: int, end: int) -> Batch:
    return Batch(first, end, b"".join(b"%d\n" % number for number in range(first, end)))


def numbers(retained: Retained) -> list[int]:
    return [int(line) for kept in retained.batches() for line in kept.data.split(b"\n")[:-1]]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 8), st.just(0)),
            st.tuples(st.sampled_from(["drop", "settle", "cut"]), st.integers(0, 40), st.integers(0, 10)),
        )
    )
)
def test_retained_is_what_was_neither_settled_nor_dropped(steps: list[tuple[str, int, int]]) -> None:
    retained, model, end = Retained(), set(), 0
    for what, a, b in steps:
        if what == "add":
            retained.add(batch(end, end + a))
            model |= set(range(end, end + a))
            end += a
        elif what == "drop":
            retained.drop(a, a + b)
            model -= set(range(a, a + b))
        elif what == "cut":
            retained.cut(a)
            model -= set(range(a))
        else:
            before = set(numbers(retained))
            retained.settle(a)
            gone = before - set(numbers(retained))
            assert all(number < a for number in gone)  # some below may stay, for a batch goes as a whole
            model -= gone
        assert numbers(retained) == sorted(model)
        assert len(retained) == len(model)
        for kept in retained.batches():
            assert kept.end - kept.first == kept.data.count(b"\n") > 0
            assert kept.data.startswith(b"%d\n" % kept.first)


def test_settling_forgets_whole_batches() -> None:
    retained = Retained()
    retained.add(batch(0, 5))
    retained.add(batch(5, 9))
    retained.settle(5)
    assert numbers(retained) == [5, 6, 7, 8]
    retained.settle(9)
    assert len(retained) == 0
