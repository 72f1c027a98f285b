"""How long Telegram told this account to wait (FLOOD_WAIT), and how much to send afterwards.

A FLOOD_WAIT applies to the method that it answered, on every connection. A refused or failed connection attempt
applies to its data centre alone. Requests that were in flight when the first refusal arrived are refused too; these
further refusals count as the same one (https://core.telegram.org/api/errors#420-flood).
"""

import threading
from collections.abc import Iterable

import msgspec

from tgdav.blobs.telegram.errors import TransportFlood
from tgdav.clock import Clock
from tgdav.entropy import Entropy, SystemEntropy
from tgdav.errors import StoreUnavailable

SENDING_WAITS = "; sending waits, reading works"
CONNECT_BACKOFF = 0.25
"""Seconds after a failed connection attempt in which requests fail at once instead of each trying to connect."""

JITTER, MAX_JITTER, MIN_JITTER = 0.1, 10.0, 0.2
"""A wait is extended by a random part of this share of it, within these bounds in seconds, so that machines that were
told to wait at the same time do not return at the same time.
"""
_SENDING = ("upload.save", "messages.send", "messages.delete", "channels.delete")

MIN_INTERVAL = 0.1
MAX_INTERVAL = 30.0
_RECOVERY = 0.95


class RequestWindow:
    """The number of concurrent requests of one kind (a congestion window). Thread-safe.

    It is halved at a FLOOD_WAIT, because everything in flight was then sent in vain, and grows by one after as many
    successful requests as it is wide.
    """

    def __init__(self, max_width: int, clock: Clock) -> None:
        self.width = max_width
        self._max_width, self._clock = max_width, clock
        self._lock = threading.Lock()
        self._successes, self._wait_until = 0, clock.monotonic()

    def on_success(self) -> None:
        """Count a successful request."""
        with self._lock:
            self._successes += 1
            if self._successes >= self.width < self._max_width:
                self.width, self._successes = self.width + 1, 0

    def on_flood_wait(self, seconds: float) -> None:
        """Halve the window, unless an earlier FLOOD_WAIT has not ended."""
        with self._lock:
            now = self._clock.monotonic()
            if now >= self._wait_until:
                self.width, self._successes = max(1, self.width // 2), 0
            self._wait_until = max(self._wait_until, now + seconds)


class Pace(msgspec.Struct):
    """The learnt interval between messages, in seconds, and when the next may be sent. Times are monotonic."""

    interval: float = 0.0
    next_at: float = 0.0
    wait_until: float = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until the next message may be sent."""
        return max(0.0, self.next_at - now)

    def reserve(self, now: float) -> None:
        """Reserve the next slot for a message."""
        self.next_at = max(now, self.next_at) + self.interval

    def on_flood_wait(self, now: float, seconds: float) -> None:
        """Double the interval, unless an earlier FLOOD_WAIT has not ended, and send nothing for ``seconds``."""
        if now >= self.wait_until:
            self.interval = min(MAX_INTERVAL, max(MIN_INTERVAL, self.interval * 2))
        self.wait_until = max(self.wait_until, now + seconds)
        self.next_at = max(self.next_at, self.wait_until)

    def on_success(self) -> None:
        """Shorten the interval a little."""
        self.interval *= _RECOVERY
        if self.interval < MIN_INTERVAL / 2:
            self.interval = 0.0


class FloodWaits:
    """The waits of an account; they outlive a login. ``record…`` is called in the session's loop, the rest anywhere."""

    def __init__(self, clock: Clock, entropy: Entropy = SystemEntropy()) -> None:  # noqa: B008  (it has no state)
        self._clock = clock
        self._entropy = entropy
        self._windows: dict[str, RequestWindow] = {}
        self._methods: dict[type, float] = {}
        self._refusals: dict[int, tuple[float, StoreUnavailable]] = {}
        self._slowed_until = 0.0

    def record(self, request: type, dc: int, error: StoreUnavailable) -> None:
        """Record the error that data centre ``dc`` answered a request with, or that ended the connection to it."""
        if isinstance(error, TransportFlood):
            self.record_refusal(dc, error)
        elif self.remaining(request) < (error.retry_after or 0.0):  # otherwise this repeats a FLOOD_WAIT
            self._methods[request] = self._clock.monotonic() + self._with_jitter(error.retry_after or 0.0)

    def record_refusal(self, dc: int, error: StoreUnavailable) -> None:
        """Record that no connection to a data centre could be made, or that Telegram closed one because of too many."""
        until = self._clock.monotonic() + (error.retry_after or CONNECT_BACKOFF)
        if until > self._refusals.get(dc, (0.0, error))[0]:
            self._refusals[dc] = (until, error)

    def record_slowdown(self, seconds: float) -> float:
        """Record a FLOOD_PREMIUM_WAIT, which slows free accounts down; return the seconds to wait."""
        seconds = self._with_jitter(seconds)
        self._slowed_until = max(self._slowed_until, self._clock.monotonic() + seconds)
        return seconds

    def _with_jitter(self, seconds: float) -> float:
        chance = int.from_bytes(self._entropy.bytes(4), "big") / 2**32
        return seconds + chance * min(max(JITTER * seconds, MIN_JITTER), MAX_JITTER)

    def remaining(self, request: type) -> float:
        """Return the seconds for which requests of this type must wait."""
        return max(0.0, self._methods.get(request, 0.0) - self._clock.monotonic())

    def window(self, kind: str, max_width: int) -> RequestWindow:
        """Return the window of a kind of requests, created with ``max_width`` at the first call."""
        return self._windows.setdefault(kind, RequestWindow(max_width, self._clock))

    def check(self, request: type) -> None:
        """Raise StoreUnavailable while requests of this type must wait."""
        remaining = self.remaining(request)
        if remaining > 0:
            raise _wait(remaining)

    def check_connection(self, dc: int) -> None:
        """Raise StoreUnavailable while connections to a data centre must wait."""
        until, error = self._refusals.get(dc, (0.0, None))
        remaining = until - self._clock.monotonic()
        if error is None or remaining <= 0:
            return
        if error.retry_after is None or isinstance(error, TransportFlood):
            raise StoreUnavailable(error.message, retry_after=remaining if error.retry_after else None)
        raise _wait(remaining)

    def longest(self) -> tuple[float, str]:
        """Return the seconds until the last wait ends, and its reason; (0, "") if nothing waits."""
        now = self._clock.monotonic()
        waiting = {method(it): until for it, until in [*self._methods.items()] if until > now}
        effect = _effect(waiting)
        waits = [(until, f"Telegram limits the rate: FLOOD_WAIT of {it}{effect}") for it, until in waiting.items()]
        waits += [(until, error.message) for until, error in [*self._refusals.values()]]
        waits.append((self._slowed_until, "Telegram slows free accounts down: FLOOD_PREMIUM_WAIT"))
        until, reason = max(waits)
        remaining = until - now
        return (remaining, reason) if remaining > 0 else (0.0, "")


def _wait(seconds: float) -> StoreUnavailable:
    return StoreUnavailable(f"Telegram requires a wait of {seconds:.0f} s", retry_after=seconds)


def _effect(methods: Iterable[str]) -> str:
    """Return which direction still works while these methods must wait, for the end of a message."""
    sending = {it.startswith(_SENDING) for it in methods}
    if sending == {True}:
        return SENDING_WAITS
    return "; reading waits, sending works" if sending == {False} else ""


def method(request: type) -> str:
    """Return a request's name in Telegram's spelling, such as ``messages.sendMedia``."""
    name = request.__name__.removesuffix("Request")
    return f"{request.__module__.rpartition('.')[2]}.{name[:1].lower()}{name[1:]}"
