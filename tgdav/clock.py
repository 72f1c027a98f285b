"""Wall-clock and monotonic time, injected as a ``Clock``."""

import time
from typing import Protocol


class Clock(Protocol):
    """Source of time. Tests put in one that they move."""

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since 1970 UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()
