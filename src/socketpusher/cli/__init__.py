"""The command `socketpusher`: one module a sub-command, and what they share here.

Exit codes: 0 as wished, 1 for a failure, 2 for a command line that is not understood, and 128 + n where signal n ended
it: 130 for Ctrl-C, 141 for a reader of the output that is gone (`| head`), 143 for SIGTERM.
"""

from .main import main

__all__ = ["main"]
