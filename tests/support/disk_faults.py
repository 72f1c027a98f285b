"""Which calls of a file system fail: errors at the n-th call, a cut at the n-th call, a full disk; and call counts."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

_BYTES = {"open", "read", "write", "truncate", "fsync"}
_NAMES = {"create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "fsync-folder"}
OPERATIONS = frozenset(_BYTES | _NAMES | {"attributes"})


class PowerGone(Exception):
    """Raised when a rule cuts the power before this call."""


@dataclass
class FaultRule:
    """Matching calls from the ``after``-th on fail, ``times`` of them (None: until healed).

    ``error`` is an errno, or None for a power cut. ``suffix`` and ``under`` narrow the paths, which are relative to
    the mount: how they end, and a folder name anywhere in them.
    """

    error: int | None
    after: int = 1
    times: int | None = 1
    operations: frozenset[str] = OPERATIONS
    suffix: str = ""
    under: str = ""
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if unknown := self.operations - OPERATIONS:
            raise ValueError(f"no such operations: {sorted(unknown)}")

    def hits(self, operation: str, path: Callable[[], str]) -> bool:
        """Count the call if it matches; return whether it fails."""
        if operation not in self.operations or not self._matches(path):
            return False
        self.seen += 1
        return self.seen >= self.after and (self.times is None or self.seen < self.after + self.times)

    def _matches(self, path: Callable[[], str]) -> bool:
        if not self.suffix and not self.under:
            return True
        name = path()
        return name.endswith(self.suffix) and (not self.under or self.under in name.split("/")[:-1])


class Faults:
    """The active rules, the space left and the calls so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.free: int | None = None
        self._rules: list[FaultRule] = []

    def add(self, rule: FaultRule) -> None:
        self._rules.append(rule)

    def heal(self) -> None:
        """Drop all rules and the limit."""
        self._rules.clear()
        self.free = None

    def check(self, operation: str, path: Callable[[], str]) -> None:
        """Count a call. Raises OSError or PowerGone when a rule says so."""
        self.counts[operation] += 1
        for hit in [rule for rule in self._rules if rule.hits(operation, path)]:
            if hit.error is None:
                raise PowerGone
            self.counts["failed"] += 1
            raise OSError(hit.error, os.strerror(hit.error))

    def room(self, size: int, offset: int, length: int) -> int:
        """Return how much of a write fits, and take the growth of the file from the free space. Raises OSError (ENOSPC)."""
        if self.free is None:
            return length
        growth = max(0, offset + length - max(size, offset))
        granted = min(growth, self.free)
        fits = length - (growth - granted)
        if length and not fits:
            self.counts["full"] += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free -= granted
        return fits

    def freed(self, size: int) -> None:
        """Return ``size`` bytes to the free space."""
        if self.free is not None:
            self.free += size
