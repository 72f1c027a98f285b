"""Which chunks streams count on, so that nothing removes them between a look-up and the commit that names them."""

import threading
from collections import Counter
from collections.abc import Iterable

from tgdav.ids import ChunkId


class Pins:
    """Chunk ids in use, counted, and those being removed. Thread-safe.

    A look-up pins first and looks after, in a snapshot begun later. A removal calls ``start_removal`` inside its transaction
    and ``end_removal`` when that is over; meanwhile nobody can begin to count on what leaves. A stream holds what it stores
    anew, too, before it records it. Transactions come one after another, so either the removal sees the pin, or whoever
    pins sees the removal, or records the chunk anew after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pinned: Counter[ChunkId] = Counter()
        self._leaving: set[ChunkId] = set()

    def pin(self, chunk: ChunkId) -> bool:
        """Count on a stored ``chunk`` once more; False (and no pin) if it is just being removed."""
        with self._lock:
            if chunk in self._leaving:
                return False
            self._pinned[chunk] += 1
            return True

    def hold(self, chunk: ChunkId) -> None:
        """Count on ``chunk``, which the caller is about to record itself."""
        with self._lock:
            self._pinned[chunk] += 1

    def unpin(self, chunks: Iterable[ChunkId]) -> None:
        """Undo ``pin`` or ``hold``, once for each chunk given."""
        with self._lock:
            for chunk in chunks:
                self._pinned[chunk] -= 1
                if not self._pinned[chunk]:
                    del self._pinned[chunk]

    def start_removal(self, chunks: Iterable[ChunkId]) -> set[ChunkId]:
        """Return those of ``chunks`` that nobody counts on; nobody can until ``end_removal``."""
        with self._lock:
            free = {chunk for chunk in chunks if chunk not in self._pinned and chunk not in self._leaving}
            self._leaving |= free
            return free

    def end_removal(self, chunks: Iterable[ChunkId]) -> None:
        """The removal's transaction is over, whatever became of it."""
        with self._lock:
            self._leaving.difference_update(chunks)
