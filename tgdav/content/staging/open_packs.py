"""Open packs that nobody writes to just now: streams take one or make one, the uploader takes those it closes."""

import threading

from tgdav.clock import Clock
from tgdav.content.format.pack import largest_padded, plan
from tgdav.content.staging.pack_file import PackFile, Staging


class PackPool:
    """Hands each open pack to one owner at a time. Thread-safe.

    ``chunk_size``: bytes that a closed pack does not exceed.
    """

    def __init__(self, staging: Staging, clock: Clock, chunk_size: int) -> None:
        self._staging = staging
        self._clock = clock
        self._limit = largest_padded(chunk_size)
        self._lock = threading.Lock()
        self._idle: dict[str, PackFile] = {}
        self._full: list[PackFile] = []

    @property
    def limit(self) -> int:
        """Size in bytes of a pack as full as it may be."""
        return self._limit

    def has_room(self, pack: PackFile, stored: int) -> bool:
        """Whether a sealed chunk of ``stored`` bytes still fits."""
        return self.fits(pack.length + stored, pack.count + 1)

    def fits(self, data_end: int, count: int) -> bool:
        """Whether ``count`` chunks that end at ``data_end`` fit one pack."""
        return plan(data_end, count).size <= self._limit

    def take(self, stored: int, epoch: int) -> PackFile:
        """Return an open pack with room for a sealed chunk of ``stored`` bytes: the fullest idle one, else a new one."""
        with self._lock:
            roomy = [pack for pack in self._idle.values() if pack.epoch == epoch and self.has_room(pack, stored)]
            if roomy:
                return self._idle.pop(max(roomy, key=lambda pack: pack.length).file)
        return self._staging.create(epoch)

    def give_back(self, pack: PackFile, *, full: bool = False) -> None:
        """Let go of a pack. One that no commit names is removed; a full or poisoned one is kept for closing."""
        if not pack.end:
            pack.close()
            self._staging.remove(pack.file)
            return
        pack.touched = self._clock.monotonic()
        with self._lock:
            if full or pack.is_poisoned:
                self._full.append(pack)
            else:
                self._idle[pack.file] = pack

    def idle(self) -> list[PackFile]:
        """Return the packs that wait for an owner."""
        with self._lock:
            return list(self._idle.values())

    def claim(self, pack: PackFile) -> bool:
        """Take an idle pack for closing; False if a stream was faster."""
        with self._lock:
            return self._idle.pop(pack.file, None) is not None

    def claim_full(self) -> PackFile | None:
        """Take a pack that only waits to be closed, if there is one."""
        with self._lock:
            return self._full.pop() if self._full else None

    def has_full(self) -> bool:
        """Whether a pack only waits to be closed."""
        return bool(self._full)

    def close(self) -> None:
        """Close the descriptors of all packs here; the files stay for the next start."""
        with self._lock:
            for pack in [*self._idle.values(), *self._full]:
                pack.close()
            self._idle, self._full = {}, []
