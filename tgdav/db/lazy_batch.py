"""Lazy jobs that share one open transaction, and the timer that commits it.

A job whose caller was not promised durability need not pay for a commit of its own. See ``tgdav.db.writer``.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tgdav.db.transaction import TransactionBatch
from tgdav.threads import Worker

COMMIT_DELAY_SECONDS = 0.03
"""How long a lazy batch stays open at most."""

MAX_JOBS = 256
"""Jobs of one lazy batch."""


@dataclass(slots=True)
class LazyBatch:
    """An open transaction of lazy jobs whose callers have their answers. ``callbacks`` run after its commit."""

    batch: TransactionBatch
    count: int = 0
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether it must be committed before it takes another job."""
        return self.count >= MAX_JOBS

    @property
    def is_nearly_full(self) -> bool:
        """Whether one more job fills it."""
        return self.count + 1 >= MAX_JOBS


class CommitTimer:
    """Calls ``commit`` COMMIT_DELAY_SECONDS after each ``start``. The first ``start`` starts the thread."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self._commit = commit
        self._started, self._stopped = threading.Event(), threading.Event()
        self._thread: Worker | None = None

    def start(self) -> None:
        """A lazy batch was opened. Only the writer's leader calls this."""
        if self._thread is None:
            self._thread = Worker("tgdav-commit", self._run)
            self._thread.start()
        self._started.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._started.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._started.wait()
            self._stopped.wait(COMMIT_DELAY_SECONDS)
            # Clear before the commit: a batch opened after it sets the event again. Clear before reading ``_stopped``:
            # ``stop`` sets ``_stopped`` first, so clearing later could lose its ``_started`` and wait forever.
            self._started.clear()
            if self._stopped.is_set():
                return
            self._commit()
