"""An earlier version of socketpusher, from the directory that `--old` names.

It has the same code as the peer socketpusher. Its host process, and so its writer, imports the package from there.
"""

from .socketpusher import DELIVERS, Peer

__all__ = ["DELIVERS", "DISTRIBUTION", "NAME", "Peer"]

NAME = "socketpusher (old)"
DISTRIBUTION = ""
