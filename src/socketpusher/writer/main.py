"""The script that a writer process runs: `python .../socketpusher/writer/main.py host=PID`.

It can't import the package before it has received the search path.
"""

import os
import sys
from contextlib import suppress


def main() -> None:
    """Receive the spec and the files through standard input, and run the writer."""
    if os.fork():
        os._exit(0)  # so that the writer is not a child of the host, which may wait for all its children
    os.write(2, b'{"pid": %d}\n' % os.getpid())
    import json
    import socket

    frozen = hasattr(sys, "frozen")
    if not frozen:
        for fd in os.listdir("/dev/fd"):  # inherited from the host
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
    sys.modules["tornado"] = None  # type: ignore[assignment]  # tenacity would import it, 30 ms
    from socketpusher.writer.process import serve

    serve(data, files)


if __name__ == "__main__":
    main()
