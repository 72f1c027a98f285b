"""What went over the line since the server was made, for metrics."""

import threading
from collections import Counter

import msgspec

METHODS = frozenset(
    ("OPTIONS", "HEAD", "GET", "PUT", "DELETE", "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK")
)
OTHER = "other"
"""Stands for every method that is none of ours, so that strangers cannot make the table grow."""


class TrafficCounts(msgspec.Struct, frozen=True):
    """``requests``: answers by method and class of status (``2xx``). Bytes with heads, as sent and received."""

    requests: dict[tuple[str, str], int]
    received_bytes: int
    sent_bytes: int


class Traffic:
    """Counts. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._received = self._sent = 0

    def note(self, method: str, status: int, received: int, sent: int) -> None:
        """Count an answer, and the bytes that moved since the connection's last one."""
        key = (method if method in METHODS else OTHER, f"{status // 100}xx")
        with self._lock:
            self._requests[key] += 1
            self._received += received
            self._sent += sent

    def counts(self) -> TrafficCounts:
        """Return the counts so far."""
        with self._lock:
            return TrafficCounts(dict(self._requests), self._received, self._sent)
