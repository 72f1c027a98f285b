"""``sync``: send everything that is pending, now or until nothing is."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec

from tgdav.clock import Clock
from tgdav.content.store import ContentStore
from tgdav.errors import DamageError, StoreUnavailable
from tgdav.replication.replicator import Replicator
from tgdav.vault.headers import HeaderKeeper
from tgdav.vault.stores import Stores
from tgdav.vault.upload_stats import Sums, UploadStats, difference
from tgdav.volume.background import PeriodicTasks
from tgdav.wording import utc_time_after

Progress = Callable[[str, int, int], None]

KEEP_HEADERS, JOIN, PUSH, POLL = "keeping the headers", "joining", "pushing the log", "polling the log"
"""Names of the periodic tasks whose work a sync does too."""
FLUSH_SECONDS = 3600.0
STEP_SECONDS = 5.0
SHORT_STEP_SECONDS = 0.25
SHORT_BACKOFF = 2.0
"""Seconds of backoff that a sync waits for even without ``wait``."""


class Synchronizer(msgspec.Struct, frozen=True):
    """What a sync works on. ``tasks`` is the periodic background work."""

    replicator: Replicator
    content: ContentStore
    headers: HeaderKeeper
    stores: Stores
    stats: UploadStats
    tasks: PeriodicTasks
    clock: Clock

    def pending(self) -> dict[str, int]:
        """Return what is not in the store yet."""
        return {"bytes": self.content.pending(), "operations": self.replicator.pusher.pending_operations()}

    def run(self, *, wait: bool, progress: Progress | None = None) -> dict[str, Any]:
        """Check who the writer is, then send everything that is pending; with ``wait``, return once nothing is.

        Without ``wait`` it returns as soon as the store asks for a pause, with what is pending and until when. Returns the
        ``sync`` object. Raises as ``Replicator.push``; DamageError when operations name content that this machine has lost.
        """
        before = self.stats.total()
        while True:
            try:
                with ExitStack() as retrying:
                    if not wait:
                        retrying.enter_context(self.stores.retrying.fail_fast())
                    is_done = self._send(wait, progress)
            except StoreUnavailable:
                if not self._is_backing_off():
                    raise
                is_done = self._wait_for_store(wait, progress)
            if is_done or self.tasks.is_stopping:
                return self._report(before)

    def _send(self, wait: bool, progress: Progress | None) -> bool:
        """Check, send what can be sent, and return whether that was all."""
        self.headers.ensure()
        self.replicator.poll()
        pusher = self.replicator.pusher
        stuck = pusher.oldest_unsent()
        flushed = self._flush(wait, progress)
        self.replicator.push()
        pending = self.pending()
        if wait and flushed and stuck is not None and stuck == pusher.oldest_unsent():
            raise DamageError(
                f"{pending['operations']} operations name content that this machine has lost", blob="staging"
            )
        if progress is not None:
            progress("pending bytes", 0, pending["bytes"])
        return not wait or not (pending["bytes"] or pending["operations"])

    def _report(self, before: Sums) -> dict[str, Any]:
        """Return the ``sync`` object."""
        is_backing_off = self._is_backing_off()
        if not is_backing_off:
            self.tasks.clear_errors(KEEP_HEADERS, JOIN, PUSH, POLL)
        waiting, reason = self.stores.requested_backoff if is_backing_off else (0.0, "")
        return {
            "pending": self.pending(),
            "sent": difference(self.stats.total(), before),
            "waiting_seconds": waiting,
            "waiting_for": reason or None,
            "waiting_until": utc_time_after(self.clock.now_ns(), waiting) if waiting else None,
        }

    def _is_backing_off(self) -> bool:
        return self.stores.requested_backoff[0] > SHORT_BACKOFF

    def _wait_for_store(self, wait: bool, progress: Progress | None) -> bool:
        """Return True without ``wait``; else wait for the store, one step at most, and return False."""
        seconds, reason = self.stores.requested_backoff
        if wait:
            if progress is not None:
                progress(f"waiting {seconds:.0f} s: {reason}", 0, self.content.pending())
            self.tasks.wait_for_stop(min(seconds, STEP_SECONDS))
        return not wait

    def _flush(self, wait: bool, progress: Progress | None) -> bool:
        """Send all packs; False if that takes too long, or without ``wait`` if the store asks for a pause.

        Raises what ends all sending: no login, an account that is lost.
        """
        step = STEP_SECONDS if wait else SHORT_STEP_SECONDS
        deadline = self.clock.monotonic() + FLUSH_SECONDS
        while True:
            began = self.clock.monotonic()
            if self.content.flush(step):
                return True
            problem = None if self.stores.account is None else self.stores.account.problem
            if problem is not None:
                raise type(problem)(problem.message, hint=problem.hint)
            waiting, reason = self.stores.backoff
            if progress is not None:
                stage = f"waiting {waiting:.0f} s: {reason}" if waiting else "pending bytes"
                progress(stage, 0, self.content.pending())
            now = self.clock.monotonic()
            # A flush that returns before its time has given up by itself.
            if now >= deadline or now - began < step or (not wait and self._is_backing_off()):
                return False
