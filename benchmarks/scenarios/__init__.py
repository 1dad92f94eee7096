"""What is measured, one scenario a file.

A scenario's module has
    TITLE                            what it is called
    in_host(Peer, path, **options)   runs in the measured host; returns its figures
    run(runner)                         runs in the command; measures and returns `Report`
and its docstring says what is measured and how.
"""

ALL = (
    "busy",
    "sparse",
    "burst",
    "crowded",
    "emit_cost",
    "stalled",
    "spool",
    "at_rest",
    "size",
    "start_stop",
    "listening",
    "relaying",
)
