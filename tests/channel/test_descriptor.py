"""Descriptors that are ours in a process that is not."""

import os
import select
import subprocess

import pytest

from socketpusher.channel import descriptors
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


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfd_open")
def test_another_pidfd_or_epoll_with_its_number_is_not_ours_where_all_are_one_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As before Linux 6.9. A host may have a pidfd of a child of its own, which must not be killed."""
    monkeypatch.setattr(descriptors, "_identity", lambda fd: "anon_inode")
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        ours = descriptors.process_descriptor(os.getpid())
        of_child, epoll = os.pidfd_open(child.pid), select.epoll()
        assert ours is not None
        number = ours.fileno()
        seen = [ours.intact()]
        for other in of_child, epoll.fileno():
            os.dup2(other, number)
            seen.append(ours.intact())
        ours.close()
        os.close(number)  # it is still open, because it is not ours
        of_ended = descriptors.process_descriptor(child.pid)
        child.kill()
    assert seen == [True, False, False]
    assert of_ended is not None
    assert of_ended.intact()
    of_ended.close()
    os.close(of_child)
    epoll.close()
