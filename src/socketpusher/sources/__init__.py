"""Sources of events: executors, loggers and schedulers of other libraries.

Each module emits on a `Bus` and does not know where the events go. Nothing imports these modules, so the libraries they
are for need not be installed.
"""
