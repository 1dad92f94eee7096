"""An earlier version of socketpusher, taken from the directory that `--old` names; left out without one.

The same code as the peer socketpusher. Its host process, and through it the writer, imports the package from there.
"""

from .socketpusher import DELIVERS, Peer

__all__ = ["DELIVERS", "DISTRIBUTION", "NAME", "Peer"]

NAME = "socketpusher (old)"
DISTRIBUTION = ""
