"""The demo: a scheduler that never sleeps, watched from another process, with the cost of watching measured.

modules.py    what the scheduler works on: Python modules, each after those that it imports
scheduler.py  a process that compiles them, with a pusher, and measures what the pusher costs it
processes.py  starts the processes of a demo, and ends them all
one_host.py   one scheduler and one `socketpusher watch`, which is killed halfway and started again
fleet.py      several schedulers with a relay each, a nats-server, and one `socketpusher watch` for all
"""
