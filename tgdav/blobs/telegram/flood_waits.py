"""What Telegram asked to wait for, and until when: by method, and by data centre.

A FLOOD_WAIT holds for the method that it answered, whichever connection asks; a connection that was refused, or that
broke while it was made, rests alone. The first word counts: what was under way meanwhile and is refused as well asks
for the same rest, not for more.
"""

import threading
from collections.abc import Iterable

from tgdav.blobs.telegram.errors import TransportFlood
from tgdav.clock import Clock
from tgdav.entropy import Entropy, SystemEntropy
from tgdav.errors import StoreUnavailable

SENDING_WAITS = "; sending waits, reading works"
CONNECT_BACKOFF = 0.25
"""Seconds after a failed connection in which further requests fail at once instead of trying again each."""

JITTER, MAX_JITTER, MIN_JITTER = 0.1, 10.0, 0.2
"""A rest is longer than Telegram asked for by a random part of this share of it, within these bounds in seconds: machines
that were told to wait together do not come back together.
"""
_SENDING = ("upload.save", "messages.send", "messages.delete", "channels.delete")


class Window:
    """How many requests of one kind to have under way.

    Halved when Telegram asks for rest, for whatever was on its way then was sent in vain; one more for each window that
    passes. Thread-safe.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        self.width = most
        self._most, self._clock = most, clock
        self._lock = threading.Lock()
        self._passed, self._rests_until = 0, clock.monotonic()

    def passed(self) -> None:
        """A request was answered."""
        with self._lock:
            self._passed += 1
            if self._passed >= self.width < self._most:
                self.width, self._passed = self.width + 1, 0

    def refused(self, seconds: float) -> None:
        """Telegram asked for rest; what is refused during that is the same complaint."""
        with self._lock:
            now = self._clock.monotonic()
            if now >= self._rests_until:
                self.width, self._passed = max(1, self.width // 2), 0
            self._rests_until = max(self._rests_until, now + seconds)


class FloodWaits:
    """The rests of an account, which outlive a login. Noted in a session's loop; ``longest`` from any thread."""

    def __init__(self, clock: Clock, entropy: Entropy = SystemEntropy()) -> None:  # noqa: B008  (it has no state)
        self._clock = clock
        self._entropy = entropy
        self._windows: dict[str, Window] = {}
        self._methods: dict[type, float] = {}
        self._lines: dict[int, tuple[float, StoreUnavailable]] = {}
        self._paced_until = 0.0

    def note(self, request: type, dc: int, error: StoreUnavailable) -> None:
        """A request was answered with ``error`` by data centre ``dc``, or the line there ended with it."""
        if isinstance(error, TransportFlood):
            self.note_line(dc, error)
        elif self.left(request) < (error.retry_after or 0.0):  # else it is the same complaint once more
            self._methods[request] = self._clock.monotonic() + self._longer(error.retry_after or 0.0)

    def left(self, request: type) -> float:
        """Return the seconds that requests of this kind rest."""
        return max(0.0, self._methods.get(request, 0.0) - self._clock.monotonic())

    def window(self, kind: str, most: int) -> Window:
        """Return the window of requests of a kind, at most ``most``."""
        return self._windows.setdefault(kind, Window(most, self._clock))

    def _longer(self, seconds: float) -> float:
        """Return a rest that is longer than asked for by chance."""
        chance = int.from_bytes(self._entropy.bytes(4), "big") / 2**32
        return seconds + chance * min(max(JITTER * seconds, MIN_JITTER), MAX_JITTER)

    def note_line(self, dc: int, error: StoreUnavailable) -> None:
        """No line to a data centre could be made, or Telegram ended one because it had too many."""
        until = self._clock.monotonic() + (error.retry_after or CONNECT_BACKOFF)
        if until > self._lines.get(dc, (0.0, error))[0]:
            self._lines[dc] = (until, error)

    def note_pace(self, seconds: float) -> float:
        """Telegram slows a free account down; return the seconds to wait."""
        seconds = self._longer(seconds)
        self._paced_until = max(self._paced_until, self._clock.monotonic() + seconds)
        return seconds

    def check(self, request: type) -> None:
        """Raise StoreUnavailable while requests of this kind rest."""
        left = self.left(request)
        if left > 0:
            raise StoreUnavailable(f"Telegram asks for {left:.0f} s of rest", retry_after=left)

    def check_line(self, dc: int) -> None:
        """Raise StoreUnavailable while lines to a data centre rest."""
        until, error = self._lines.get(dc, (0.0, None))
        left = until - self._clock.monotonic()
        if error is None or left <= 0:
            return
        if error.retry_after is None or isinstance(error, TransportFlood):
            raise StoreUnavailable(error.message, retry_after=left if error.retry_after else None)
        raise StoreUnavailable(f"Telegram asks for {left:.0f} s of rest", retry_after=left)

    def longest(self) -> tuple[float, str]:
        """Return how long Telegram still asks for rest, in seconds, and with what; 0 and nothing if it does not."""
        now = self._clock.monotonic()
        resting = {method(it): until for it, until in [*self._methods.items()] if until > now}
        words = _works(resting)
        dues = [(until, f"Telegram asks for rest: FLOOD_WAIT of {it}{words}") for it, until in resting.items()]
        dues += [(until, error.message) for until, error in [*self._lines.values()]]
        dues.append((self._paced_until, "Telegram slows free accounts down: FLOOD_PREMIUM_WAIT"))
        until, reason = max(dues)
        left = until - now
        return (left, reason) if left > 0 else (0.0, "")


def _works(resting: Iterable[str]) -> str:
    """Return in words which direction still works while these methods rest."""
    sending = {it.startswith(_SENDING) for it in resting}
    if sending == {True}:
        return SENDING_WAITS
    return "; reading waits, sending works" if sending == {False} else ""


def method(request: type) -> str:
    """Return a request's name as Telegram writes it, ``messages.sendMedia``."""
    name = request.__name__.removesuffix("Request")
    return f"{request.__module__.rpartition('.')[2]}.{name[:1].lower()}{name[1:]}"
