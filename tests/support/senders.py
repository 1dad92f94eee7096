"""Senders of lines, as simple as a socket."""

import array
import fcntl
import socket
import termios
from collections.abc import Iterator
from typing import Any

from support.waiting import wait_for


def line(name: str | int, more: str = "") -> bytes:
    return b'{"type":"%b","time":"2026-11-23T17:08:00Z"%b}\n' % (str(name).encode(), more.encode())


def sender_to(path: str) -> socket.socket:
    sender = socket.socket(socket.AF_UNIX)
    sender.connect(path)
    return sender


def sender_once_it_listens(path: str) -> socket.socket:
    sender = socket.socket(socket.AF_UNIX)
    wait_for(lambda: sender.connect_ex(path) == 0, what=f"a listener at {path}")
    return sender


def send(path: str, data: bytes) -> None:
    with sender_to(path) as sender:
        sender.sendall(data)


def take(listener: Iterator[Any], count: int) -> list[Any]:
    return [next(listener) for _ in range(count)]


def unread(sender: socket.socket) -> bool:
    """Whether the consumer has not read everything yet."""
    size = array.array("i", [0])
    fcntl.ioctl(sender, termios.TIOCOUTQ, size)
    return size[0] > 0
