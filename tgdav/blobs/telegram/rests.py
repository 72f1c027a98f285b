"""What Telegram asked to wait for, and until when: by method, and by data centre.

A FLOOD_WAIT holds for the method that it answered, whichever connection asks; a connection that was refused, or that
broke while it was made, rests alone. The first word counts: what was under way meanwhile and is refused as well asks
for the same rest, not for more.
"""

from tgdav.blobs.telegram.errors import TransportFlood
from tgdav.clock import Clock
from tgdav.errors import StoreUnavailable

REST_AFTER_FAILURE = 0.25
"""Seconds after a failed connection in which further requests fail at once instead of trying again each."""


class Rests:
    """The rests of an account, which outlive a login. Noted in a session's loop; ``longest`` from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._methods: dict[type, float] = {}
        self._lines: dict[int, tuple[float, StoreUnavailable]] = {}
        self._paced_until = 0.0

    def note(self, request: type, dc: int, error: StoreUnavailable) -> None:
        """A request was answered with ``error`` by data centre ``dc``, or the line there ended with it."""
        if isinstance(error, TransportFlood):
            self.note_line(dc, error)
        elif error.retry_after is not None:
            until = self._clock.monotonic() + error.retry_after
            self._methods[request] = max(until, self._methods.get(request, 0.0))

    def note_line(self, dc: int, error: StoreUnavailable) -> None:
        """No line to a data centre could be made, or Telegram ended one because it had too many."""
        until = self._clock.monotonic() + (error.retry_after or REST_AFTER_FAILURE)
        if until > self._lines.get(dc, (0.0, error))[0]:
            self._lines[dc] = (until, error)

    def note_pace(self, seconds: float) -> None:
        """Telegram slows a free account down."""
        self._paced_until = max(self._paced_until, self._clock.monotonic() + seconds)

    def check(self, request: type) -> None:
        """Raise StoreUnavailable while requests of this kind rest."""
        left = self._methods.get(request, 0.0) - self._clock.monotonic()
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
        dues = [
            (until, f"Telegram asks for rest: FLOOD_WAIT of {method(it)}") for it, until in [*self._methods.items()]
        ]
        dues += [(until, error.message) for until, error in [*self._lines.values()]]
        dues.append((self._paced_until, "Telegram slows free accounts down: FLOOD_PREMIUM_WAIT"))
        until, reason = max(dues)
        left = until - self._clock.monotonic()
        return (left, reason) if left > 0 else (0.0, "")


def method(request: type) -> str:
    """Return a request's name as Telegram writes it, ``messages.sendMedia``."""
    name = request.__name__.removesuffix("Request")
    return f"{request.__module__.rpartition('.')[2]}.{name[:1].lower()}{name[1:]}"
