"""Counts of requests and bytes since the server was created, for metrics."""

import threading
from collections import Counter

import msgspec

METHODS = frozenset(
    ("OPTIONS", "HEAD", "GET", "PUT", "DELETE", "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK")
)
OTHER = "other"
"""Counts every method not in ``METHODS``: a client that invents methods must not make the table grow."""


class TrafficCounts(msgspec.Struct, frozen=True):
    """``requests``: responses by method and status class (``2xx``). Bytes include heads, as sent and received."""

    requests: dict[tuple[str, str], int]
    received_bytes: int
    sent_bytes: int


class Traffic:
    """Counters. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._received = self._sent = 0

    def record(self, method: str, status: int, received: int, sent: int) -> None:
        """Count a response, and the bytes moved since the connection's previous one."""
        key = (method if method in METHODS else OTHER, f"{status // 100}xx")
        with self._lock:
            self._requests[key] += 1
            self._received += received
            self._sent += sent

    def counts(self) -> TrafficCounts:
        """Return the counts so far."""
        with self._lock:
            return TrafficCounts(dict(self._requests), self._received, self._sent)
