"""The ways to send events out of a process, one per file. A new file here is a new peer; nothing else has to change.

The module of a peer has
    NAME          its name in tables
    DISTRIBUTION  the package whose version is reported, or "" for the standard library
    DELIVERS      False for a peer that sends nothing
    Peer(path, buffer_size)   connects to the consumer that listens at `path`; `buffer_size` is how many events may
                              wait, None for no limit. At the limit it drops events if it can, and otherwise blocks.
        .emit(type, unit, task, payload)   makes the event with the current time, and accepts it
        .close()                           delivers the waiting events, and ends

All write the same lines, in the wire format of socketpusher, to the same kind of socket.
"""

import pkgutil
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

OLD = "socketpusher_old"
ALWAYS = ("socketpusher", OLD, "floor")
"""The peers that all others are compared with."""
BRIDGES = ("pyzmq_push", "faster_fifo_bridge")
"""The peers that write in the emitting thread, to a process that forwards the lines."""


def available(old: bool = False) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The peers by name, and for those that are left out the reason. The old version is included if `old`."""
    found: dict[str, ModuleType] = {}
    left_out: dict[str, str] = {}
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    for name in sorted(names, key=lambda name: (name not in ALWAYS, name)):
        if name == OLD and not old:
            left_out[name] = "it needs --old"
            continue
        try:
            module = import_module(f"{__name__}.{name}")
        except ImportError as error:
            left_out[name] = str(error)
            continue
        found[name] = module
    return found, left_out


def versions(modules: dict[str, ModuleType]) -> dict[str, str]:
    """The version of every measured package."""
    return {name: version(name) for name in sorted({m.DISTRIBUTION for m in modules.values() if m.DISTRIBUTION})}
