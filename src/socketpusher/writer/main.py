"""What a writer process runs, as a script: `python .../socketpusher/writer/main.py host=PID`.

It can import nothing of the package before it has been told where that is.
"""

import os
import sys
from contextlib import suppress


def main() -> None:
    """Be a writer, as the process that wrote into standard input says."""
    if os.fork():
        os._exit(0)  # the writer is not the host's child: a host that waits for its children finds no other
    os.write(2, b'{"pid": %d}\n' % os.getpid())
    import json
    import socket

    frozen = hasattr(sys, "frozen")
    if not frozen:
        for fd in os.listdir("/dev/fd"):  # what the host has left open to its children
            if int(fd) > 2:
                with suppress(OSError):
                    os.close(int(fd))
    with socket.socket(fileno=os.dup(0)) as source:
        _, (spec, *files), _, _ = socket.recv_fds(source, 1, 16)
    with open(spec, "rb") as file:
        file.seek(0)
        data = file.read()
    if not frozen:
        sys.path += json.loads(data)["search_path"]
    sys.modules["tornado"] = None  # type: ignore[assignment]  # which tenacity would import where it is: 30 ms
    from socketpusher.writer.process import serve

    serve(data, files)


if __name__ == "__main__":
    main()
