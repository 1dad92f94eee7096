"""What a writer leaves to the next one, whenever it dies."""

from collections.abc import Iterator

import pytest

from socketpusher.channel.descriptors import Descriptor
from socketpusher.channel.journal import MIN_LIMIT, Journal, Kind, Record, journal_files
from socketpusher.channel.ledger import Ledger

LINES = (b'{"type":"unit.started"}\n', b"", b"x" * 100_000 + b"\n", b'{"type":"orch.failed"}\n')


@pytest.fixture
def files() -> Iterator[tuple[Descriptor, Descriptor]]:
    files = journal_files()
    yield files
    for file in files:
        file.close()


def records(first: int = 0) -> list[Record]:
    return [Record(Kind.READ if n % 2 else Kind.DROPPED, first + n, lines) for n, lines in enumerate(LINES)]


def test_the_next_writer_finds_what_was_written(ledger: Ledger, files: tuple[Descriptor, Descriptor]) -> None:
    journal = Journal(ledger, files)
    assert list(journal.records()) == []
    journal.append(records())
    journal.append(records(2**62))
    assert list(Journal(ledger, files).records()) == [*records(), *records(2**62)]


def test_a_record_of_a_killed_writer_is_whole_or_missing(ledger: Ledger, files: tuple[Descriptor, Descriptor]) -> None:
    journal = Journal(ledger, files)
    journal.append(records())
    written = ledger.journal
    journal.append(records(10))
    ledger.journal = written  # it died before the store
    assert list(journal.records()) == records()
    journal.append(records(20))
    assert list(journal.records()) == [*records(), *records(20)]


def test_a_rewrite_keeps_only_the_given_records(ledger: Ledger, files: tuple[Descriptor, Descriptor]) -> None:
    journal = Journal(ledger, files)
    for number in range(2 * MIN_LIMIT // 100_000):
        if journal.is_long:
            break
        journal.append(records(number))
    assert journal.is_long
    before = list(journal.records())
    written = ledger.journal
    journal.rewrite(records(7))
    assert list(Journal(ledger, files).records()) == records(7)
    assert not journal.is_long
    journal.append(records(9))
    journal.rewrite(records(11))
    assert list(journal.records()) == records(11)
    assert len(before) > 40 and written != ledger.journal


def test_a_writer_that_dies_during_a_rewrite_has_changed_nothing(
    ledger: Ledger, files: tuple[Descriptor, Descriptor], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(ledger, files)
    journal.append(records())
    written = ledger.journal
    with monkeypatch.context() as patch:
        patch.setattr("os.ftruncate", lambda fd, size: None)
        journal.rewrite(records(7))
    ledger.journal = written  # it died before the store
    assert list(journal.records()) == records()
    journal.append(records(9))
    assert list(journal.records()) == [*records(), *records(9)]


def test_a_record_that_does_not_fit_changes_nothing(
    ledger: Ledger, files: tuple[Descriptor, Descriptor], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(ledger, files)
    journal.append(records())

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    for step in (journal.append, journal.rewrite):
        with pytest.raises(OSError, match="No space left"):
            step(records(5))
    assert list(journal.records()) == records()
