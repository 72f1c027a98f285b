"""Fetching ahead of sequential readers, on a few threads that all readers share."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tgdav.cpu_affinity import use_all_cores
from tgdav.errors import TgdavError
from tgdav.ids import ChunkId
from tgdav.threads import Guard

WORKERS = 4


class Prefetcher:
    """Thread-safe. ``budget``: bytes of plaintext that may be under way at once."""

    def __init__(self, load: Callable[[ChunkId], object], budget: int) -> None:
        self._load = load
        self._budget = budget
        self._guard = Guard("prefetch")
        self._lock = threading.Lock()
        self._pending = 0
        self._is_closed = False
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="prefetch", initializer=use_all_cores)

    def fetch(self, chunk: ChunkId, length: int) -> Future[None] | None:
        """Begin to fetch a chunk of ``length`` bytes; None if too much is under way."""
        with self._lock:
            if self._is_closed or self._pending + length > self._budget:
                return None
            self._pending += length
            future = self._pool.submit(self._run, chunk)
        future.add_done_callback(lambda _: self._release(length))
        return future

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        with self._lock:
            self._is_closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._guard.clear()

    def _run(self, chunk: ChunkId) -> None:
        self._guard.run(lambda: self._fetch(chunk))

    def _fetch(self, chunk: ChunkId) -> None:
        try:
            self._load(chunk)
        except TgdavError:
            return  # the reader meets it again when it gets there, and says so

    def _release(self, length: int) -> None:
        with self._lock:
            self._pending -= length
