"""Descriptors that are ours in a process that is not."""

import os

from socketpusher.channel.descriptors import pipe


def test_a_descriptor_that_was_closed_is_not_ours_though_the_same_file_has_its_number_again() -> None:
    reader, writer = pipe()
    number, other = reader.fileno(), os.dup(reader.fileno())
    reader.close()
    os.dup2(other, number)
    taken_for_ours = reader.intact()
    os.close(number)
    os.close(other)
    writer.close()
    assert not taken_for_ours
