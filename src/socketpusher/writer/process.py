"""The writer process from its first instruction to the loop."""

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
    """Be the writer until there is nothing more to do.

    Args:
        data: A `WriterSpec`, encoded.
        files: Descriptors, as `channel.messages.FILES` has them behind the spec.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # from the first instruction on, by the host
    for signum in held:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
    queue, wakeups, reports, ledger_file, one, other, graph, *given = files
    try:
        spec = WriterSpec.decode(data)
        _keep_memory_flat()
        os.chdir(spec.directory)
        from .loop import Writer  # here, so that what goes wrong while it is imported is reported

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
    """Let every large block be mapped and unmapped by itself, as at the beginning, with glibc.

    Its malloc takes the size of the largest block ever freed as the new limit (mallopt(3), M_MMAP_THRESHOLD), so that
    batches of every size end up in one heap with holes: over five million events the writer grew from 34 to 50 MiB, and
    with the limit fixed from 24 to 24.
    """
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).mallopt(-3, 256 << 10)
