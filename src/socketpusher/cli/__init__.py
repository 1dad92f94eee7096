"""The command `socketpusher`: one module a sub-command, and what they share here.

Exit codes: 0 as wished, 1 for a failure, 2 for a command line that is not understood, and 128 + n where signal n ended
it: 130 for Ctrl-C, 141 for a reader of the output that is gone (`| head`), 143 for SIGTERM.
"""

import signal
from threading import current_thread, main_thread

# While modules are imported, an exception in the middle of one makes a mess: Ctrl-C just ends the process until then.
_raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread()
if _raises:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    from .main import main
finally:
    if _raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main"]
