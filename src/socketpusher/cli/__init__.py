"""The command `socketpusher`: one module per command, and what the commands share.

Exit codes: 0 for success, 1 for a failure, 2 for a mistake on the command line, and 128 + n if signal n ended the
command: 130 for Ctrl-C, 143 for SIGTERM, 141 if the reader of its output has ended (`| head`). `watch --exit-code` also
returns 2 if it does not know how the run ended.
"""

import signal
from threading import current_thread, main_thread

# An exception in the middle of an import could be printed by something else: until the end of this, Ctrl-C just kills.
_raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread()
if _raises:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    from .main import main
finally:
    if _raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main"]
