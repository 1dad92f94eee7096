"""Measures socketpusher and its alternatives: `python -m benchmarks --help`.

__main__.py   the command line: runs the scenarios, prints the tables and the targets, writes JSON and charts
scenarios/    one scenario per file: what the host does, and the tables of its figures
peers/        one way to send events out of a process per file, with the settings chosen for it and why
host.py       a measured host: a fresh process that emits and prints one line of JSON
consumer.py   the other end of the socket: a process that only reads
runner.py     runs hosts and consumers, round after round
processes.py  starts and ends their processes
workload.py   the events and the pure Python work between them, the same for every peer
report.py     tables and targets
charts.py     charts
"""
