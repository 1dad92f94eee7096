"""Measures socketpusher beside what people would use instead: `python -m benchmarks --help`.

__main__.py   the command line: runs the scenarios, prints the tables and the targets, writes JSON and charts
scenarios/    one scenario a file: what the host does, and what is made of the figures
peers/        one way to get events out of a process a file, with the settings chosen for it and why
host.py       a measured host: a fresh process that emits and prints one line of JSON
consumer.py   the other end of the socket: a process that only reads
runner.py        brings host and consumer together, round after round; the processes are owned by processes.py
workload.py   the events and the pure Python work between them, the same for every peer
report.py   tables and targets; charts.py the pictures
"""
