"""The messages on a connection of the control socket: one JSON object per line (UTF-8), and blocks of bytes after some lines::

    request   {"command": NAME, "arguments": {…}}
              {"block": N} and then N bytes       any number of them, only if the command receives a stream
              {"end": {}}                         the end of that stream
    responses {"progress": {"stage": TEXT, "done": N, "total": N}}     any number of them
              {"block": N} and then N bytes       any number of them, only if the command sends a stream
              {"result": {…}}  or  {"error": {"kind", "message", "hint", "exit", "errno"}}

A connection may carry several requests, one after the other; it ends after an error. Only ``result`` says that a stream is
complete, and only ``end`` that the client's is: whoever cannot go on closes the connection. A block has 1 to MAX_BLOCK_BYTES
bytes, so that both ends need little memory, whatever the size of a file.
"""

import socket
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import msgspec

from tgdav.errors import UsageError

MAX_REPLY_BYTES = 512 << 20
MAX_BLOCK_BYTES = 1 << 20

_MAX_FRAME_BYTES = 100


class _Frame(msgspec.Struct, forbid_unknown_fields=True):
    """A line in the client's stream: the length of a block, or the end."""

    block: int | None = None
    end: dict[str, Any] | None = None


class Stream:
    """The blocks of one request, in both directions, as the server sees them."""

    def __init__(self, peer: socket.socket, lines: BinaryIO) -> None:
        self._peer, self._lines = peer, lines

    def send(self, data: bytes) -> None:
        """Send ``data``, of any length, to the client. Raises ConnectionError if it is gone."""
        send_blocks(self._peer, data)

    def receive(self) -> Iterator[bytes]:
        """Yield the client's blocks until it says that the stream is complete.

        Raises ConnectionError if it is gone before, UsageError for a malformed line.
        """
        while True:
            line = receive_line(self._lines, _MAX_FRAME_BYTES)
            if line is None:
                raise ConnectionAbortedError("the client ended within its stream")
            match _frame(line):
                case _Frame(block=int(length), end=None) if 0 < length <= MAX_BLOCK_BYTES:
                    yield receive_block(self._lines, length)
                case _Frame(block=None, end=dict()):
                    return
                case _:
                    raise UsageError("malformed control stream")


def _frame(line: bytes) -> _Frame:
    try:
        return msgspec.json.decode(line, type=_Frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UsageError("malformed control stream") from None


def receive_line(lines: BinaryIO, limit: int) -> bytes | None:
    """Return the next line without its newline; None at the end of the stream. Raises ConnectionError if it is cut off
    or longer than ``limit`` bytes, TimeoutError.
    """
    line = lines.readline(limit + 1)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise ConnectionAbortedError("a control message was too long or cut off")
    return line[:-1]


def send_line(peer: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message. Raises ConnectionError when the peer is gone or does not read."""
    try:
        peer.sendall(msgspec.json.encode(message) + b"\n")
    except OSError as error:
        raise ConnectionAbortedError("the peer of the control socket is gone") from error


def receive_block(lines: BinaryIO, length: int) -> bytes:
    """Return the bytes of a block whose line was read. Raises ConnectionError if they are cut off."""
    data = lines.read(length)
    if len(data) != length:
        raise ConnectionAbortedError("a block on the control socket was cut off")
    return data


def send_blocks(peer: socket.socket, data: bytes) -> None:
    """Send ``data`` as blocks. Raises ConnectionError when the peer is gone."""
    for start in range(0, len(data), MAX_BLOCK_BYTES):
        block = memoryview(data)[start : start + MAX_BLOCK_BYTES]
        send_line(peer, {"block": len(block)})
        try:
            peer.sendall(block)
        except OSError as error:
            raise ConnectionAbortedError("the peer of the control socket is gone") from error
