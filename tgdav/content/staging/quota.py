"""The bound on local bytes that are not yet in the store, and the back-pressure that keeps it.

Writers ask (``admit``) before they add; whoever adds or removes bytes says so (``charge``). The uploader only charges: it
must be able to work when writers cannot, and has a reserve that they never get.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from tgdav.clock import Clock
from tgdav.errors import LocalFailure, NoSpace

_log = logging.getLogger(__name__)

DEFAULT_BOUND = 10 * 1024**3
RESERVE = 64 * 1024**2
MIB = 1024**2
WAIT_SECONDS = 60.0
_FUTILE_SECONDS = 2.0
PRESSURE_PERCENT = 80
_FRESH_SECONDS = 0.25
_LOOK_BYTES = 16 * 1024**2
_LOOK_SECONDS = 0.05
"""How often a waiting writer looks at clock and disk again, in real time."""


class Space:
    """Bytes in staging against their bound. Thread-safe.

    ``bound``: bytes, or None for 10 GiB but at most half of what the disk would have free without them. ``reserve``: bytes
    of the bound and of the free disk that writers cannot take.
    """

    def __init__(self, folder: Path, bound: int | None, clock: Clock, *, reserve: int = RESERVE) -> None:
        self._folder = folder
        self._bound = bound
        self._clock = clock
        self._reserve = reserve
        self._changed = threading.Condition()
        self._used = 0
        self._free: int | None = None
        self._used_at_look = 0
        self._looked = 0.0
        self._refuses = False
        self.on_shortage: Callable[[], None] = _nothing
        """Called when a writer must wait; the uploader is to send what it can."""

    @property
    def used(self) -> int:
        """Bytes charged now."""
        return self._used

    @property
    def is_pressed(self) -> bool:
        """Whether open packs should be closed and sent as they are."""
        return self._used * 100 >= self.bound() * PRESSURE_PERCENT

    @property
    def lacks_disk(self) -> bool:
        """Whether writers would get more if the disk had more free: the cache is to give way."""
        bound, free = self._limits()
        return (self._bound is None and bound < DEFAULT_BOUND) or free < 2 * RESERVE

    def bound(self) -> int:
        """Return the bytes that staging may hold now."""
        return self._limits()[0]

    def charge(self, count: int) -> None:
        """Count ``count`` bytes more (negative: less)."""
        with self._changed:
            self._used = max(self._used + count, 0)
            if count < 0:
                self._changed.notify_all()

    def fits(self, count: int) -> bool:
        """Whether a writer may add ``count`` bytes now."""
        bound, free = self._limits()
        held_back = min(self._reserve, bound // 4)
        return self._used + count <= bound - held_back and count + self._reserve <= free

    def admit(self, count: int) -> None:
        """Return when a writer may add ``count`` bytes; raises NoSpace if that takes longer than 60 s.

        Where nothing waits for the store, sending frees nothing: then it takes 2 s at most, in which the cache gives way.
        """
        if self.fits(count):
            return
        _log.debug("a writer waits for staging space")
        deadline = self._clock.monotonic() + (WAIT_SECONDS if self._used else _FUTILE_SECONDS)
        while not self.fits(count):
            if self._clock.monotonic() >= deadline or self._refuses:
                raise self._shortage()
            self.on_shortage()
            with self._changed:
                self._changed.wait(_LOOK_SECONDS)

    def refuse(self) -> None:
        """Let no writer wait any more: all is about to end."""
        with self._changed:
            self._refuses = True
            self._changed.notify_all()

    def _shortage(self) -> NoSpace:
        bound, free = self._limits()
        if self._used and free >= 2 * self._reserve:
            return NoSpace(f"{self._used // MIB} MiB wait to be stored, and {bound // MIB} MiB may wait")
        return NoSpace(
            f"the disk of {self._folder} has {free // MIB} MiB free, and {self._reserve // MIB} MiB of it are kept in reserve",
            hint="free some of it; reading and deleting go on",
        )

    def _limits(self) -> tuple[int, int]:
        """Return (bound, free bytes of the disk)."""
        free = self._free_bytes()
        if self._bound is not None:
            return self._bound, free
        return min(DEFAULT_BOUND, (free + self._used) // 2), free

    def _free_bytes(self) -> int:
        """Return the disk's free bytes, asked anew where they run short, soon change, or were asked a while ago."""
        now, drift = self._clock.monotonic(), abs(self._used - self._used_at_look)
        near = self._free is None or self._free < self._reserve + _LOOK_BYTES
        if self._free is None or near or drift > _LOOK_BYTES or now - self._looked > _FRESH_SECONDS:
            try:
                disk = os.statvfs(self._folder)
            except OSError as error:
                raise LocalFailure(f"the staging folder cannot be used: {error.strerror}") from error
            self._free, self._used_at_look, self._looked = disk.f_bavail * disk.f_frsize, self._used, now
        return self._free


def _nothing() -> None:
    return
