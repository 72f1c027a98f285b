"""What is known to be damaged now: reported when met, and again when it reads well."""

import threading
from collections.abc import Callable

from tgdav.ids import ChunkId

OnDamage = Callable[[str, str, str], None]
"""Called with (blob: hex name or role, kind, reason in plain words) each time a check fails. Must not raise."""
OnHealed = Callable[[str], None]
"""Called with a blob when all that failed in it has been read well since. Must not raise."""


class Health:
    """Damage met since the start, by blob. Thread-safe; calls its callbacks outside its lock."""

    def __init__(self, on_damage: OnDamage, on_healed: OnHealed) -> None:
        self._on_damage = on_damage
        self._on_healed = on_healed
        self._lock = threading.Lock()
        self._bad: dict[str, set[ChunkId | None]] = {}

    def failed(self, blob: str, kind: str, reason: str, chunk: ChunkId | None) -> None:
        """A chunk of ``blob`` failed, or (None) the whole blob is missing."""
        with self._lock:
            self._bad.setdefault(blob, set()).add(chunk)
        self._on_damage(blob, kind, reason)

    def read_well(self, blob: str, chunk: ChunkId) -> None:
        """A chunk was read from ``blob``'s place and passed every check."""
        if not self._bad:
            return
        with self._lock:
            bad = self._bad.get(blob)
            if bad is None:
                return
            bad -= {chunk, None}
            if bad:
                return
            del self._bad[blob]
        self._on_healed(blob)
