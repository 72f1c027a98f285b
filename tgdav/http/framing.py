"""What the bytes received on a connection mean: heads, lines, bodies, bytes to drop. Pure: no socket, as h11.

A ``ReceiveBuffer`` is fed with what arrives and asked for what comes next; it returns None until that is complete. The
connection decides what comes next:

    head  -> body of known length -> head      (``take``; the rest of a refused body: ``skip``)
    head  -> chunk line -> chunk -> ... -> trailer lines -> head      (``next_line``, ``take``)
"""

from tgdav.http.head import MAX_HEAD_BYTES
from tgdav.http.messages import HttpError

MAX_EMPTY_LINES = 8
"""Empty lines that may precede a request line (RFC 9112 §2.2 asks for one)."""


class ReceiveBuffer:
    """Bytes received and not yet consumed."""

    __slots__ = ("_data", "_empty_lines", "_searched", "_skip")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0
        self._empty_lines = 0
        self._skip = 0

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | memoryview) -> None:
        """Append what was received."""
        self._data += data

    def clear(self) -> None:
        """Drop everything."""
        self._data = bytearray()

    def skip(self, count: int) -> None:
        """Drop the next ``count`` bytes, the rest of a refused body, as they arrive."""
        self._skip = count

    @property
    def is_skipping(self) -> bool:
        """Whether the rest of a refused body precedes the next head."""
        return bool(self._skip)

    @property
    def head_has_begun(self) -> bool:
        """Whether a part of the next head has arrived."""
        return bool(self._data) and not self._skip

    def next_head(self) -> bytes | None:
        """Consume the next head and return it without its final empty line; None while it is incomplete.

        Raises HttpError 414 or 431 for one that is too large, 400 for too many empty lines before it.
        """
        if self._skip:
            self._drop_skipped()
        data = self._data
        while data.startswith(b"\r\n"):
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise HttpError(400, "too many empty lines", close=True)
            del data[:2]
            self._searched = 0
        # Bytes searched before are not searched again, else a head that arrives byte by byte costs its length squared.
        end = data.find(b"\r\n\r\n", max(0, self._searched - 3), MAX_HEAD_BYTES)
        self._searched = len(data)
        if end < 0:
            if len(data) >= MAX_HEAD_BYTES:
                raise HttpError(431 if b"\r\n" in data else 414, close=True)
            return None
        head = bytes(data[:end])
        del data[: end + 4]
        self._searched = self._empty_lines = 0
        return head

    def end_of_stream(self) -> None:
        """Check that the client ended the stream between requests. Raises HttpError 400 inside a head."""
        if self.head_has_begun:
            raise HttpError(400, "the head ended early", close=True)

    def _drop_skipped(self) -> None:
        count = min(self._skip, len(self._data))
        del self._data[:count]
        self._skip -= count

    def take(self, view: memoryview) -> int:
        """Move up to ``len(view)`` bytes of a body into ``view``; return the count."""
        if not self._data:
            return 0
        count = min(len(view), len(self._data))
        view[:count] = self._data[:count]
        del self._data[:count]
        return count

    def next_line(self, limit: int) -> bytes | None:
        """Consume a line and return it without its CRLF; None while it is incomplete.

        Raises HttpError 400 when it is longer than ``limit`` or ends in a bare LF.
        """
        end = self._data.find(b"\n", self._searched, limit + 2)
        if end < 0:
            self._searched = len(self._data)
            if self._searched > limit:
                raise HttpError(400, "line too long", close=True)
            return None
        self._searched = 0
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        if not line.endswith(b"\r"):
            raise HttpError(400, "a line must end in CRLF", close=True)
        return line[:-1]
