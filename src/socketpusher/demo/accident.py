"""What happens to the display in the middle of a schedule."""

import signal
import threading
import types

from .figures import Kill
from .keeper import Keeper, signals
from .scheduler import Scheduler


class Accident:
    """Kills the display, and starts another one, at some moment in the block; from a thread, so at any moment at all.

    Args:
        keeper: Whose display.
        scheduler: What runs in the block.
        delay: After how many seconds; if the block is over before, at its end.
    """

    def __init__(self, keeper: Keeper, scheduler: Scheduler, delay: float) -> None:
        self._keeper = keeper
        self._scheduler = scheduler
        self._delay = delay
        self._over = threading.Event()
        self._called_off = False
        self._failure: BaseException | None = None
        self.kill: Kill | None = None  # from the end of the block on; None if the display had ended by itself
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self._over.wait(self._delay)
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
