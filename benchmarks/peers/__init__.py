"""The ways to get events out of a process, one a file. A new file here is a new peer; nothing else has to change.

A peer's module has
    NAME          what tables call it
    DISTRIBUTION  the package whose version is reported, or "" for the standard library
    DELIVERS      False for a peer that sends nothing anywhere
    Peer(path, buffer_size)   connects to the consumer that listens at `path`; `buffer_size` is how many events may
                              wait, None for no limit. Where the peer can, it drops rather than blocks at the limit.
        .emit(type, unit, task, payload)   builds the event, stamps it with the time, and takes it
        .close()                           delivers what waits, and ends

All write the same lines, in the wire format of socketpusher, to the same kind of socket.
"""

import pkgutil
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

OLD = "socketpusher_old"
ALWAYS = ("socketpusher", OLD, "floor")
"""What everything else is compared with."""
BRIDGES = ("pyzmq_push", "faster_fifo_bridge")
"""The peers that write in the emitting thread, to a process that passes it on."""


def available(old: bool = False) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The peers by name, and of those that can't be imported the reason. The old version only where one is given."""
    found: dict[str, ModuleType] = {}
    left_out: dict[str, str] = {}
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    for name in sorted(names, key=lambda name: (name not in ALWAYS, name)):
        if name == OLD and not old:
            left_out[name] = "--old names no directory"
            continue
        try:
            module = import_module(f"{__name__}.{name}")
        except ImportError as error:
            left_out[name] = str(error)
            continue
        found[name] = module
    return found, left_out


def versions(modules: dict[str, ModuleType]) -> dict[str, str]:
    """The version of every package that was measured."""
    return {name: version(name) for name in sorted({m.DISTRIBUTION for m in modules.values() if m.DISTRIBUTION})}
