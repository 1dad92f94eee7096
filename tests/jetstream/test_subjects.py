"""What lines are called in JetStream."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher.jetstream.subjects import (
    Source,
    checked_prefix,
    digest_message_id,
    graph_message_id,
    last_stored_seq,
    message_id,
    source,
    subject,
    subject_filter,
)
from socketpusher.wire import EventId

ANY = st.text(st.characters(), max_size=300)


@given(ANY, ANY, ANY)
def test_no_name_is_a_wildcard_ends_a_token_or_breaks_the_protocol(host: str, session: str, kind: str) -> None:
    made = subject("a.b", host, session[:100], kind)
    assert re.fullmatch(r"a\.b(\.[A-Za-z0-9%_~-]+){3,}", made)
    assert len(made) < 4096 - 1024 or len(host) > 255
    assert source("a.b", made) == Source(host, session[:100])


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


@given(st.integers(1, 10**18 - 1), st.text(min_size=1, max_size=100))
def test_the_last_message_id_has_the_last_stored_number(n: int, session: str) -> None:
    of = EventId(session, n)
    assert last_stored_seq(message_id(of)) == n
    assert last_stored_seq(graph_message_id(of)) == n - 1
    assert message_id(of).isascii()
    assert message_id(of).isprintable()


def test_the_id_of_a_line_depends_on_the_host_and_on_every_byte() -> None:
    ids = {digest_message_id(host, line) for host in ("a", "b") for line in (b"x", b"y", b"x ")}
    assert len(ids) == 6
    assert {last_stored_seq(id) for id in ids} == {0}
