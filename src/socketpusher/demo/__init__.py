"""A real scheduler on real work, watched from another process, with the price of watching measured.

modules.py        what there is to do: Python modules, and what each needs first
scheduler.py      does it, and says so on the bus
display.py        the process that listens, shows the events and notes what it has received
keeper.py         starts that process, and another one when it has killed it
accident.py       has it killed in the middle of a schedule
figures.py        what was measured, and the table of it
demonstration.py  runs the one with and without the other, and compares
host.py           the scheduler with a pusher, as a process
fleet.py          several of those with a relay each, a nats-server, and one watcher
"""

from .demonstration import DEFAULT_ROUNDS, demonstrate
from .fleet import fleet

__all__ = ["DEFAULT_ROUNDS", "demonstrate", "fleet"]
