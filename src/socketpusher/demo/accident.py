"""What happens to the display in the middle of a schedule."""

import signal
import threading
import types

from .figures import Kill
from .keeper import Keeper, signals
from .scheduler import Scheduler

LOOK = 0.005
"""How often it looks how far the schedule is, in seconds."""


class Accident:
    """Kills the display, and starts another one, at some moment in the block; from a thread, so at any moment at all.

    Args:
        keeper: Whose display.
        scheduler: What runs in the block.
        event: After how many events; if the block is over before, at its end. A time would not do: on a busy machine
            no schedule takes as long as the one before.
    """

    def __init__(self, keeper: Keeper, scheduler: Scheduler, event: float) -> None:
        self._keeper = keeper
        self._scheduler = scheduler
        self._event = event
        self._over = threading.Event()
        self._called_off = False
        self._failure: BaseException | None = None
        self.kill: Kill | None = None  # from the end of the block on; None if the display had ended by itself
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while self._scheduler.emitted < self._event and not self._over.wait(LOOK):
            pass
        if self._called_off:
            return
        event = self._scheduler.emitted
        try:
            moment = self._keeper.replace()
        except Exception as error:  # to be raised where somebody sees it
            self._failure = error
        else:
            self.kill = None if moment is None else Kill(moment, event)

    def __enter__(self) -> "Accident":
        with signals(signal.SIG_BLOCK):  # the thread inherits that, and so does the display
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._called_off = kind is not None
        with signals(signal.SIG_BLOCK):  # a second Ctrl-C would leave the thread alone with the display
            self._over.set()
            self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure
