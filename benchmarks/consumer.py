"""The other end of the socket, as cheap as possible: `python -m benchmarks.consumer PATH MODE`.

It listens, prints "ready", serves one connection to its end and prints its figures as one line of JSON. Modes:
    count    count the newlines
    record   keep every chunk with its time of receipt, and decode after the end of the connection
    stall    accept and never read, until it is killed

Times of receipt are of CLOCK_MONOTONIC, which all processes of a machine share; for latency they are of the wall clock,
like the times of the events.
"""

import json
import socket
import sys
import time

CHUNK = 1 << 20
TIMEOUT = 300.0
"""How long it waits for a connection, or stalls, in seconds, so that it ends if it is not killed."""


def count(connection: socket.socket) -> dict[str, object]:
    buffer = bytearray(CHUNK)
    lines = total = first = last = 0
    while size := connection.recv_into(buffer):
        last = time.monotonic_ns()
        first = first or last
        total += size
        lines += buffer.count(b"\n", 0, size)
    return {"received": lines, "bytes": total, "first_receipt": first, "last_receipt": last}


def record(connection: socket.socket) -> dict[str, object]:
    chunks: list[tuple[int, bytes]] = []
    last = 0
    while chunk := connection.recv(CHUNK):
        chunks.append((time.time_ns(), chunk))
        last = time.monotonic_ns()
    return {"last_receipt": last, **decoded(chunks)}


def decoded(chunks: list[tuple[int, bytes]]) -> dict[str, object]:
    """The latencies in ms, from the time on each line to the receipt of its newline."""
    import orjson

    from .workload import percentiles

    steps: set[int] = set()
    latencies: list[float] = []
    lines = broken = 0
    rest = b""
    for receipt, chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            lines += 1
            try:
                event = orjson.loads(line)
                steps.add(event["payload"]["step"])
                latencies.append(receipt / 1e6 - _milliseconds(event["time"]))
            except (ValueError, KeyError, TypeError):
                broken += 1
    found = {f"latency_{name}": value for name, value in percentiles(latencies).items()}
    return {"received": lines, "distinct": len(steps), "broken": broken + bool(rest), **found}


def _milliseconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp).timestamp() * 1000


def serve(path: str, mode: str) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(TIMEOUT)
        print("ready", flush=True)
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(None)  # with a timeout every recv needs a poll
            if mode == "stall":
                time.sleep(TIMEOUT)
                return {}
            return record(connection) if mode == "record" else count(connection)


if __name__ == "__main__":
    print(json.dumps(serve(sys.argv[1], sys.argv[2])), flush=True)
