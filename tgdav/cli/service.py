"""Telling systemd how the service is doing: sd_notify(3), a datagram to the socket that NOTIFY_SOCKET names."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(environment: Mapping[str, str], *lines: str) -> None:
    """Send ``lines`` (READY=1, STOPPING=1, STATUS=…); without a service manager nothing happens."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    name = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(name)
        sender.send("\n".join(lines).encode())
