"""The start of the writer process: signals, files, and then the loop."""

import json
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress

from ..channel.descriptors import Descriptor, read_whole
from ..channel.journal import Journal
from ..channel.ledger import Ledger
from ..channel.messages import Report, WriterSpec
from ..channel.queue import QueueReader
from ..channel.spool_directory import Claim


def serve(data: bytes, files: list[int]) -> None:
    """Run the writer until there is nothing more to do.

    Args:
        data: An encoded `WriterSpec`.
        files: The descriptors that follow the spec in `channel.messages.FILES`.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # the host has blocked them, from the first instruction on
    for signum in blocked:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    queue, wakeups, reports, ledger_file, one, other, graph, *given = files
    try:
        spec = WriterSpec.decode(data)
        _keep_memory_flat()
        os.chdir(spec.directory)
        from .loop import Writer  # here, so that an error while it is imported is reported

        ledger = Ledger(Descriptor(ledger_file))
        journal = Journal(ledger, (Descriptor(one), Descriptor(other)))
        known = json.loads(read_whole(graph))
        claim = Claim(spec.config["spool"], spec.spool, Descriptor(given.pop(0))) if spec.spool else None
        host = given[0] if given else None
        writer = Writer(spec, known, QueueReader(queue), wakeups, reports, ledger, journal, host, claim)
        os.write(reports, Report(ready=True).encode())
        writer.run()
    except Exception:
        with suppress(OSError):
            os.write(reports, Report(f"the writer process failed:\n{traceback.format_exc()}", logging.ERROR).encode())
        sys.exit(1)


def _keep_memory_flat() -> None:
    """With glibc, fix the size from which malloc maps a block on its own, so that freeing it returns the memory.

    Otherwise malloc raises that threshold to the largest block ever freed (mallopt(3), M_MMAP_THRESHOLD), and the heap
    gets holes: over five million events the writer grew from 34 to 50 MiB, and with a fixed threshold from 24 to 24.
    """
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).mallopt(-3, 256 << 10)
