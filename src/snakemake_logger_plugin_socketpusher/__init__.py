"""`snakemake --logger socketpusher`: the jobs of a workflow, for `socketpusher watch` in another terminal.

What becomes what is in `socketpusher.sources.snakemake`.
"""

import logging
import sys
from dataclasses import dataclass, field

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from socketpusher.events import Bus
from socketpusher.plugin import close, start
from socketpusher.pusher import SocketPusher
from socketpusher.sources.snakemake import WorkflowEvents


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):  # type: ignore[misc]  # it may not be installed
    """The options of the command line."""

    path: str = field(
        default="",
        metadata={
            "help": "Unix socket that the events are sent to; by default the one that `socketpusher watch` uses",
            "required": False,
            "env_var": False,
        },
    )


class LogHandler(LogHandlerBase):  # type: ignore[misc]
    """Sends what happens to the jobs. Snakemake calls it in a thread of its own, and a consumer is optional."""

    def __post_init__(self) -> None:
        bus = Bus()
        self._events = WorkflowEvents(bus, bool(getattr(self.common_settings, "dryrun", False)))
        self._pusher: SocketPusher | None = None
        try:
            self._pusher = start(bus, getattr(self.settings, "path", "") or "")
        except (OSError, ValueError, RuntimeError) as error:  # watching must not break what is watched
            print(f"socketpusher: no events are sent: {error}", file=sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Emit what a record says."""
        try:
            self._events.handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Emit the end of the run, and send what is left."""
        super().close()
        pusher, self._pusher = self._pusher, None
        if pusher is not None:
            self._events.end()
            close(pusher)

    writes_to_stream = False
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False
