"""The scenarios, one per file.

The module of a scenario has
    TITLE                            its title
    in_host(Peer, path, **options)   runs in the measured host, and returns its figures
    run(runner)                      runs in the command, measures, and returns a `Report`
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
    "plugins",
)
