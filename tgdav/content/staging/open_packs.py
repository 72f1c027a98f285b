"""Open packs that no stream is writing to: streams acquire and release them, the uploader claims those it closes."""

import threading

from tgdav.clock import Clock
from tgdav.content.format.pack import largest_padded, plan
from tgdav.content.staging.pack_file import PackFile, StagingDirectory


class OpenPacks:
    """Gives each open pack to one owner at a time. Thread-safe. ``chunk_size``: the largest closed pack, bytes."""

    def __init__(self, staging: StagingDirectory, clock: Clock, chunk_size: int) -> None:
        self._staging = staging
        self._clock = clock
        self._max_size = largest_padded(chunk_size)
        self._lock = threading.Lock()
        self._idle: dict[str, PackFile] = {}
        self._full: list[PackFile] = []

    @property
    def max_size(self) -> int:
        """Size in bytes of a full pack."""
        return self._max_size

    def has_room(self, pack: PackFile, stored: int) -> bool:
        """Whether a sealed chunk of ``stored`` bytes fits into a pack."""
        return self.fits(pack.length + stored, pack.count + 1)

    def fits(self, data_end: int, count: int) -> bool:
        """Whether ``count`` chunks that end at ``data_end`` fit into one pack."""
        return plan(data_end, count).size <= self._max_size

    def acquire(self, stored: int, epoch: int) -> PackFile:
        """Return an open pack with room for a sealed chunk of ``stored`` bytes: the fullest idle one, or a new one."""
        with self._lock:
            roomy = [pack for pack in self._idle.values() if pack.epoch == epoch and self.has_room(pack, stored)]
            # The fullest: few packs are open at a time, and they become full one after another.
            if roomy:
                return self._idle.pop(max(roomy, key=lambda pack: pack.length).file)
        return self._staging.create(epoch)

    def release(self, pack: PackFile, *, full: bool = False) -> None:
        """Give a pack back. It is removed if no commit references it; a full or poisoned one waits to be closed."""
        if not pack.end:
            # No commit references it: its streams failed or stored known chunks only.
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
        """Return the packs without an owner."""
        with self._lock:
            return list(self._idle.values())

    def claim(self, pack: PackFile) -> bool:
        """Take an idle pack to close it; False if a stream acquired it meanwhile."""
        with self._lock:
            return self._idle.pop(pack.file, None) is not None

    def set_aside(self, file: str) -> None:
        """Let nothing more be appended to an idle pack: it waits to be closed."""
        with self._lock:
            pack = self._idle.pop(file, None)
            if pack is not None:
                self._full.append(pack)

    def claim_full(self) -> PackFile | None:
        """Take a pack that waits to be closed, if there is one."""
        with self._lock:
            return self._full.pop() if self._full else None

    def has_full(self) -> bool:
        """Whether a pack waits to be closed."""
        return bool(self._full)

    def close(self) -> None:
        """Close the descriptors of all packs here; the files stay for the next start."""
        with self._lock:
            for pack in [*self._idle.values(), *self._full]:
                pack.close()
            self._idle, self._full = {}, []
