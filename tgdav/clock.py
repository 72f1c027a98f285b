"""Wall-clock and monotonic time, injected as a ``Clock``."""

import sys
import time
from typing import Protocol

_REALTIME_COARSE = 5
"""CLOCK_REALTIME_COARSE of clock_gettime(2) on Linux, for which Python has no name."""


class Clock(Protocol):
    """Source of time. Tests put in one that they move."""

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since 1970 UTC."""
        ...

    def file_time_ns(self) -> int:
        """Wall-clock time as a file system stamps its files with it, nanoseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since 1970 UTC."""
        return time.time_ns()

    def file_time_ns(self) -> int:
        """Wall-clock time as a file system stamps its files with it, nanoseconds since 1970 UTC."""
        # The kernel stamps what is written through a mount with a clock that ticks every few milliseconds. With a finer one
        # a file that was just created would seem newer than one that was written after it.
        return time.clock_gettime_ns(_REALTIME_COARSE) if sys.platform == "linux" else time.time_ns()

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()
