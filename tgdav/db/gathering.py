"""Lazy jobs that share one transaction, which stays open for a moment: what is gathered, and the thread that ends waiting.

A job that nobody was promised to find after a crash need not pay for a commit of its own. See ``tgdav.db.writer``.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tgdav.db.transaction import Batch
from tgdav.threads import Worker

GATHER_SECONDS = 0.03
"""How long a transaction of lazy jobs stays open at most, unless somebody wants it committed before."""

GATHER_MOST = 256
"""Most jobs of such a transaction."""


@dataclass(slots=True)
class Gathered:
    """An open transaction of lazy jobs that were answered already. ``callbacks`` wait for its commit."""

    batch: Batch
    count: int = 0
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether it is to be committed before it takes more."""
        return self.count >= GATHER_MOST

    @property
    def is_nearly_full(self) -> bool:
        """Whether the next job will make it full."""
        return self.count + 1 >= GATHER_MOST


class Committer:
    """Has what is gathered committed a moment after it was begun. The thread starts when there is something for the first
    time."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self._commit = commit
        self._begun, self._ended = threading.Event(), threading.Event()
        self._thread: Worker | None = None

    def begun(self) -> None:
        """Take in that a transaction was begun. Called by one thread at a time."""
        if self._thread is None:
            self._thread = Worker("tgdav-commit", self._run)
            self._thread.start()
        self._begun.set()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._begun.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._begun.wait()
            self._ended.wait(GATHER_SECONDS)
            # Before the commit: a transaction that is begun after it says so again. And before the look at the end, which is
            # said first by ``stop``: cleared after it, its other word would be lost, and this thread would wait for ever.
            self._begun.clear()
            if self._ended.is_set():
                return
            self._commit()
