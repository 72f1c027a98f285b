"""What goes wrong, when, and how often it did.

Each kind strikes at a point of the server's work. It is armed exactly (`arm`: the next calls of a method) or drawn at
random (`rates`: a probability a call), and every stroke is counted.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_FILES = ("upload.saveFilePart", "upload.saveBigFilePart", "upload.getFile")
_PARTS = _FILES[:2]
_SENDS = ("messages.sendMedia", "messages.sendMessage")

KINDS: dict[str, tuple[str, ...] | None] = {
    # Answers instead of work. None: any method that needs a login.
    "flood_wait": None,
    "flood_premium_wait": _FILES,
    "internal": None,
    "timeout": None,
    "rpc_call_fail": None,
    "worker_busy": None,
    "error": None,
    # Work without its answer.
    "lost_answer": None,
    "dropped_connection": None,
    "dropped_answer": None,
    "odd_answer": None,
    "half_open": None,
    "restart": None,
    "transport_404": None,
    "transport_429": None,
    "bad_salt": None,
    # Files.
    "part_refused": _PARTS,
    "part_lost": ("messages.sendMedia",),
    "part_zero_lost": ("messages.sendMedia",),
    "md5_invalid": ("messages.sendMedia",),
    "reference_expired": ("upload.getFile",),
    "reference_invalid": ("upload.getFile",),
    "reference_empty": ("upload.getFile",),
    "file_id_invalid": ("upload.getFile",),
    "short_read": ("upload.getFile",),
    "damaged_read": ("upload.getFile",),
    "other_dc": ("messages.sendMedia",),
    # Messages and updates.
    "random_id_duplicate": _SENDS,
    "noise": _SENDS,
    "update_lost": ("updates",),
    "update_late": ("updates",),
    "updates_too_long": ("updates",),
    "difference_too_long": ("updates.getDifference",),
    # Ends of a login.
    "auth_key_unregistered": None,
    "session_revoked": None,
    "session_expired": None,
    "user_deactivated": None,
}


@dataclass
class Stroke:
    """A fault about to happen; `parameters` as armed (for example `seconds`)."""

    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Armed:
    kind: str
    method: str | None
    after: int
    count: int
    parameters: dict[str, Any]


class Faults:
    """The switches of a server.

    `latency` is the round trip in seconds, `jitter` adds up to that much, `bandwidth` is bytes a second and direction.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.latency = 0.0
        self.jitter = 0.0
        self.bandwidth = 0.0
        self.rates: dict[str, float] = {}
        self.seconds = (1, 3)
        self.counts: Counter[str] = Counter()
        self._armed: list[_Armed] = []

    def arm(self, kind: str, method: str | None = None, *, after: int = 0, count: int = 1, **parameters: Any) -> None:
        """The next `count` fitting calls (of `method`, or of any the kind fits) suffer `kind`, once `after` of them went by."""
        if kind not in KINDS:
            raise ValueError(f"no fault is called {kind!r}; there are {', '.join(sorted(KINDS))}")
        self._armed.append(_Armed(kind, method, after, count, parameters))

    def set_rates(self, rates: dict[str, float]) -> None:
        """Sets the probability of each kind; those not named are off."""
        if unknown := set(rates) - set(KINDS):
            raise ValueError(f"no fault is called {sorted(unknown)}")
        self.rates = dict(rates)

    def disarm(self) -> None:
        """Nothing goes wrong any more; the counts stay."""
        self._armed.clear()
        self.rates = {}

    def strike(self, method: str, kinds: tuple[str, ...], *, drawn: bool = True) -> Stroke | None:
        """Whether one of `kinds` hits this call, and which; counted. Not `drawn`: only armed faults count."""
        stroke = self._exact(method, kinds) or (self._drawn(method, kinds) if drawn and self.rates else None)
        if stroke is not None:
            self.counts[stroke.kind] += 1
        return stroke

    def _exact(self, method: str, kinds: tuple[str, ...]) -> Stroke | None:
        for armed in self._armed:
            if armed.kind not in kinds or not _fits(armed.kind, armed.method, method):
                continue
            if armed.after:
                armed.after -= 1
                continue
            armed.count -= 1
            if not armed.count:
                self._armed.remove(armed)
            return Stroke(armed.kind, armed.parameters)
        return None

    def _drawn(self, method: str, kinds: tuple[str, ...]) -> Stroke | None:
        for kind in kinds:
            rate = self.rates.get(kind)
            if rate and _fits(kind, None, method) and self.chance.random() < rate:
                return Stroke(kind)
        return None

    def wait(self, stroke: Stroke) -> int:
        """The seconds of a flood wait."""
        return int(stroke.parameters.get("seconds", self.chance.randint(*self.seconds)))

    def delay(self) -> float:
        """Half a round trip, in seconds."""
        if not self.latency and not self.jitter:
            return 0.0
        self.counts["latency"] += 1
        return (self.latency + self.chance.random() * self.jitter) / 2

    def rate(self) -> float:
        """Bytes a second, 0 for any."""
        if self.bandwidth:
            self.counts["bandwidth"] += 1
        return self.bandwidth


def _fits(kind: str, armed_for: str | None, method: str) -> bool:
    """`armed_for` may be a family such as "upload."."""
    if armed_for is not None:
        return method == armed_for or (armed_for.endswith(".") and method.startswith(armed_for))
    allowed = KINDS[kind]
    return allowed is None or method in allowed
