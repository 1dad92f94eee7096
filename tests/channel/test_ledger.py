"""The numbers that host and writer share."""

import os

from socketpusher.channel.descriptors import Descriptor
from socketpusher.channel.ledger import RANGES, Ledger


def test_what_one_mapping_writes_the_other_reads() -> None:
    ledger = Ledger()
    other = Ledger(file=Descriptor(os.dup(ledger.file.fileno())))
    ledger.flush_target = 7
    other.sent = 2**40
    assert (other.flush_target, ledger.sent) == (7, 2**40)
    ledger.close()
    other.close()


def test_ranges_of_dropped_lines_are_taken_once_and_counted() -> None:
    ledger = Ledger()
    for turn in range(3 * RANGES):
        ledger.drop(turn * 10, turn * 10 + 3)
        assert list(ledger.take_dropped()) == [(turn * 10, turn * 10 + 3)]
    assert ledger.dropped == 9 * RANGES
    ledger.close()


def test_unread_ranges_are_not_overwritten() -> None:
    ledger = Ledger()
    while ledger.can_drop():
        ledger.drop(ledger.dropped, ledger.dropped + 1)
    assert ledger.dropped == RANGES
    assert [first for first, _ in ledger.take_dropped()] == list(range(RANGES))
    assert ledger.can_drop()
    ledger.close()


def test_the_numbers_stay_readable_after_close_and_no_file_is_left() -> None:
    before = os.listdir("/proc/self/fd")
    ledger = Ledger()
    ledger.sent = 5
    ledger.close()
    assert ledger.sent == 5
    assert os.listdir("/proc/self/fd") == before
