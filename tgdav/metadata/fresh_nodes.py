"""Which nodes this process made less than a minute ago and has not begun to send: what is deleted of them leaves no trace.

Only the writer uses it, inside changes. What it does not know counts as older. It is memory alone: after a restart nothing is
fresh.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from tgdav.ids import EntryId, Inode, Position

SECONDS = 60.0
_TRIM = 4096


class FreshNodes:
    """``sealed`` is the position of the newest group that is in a segment."""

    def __init__(self) -> None:
        # Parallel arrays: a minute of unpacking makes some 100 000 nodes. Inode numbers only grow.
        self._inodes = array("q")
        self._positions = array("q")
        self._times = array("d")
        self._kept: dict[EntryId, float] = {}
        self.sealed = Position(0)
        self.removed_since: Position | None = Position(0)
        """Position from which the log may have operations to retract, None if it has none; at first all of it."""

    def add(self, inodes: Iterable[Inode], position: Position, now: float) -> None:
        """Nodes were made by the group at ``position``, at ``now`` of the monotonic clock."""
        for inode in inodes:
            self._inodes.append(inode)
            self._positions.append(position)
            self._times.append(now)
        half = len(self._times) // 2
        if half >= _TRIM and now - self._times[half] >= SECONDS:
            for values in (self._inodes, self._positions, self._times):
                del values[:half]
            # The file of a kept entry was made before it was kept.
            self._kept = {entry: time for entry, time in self._kept.items() if now - time < SECONDS}

    def keep(self, entries: Iterable[EntryId], now: float) -> None:
        """These entries replaced others, or were replaced: their files have versions, so the trash keeps them."""
        self._kept.update(dict.fromkeys(entries, now))

    def keep_directories(self, inodes: Iterable[Inode]) -> None:
        """What was in these directories is in the trash, so they are kept there too."""
        for inode in inodes:
            at = self._index(inode)
            if at is not None:
                self._positions[at] = 0

    def _index(self, inode: Inode) -> int | None:
        at = bisect_left(self._inodes, inode)
        return at if at < len(self._inodes) and self._inodes[at] == inode else None

    def is_fresh(self, inode: Inode, entry: EntryId, now: float, last_pinned: Position) -> bool:
        """Return whether a deletion of ``entry``, which names the node, may leave no trace."""
        at = self._index(inode)
        if at is None or entry in self._kept:
            return False
        position = self._positions[at]
        return now - self._times[at] < SECONDS and position > self.sealed and position > last_pinned

    def remove(self, inode: Inode) -> None:
        """A name of a fresh node is removed: its operations may be retracted."""
        self.retract_from(Position(self._positions[bisect_left(self._inodes, inode)]))

    def retract_from(self, position: Position) -> None:
        """The log may have operations to retract from a position on."""
        if self.removed_since is None or position < self.removed_since:
            self.removed_since = position

    def clear(self) -> None:
        """Changes were lost: the positions may belong to others now."""
        for values in (self._inodes, self._positions, self._times):
            del values[:]
