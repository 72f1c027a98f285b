"""Wall-clock and monotonic time, injected as a ``Clock``."""

import sys
import time
from typing import Protocol

_REALTIME_COARSE = 5
"""CLOCK_REALTIME_COARSE of clock_gettime(2) on Linux, for which Python has no name."""


class Clock(Protocol):
    """Wall-clock and monotonic time. Tests pass in one that they control."""

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since 1970 UTC."""
        ...

    def file_time_ns(self) -> int:
        """Wall-clock time at the resolution at which file systems stamp files, nanoseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never decreases."""
        ...


class SystemClock:
    """The operating system's clock."""

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since 1970 UTC."""
        return time.time_ns()

    def file_time_ns(self) -> int:
        """Wall-clock time at the resolution at which file systems stamp files, nanoseconds since 1970 UTC."""
        # The kernel stamps what is written through a mount with a clock that ticks every few milliseconds. With a finer one
        # a file that was just created would seem newer than one that was written after it.
        return time.clock_gettime_ns(_REALTIME_COARSE) if sys.platform == "linux" else time.time_ns()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never decreases."""
        return time.monotonic()
