"""The messages between host and writer besides lines: plain data, as JSON."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

ORPHAN_TIMEOUT = 5.0
"""How long a writer may take to send the remaining lines after its host has ended, in seconds."""

IN_FLIGHT_BYTES = 8 << 20
"""How much of `buffer_bytes` may be on its way from the host to the writer, in bytes. It fills only when the writer
does not read. The rest is for the lines that wait in the writer, and for the copies of them in the host."""

REPORT_BYTES = 4096
"""The longest report, in bytes: a pipe takes that much atomically (PIPE_BUF)."""

FILES = ("spec", "queue", "wakeups", "reports", "ledger", "journal", "journal", "graph", "spool", "host")
"""The files that are sent to a writer through its standard input, in this order: a `WriterSpec`, the queue, the pipe
that wakes it, the pipe for each `Report`, the ledger, the two files of the journal, the payload of the `graph` event as
JSON (or null), the lock of the spool if there is one, and a descriptor that becomes readable when the host ends, where
the platform has one."""


@dataclass(frozen=True)
class WriterSpec:
    """What a writer process needs to know.

    Args:
        search_path: Absolute paths of the directories with modules besides those of the standard library.
        directory: The working directory: that of a relative `config["socket_path"]`, or "/".
        config: The fields of the pusher's `PusherConfig`.
        parallelism: How many units may run at a time.
        received: The number of the first line that it will receive.
        high_water: The number after the highest line that an earlier writer put on a socket.
        sent: The number of lines that earlier writers have sent, without those that must be sent again.
        resent: The number of lines that earlier writers have put on a socket again.
        connections: The number of connections of earlier writers.
        spool: The name of the spool in the directory `config["spool"]`; "" if there is none.
        verbatim: Whether an `orch.started` without a graph is sent as it is.
    """

    search_path: list[str]
    directory: str
    config: dict[str, Any]
    parallelism: int
    received: int
    high_water: int
    sent: int
    resent: int
    connections: int
    spool: str = ""
    verbatim: bool = False

    def encode(self) -> bytes:
        """Encode as JSON. It is ASCII, so lone surrogates in names survive."""
        return json.dumps({f.name: getattr(self, f.name) for f in dataclasses.fields(self)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "WriterSpec":
        """Decode the result of `encode`."""
        return cls(**json.loads(data))


@dataclass(frozen=True)
class Report:
    """A report of the writer to the host.

    Args:
        text: What happened, for the log.
        level: A level of `logging`; 0 if the text is not for the log.
        failure: The `errno` and text of a failed attempt to connect; else (0, "").
        pid: The writer's process id, in the first report; else 0.
        ready: Whether the writer is ready.
        done: Whether the writer ends because there is nothing more to do.
    """

    text: str = ""
    level: int = 0
    failure: tuple[int, str] = (0, "")
    pid: int = 0
    ready: bool = False
    done: bool = False

    def encode(self) -> bytes:
        """One line of JSON, at most `REPORT_BYTES` long."""
        given = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}
        line = json.dumps(given).encode() + b"\n"
        if len(line) > REPORT_BYTES:
            return dataclasses.replace(self, text=self.text[-REPORT_BYTES // 16 :]).encode()
        return line


@dataclass
class Reports:
    """Splits the data from the writer's pipe into reports."""

    _rest: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> None:
        """Add data from the pipe."""
        self._rest += data

    def __iter__(self) -> Iterator[Report]:
        """The complete reports. A line that is not a report, such as an interpreter's error, becomes a log text."""
        while b"\n" in self._rest:
            line, _, rest = self._rest.partition(b"\n")
            report = _report(line)
            self._rest = rest
            if line:
                yield report


def _report(line: bytes) -> Report:
    try:
        given = json.loads(line)
        return Report(**{**given, "failure": tuple(given.get("failure", (0, "")))})
    except (ValueError, TypeError, AttributeError):
        return Report(line.decode(errors="backslashreplace"), level=40)
