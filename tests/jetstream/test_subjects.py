"""What lines are called in JetStream."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher.jetstream.subjects import (
    TOKEN_CHARACTERS,
    Source,
    checked_prefix,
    digest_message_id,
    source,
    subject,
    subject_filter,
)

ANY = st.text(st.characters(), max_size=300)


@given(ANY, ANY, ANY)
def test_no_name_is_a_wildcard_ends_a_token_or_breaks_the_protocol(host: str, session: str, kind: str) -> None:
    made = subject("a.b", host, session, kind)
    assert re.fullmatch(r"a\.b(\.[A-Za-z0-9%_~-]+){3,}", made)
    assert len(made) < 2048
    if max(map(len, made.split("."))) < TOKEN_CHARACTERS:
        assert source("a.b", made) == Source(host, session)


def test_long_names_are_cut_and_their_subjects_differ_if_only_the_ends_do() -> None:
    names = ["\N{BUG}" * 255, "\N{BUG}" * 254 + "x", "x" * 1000, "x" * 1001]
    subjects = {subject("p", name, name, "t") for name in names}
    assert len(subjects) == 4
    assert max(map(len, subjects)) == len("p...t") + 2 * TOKEN_CHARACTERS


@given(st.sampled_from(["unit.failed", "graph", "a", "x.y.z"]))
def test_a_type_keeps_its_dots(kind: str) -> None:
    assert subject("events", "h", "s", kind) == f"events.h.s.{kind}"


@pytest.mark.parametrize(
    ("host", "session", "expected"),
    [(None, None, "p.*.*.>"), ("a.b", None, "p.a%2Eb.*.>"), (None, "*", "p.*.%2A.>"), ("", "s", "p.%.s.>")],
)
def test_a_filter_takes_names_literally(host: str | None, session: str | None, expected: str) -> None:
    assert subject_filter("p", host, session) == expected


@pytest.mark.parametrize("prefix", ["", ".", "a.", ".a", "a..b", "a b", "*", "a.>", "ä", "x" * 201])
def test_an_invalid_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="the prefix of subjects must be words"):
        checked_prefix(prefix)


def test_the_id_of_a_line_depends_on_the_host_and_on_every_byte() -> None:
    ids = {digest_message_id(host, line) for host in ("a", "b") for line in (b"x", b"y", b"x ")}
    assert len(ids) == 6
