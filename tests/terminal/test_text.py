"""Text for a terminal: harmless, of a known width, cut between what a reader takes for characters."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher.terminal.text import clip, clock, cut, elapsed, fit, plural, printable, width, wrap

FAMILY, PILOT, HEART = "👩\u200d👩\u200d👧", "👩🏽\u200d✈\ufe0f", "❤\ufe0f"


@given(st.text())
def test_what_is_printable_stays_and_the_rest_is_replaced(text: str) -> None:
    for before, after in zip(text, printable(text), strict=True):
        assert after == (before if before.isprintable() or before == "\u200d" else "\ufffd")


@pytest.mark.parametrize("emoji", [FAMILY, PILOT, HEART, "部", "🚀"])
def test_an_emoji_is_two_columns_wide_and_never_cut_in_pieces(emoji: str) -> None:
    assert printable(emoji) == emoji
    assert width(emoji * 3) == 6
    assert cut(emoji * 3, 5) == emoji * 2 + "…"
    assert cut(emoji * 3, 4) == emoji + "…"
    assert wrap(emoji * 3, 5) == [emoji * 2, emoji]
    assert fit(f"a{emoji}", 5) == f"a{emoji}  "


def test_a_joiner_between_letters_joins_nothing() -> None:
    assert width("a\u200db\u200dc") == 3


texts = st.text(st.sampled_from("ab部e\u0301\u200d👩👧🏽✈\ufe0f\x1b \u0301"), max_size=20)


@given(texts | st.text(), st.integers(0, 12))
def test_what_is_cut_fits_and_is_the_beginning(text: str, columns: int) -> None:
    shown = cut(printable(text), columns)
    assert width(shown) <= columns
    assert printable(text).startswith(shown.removesuffix("…"))
    assert width(fit(text, columns)) == columns
    assert cut(text, math.inf) == text


def test_a_long_text_is_not_measured_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name of 100,000 letters took 0.1 s of each drawing."""
    measured: list[int] = []
    monkeypatch.setattr("socketpusher.terminal.text.width", lambda text: measured.append(len(text)) or width(text))
    assert cut("é" * 100_000, 20) == "é" * 19 + "…"
    assert sum(measured) < 1000


@given(texts | st.text(), st.integers(2, 12))
def test_what_is_wrapped_fits_and_is_all_there(text: str, columns: int) -> None:
    lines = wrap(printable(text), columns)
    assert "".join(lines) == printable(text)
    assert all(width(line) <= columns for line in lines)


def test_a_line_is_cut_across_its_spans() -> None:
    assert clip([("abc", "red"), ("def", ""), ("ghi", "dim")], 5) == [("abc", "red"), ("d…", "")]


def test_times_are_never_negative() -> None:
    assert [elapsed(seconds) for seconds in (-5, 0.9, 61, 3723)] == ["0:00", "0:00", "1:01", "1:02:03"]


def test_a_moment_that_the_clock_does_not_know_is_a_dash() -> None:
    assert clock(1e18) == "-"


def test_one_thing_has_no_plural() -> None:
    assert [plural(count, "event") for count in (0, 1, 2000)] == ["0 events", "1 event", "2,000 events"]
