"""Events from what others have written: executors, loggers, schedulers.

Each module emits on a `Bus` and knows nothing of where the events go. None is imported unless it is asked for, so what
it is made for need not be installed.
"""
