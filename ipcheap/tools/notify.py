"""Telling systemd that a service is ready."""

from __future__ import annotations

import os


def ready() -> None:
    """Send READY=1 to the socket that $NOTIFY_SOCKET names, if it is set.

    A name that begins with `@` is that of an abstract socket. OSError if nobody receives there.
    """
    name = os.environb.get(b"NOTIFY_SOCKET")
    if not name:
        return
    import socket

    address = b"\0" + name[1:] if name[:1] == b"@" else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.sendto(b"READY=1", address)
