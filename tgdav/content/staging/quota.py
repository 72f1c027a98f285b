"""The limit on local bytes that are not yet in the store, and the back-pressure that enforces it.

A writer asks with ``admit`` before it adds bytes. Whoever adds or removes bytes calls ``charge``. The uploader only charges:
it must be able to work when writers cannot, so it has a reserve that writers never get.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from tgdav.clock import Clock
from tgdav.errors import LocalFailure, NoSpace

_log = logging.getLogger(__name__)

DEFAULT_LIMIT = 10 * 1024**3
RESERVE = 64 * 1024**2
MIB = 1024**2
WAIT_SECONDS = 60.0
_FUTILE_SECONDS = 2.0
NEARLY_FULL_PERCENT = 80
_FRESH_SECONDS = 0.25
_POLL_BYTES = 16 * 1024**2
_POLL_SECONDS = 0.05
"""How often a waiting writer checks clock and disk again, in real time."""


class StagingQuota:
    """Bytes in staging, and their limit. Thread-safe.

    ``limit``: bytes, or None for 10 GiB but at most half of what the disk would have free without the staged bytes.
    ``reserve``: bytes of the limit and of the free disk space that writers cannot use.
    """

    def __init__(self, directory: Path, limit: int | None, clock: Clock, *, reserve: int = RESERVE) -> None:
        self._directory = directory
        self._limit = limit
        self._clock = clock
        self._reserve = reserve
        self._changed = threading.Condition()
        self._used = 0
        self._free: int | None = None
        self._used_at_poll = 0
        self._polled = 0.0
        self._is_stopping = False
        self.on_shortage: Callable[[], None] = _nothing
        """Called when a writer has to wait; the uploader should send what it can."""

    @property
    def used(self) -> int:
        """Bytes charged now."""
        return self._used

    @property
    def is_nearly_full(self) -> bool:
        """Whether open packs should be closed and sent as they are."""
        return self._used * 100 >= self.limit() * NEARLY_FULL_PERCENT

    @property
    def is_disk_low(self) -> bool:
        """Whether writers would get more if the disk had more free space: the disk cache should shrink."""
        limit, free = self._limits()
        return (self._limit is None and limit < DEFAULT_LIMIT) or free < 2 * RESERVE

    def limit(self) -> int:
        """Return the bytes that staging may hold now."""
        return self._limits()[0]

    def charge(self, count: int) -> None:
        """Count ``count`` bytes more (negative: fewer)."""
        with self._changed:
            self._used = max(self._used + count, 0)
            if count < 0:
                self._changed.notify_all()

    def fits(self, count: int) -> bool:
        """Whether a writer may add ``count`` bytes now."""
        limit, free = self._limits()
        reserved = min(self._reserve, limit // 4)  # a small limit must not be all reserve
        return self._used + count <= limit - reserved and count + self._reserve <= free

    def admit(self, count: int) -> None:
        """Return when a writer may add ``count`` bytes; raises NoSpace after 60 s.

        If nothing is staged, uploading frees nothing: then after 2 s, in which the disk cache shrinks.
        """
        if self.fits(count):
            return
        _log.debug("a writer waits for staging space")
        deadline = self._clock.monotonic() + (WAIT_SECONDS if self._used else _FUTILE_SECONDS)
        while not self.fits(count):
            if self._clock.monotonic() >= deadline or self._is_stopping:
                raise self._shortage()
            self.on_shortage()
            # In real time: ``charge`` wakes this thread, but nothing reports that the disk has more space.
            with self._changed:
                self._changed.wait(_POLL_SECONDS)

    def stop_waiting(self) -> None:
        """Fail the writers that wait, now and later: the process is about to stop."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def _shortage(self) -> NoSpace:
        limit, free = self._limits()
        if self._used and free >= 2 * self._reserve:
            return NoSpace(f"{self._used // MIB} MiB wait to be stored, and the limit is {limit // MIB} MiB")
        return NoSpace(
            f"the disk of {self._directory} has {free // MIB} MiB free, of which {self._reserve // MIB} MiB are reserved",
            hint="free some disk space; reading and deleting still work",
        )

    def _limits(self) -> tuple[int, int]:
        """Return (limit, free bytes of the disk)."""
        free = self._free_bytes()
        if self._limit is not None:
            return self._limit, free
        return min(DEFAULT_LIMIT, (free + self._used) // 2), free

    def _free_bytes(self) -> int:
        """Return the free bytes of the disk.

        They are read again if they are old or scarce, or if much was charged since: statvfs for every chunk is too slow.
        """
        now, drift = self._clock.monotonic(), abs(self._used - self._used_at_poll)
        scarce = self._free is None or self._free < self._reserve + _POLL_BYTES
        if self._free is None or scarce or drift > _POLL_BYTES or now - self._polled > _FRESH_SECONDS:
            try:
                disk = os.statvfs(self._directory)
            except OSError as error:
                raise LocalFailure(f"the staging directory cannot be used: {error.strerror}") from error
            self._free, self._used_at_poll, self._polled = disk.f_bavail * disk.f_frsize, self._used, now
        return self._free


def _nothing() -> None:
    return
