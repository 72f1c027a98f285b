"""Remembers files that were renamed away a moment ago, so that what takes their name continues their history. Pure.

Many editors save by renaming the old file to a backup and filling its name again; some delete the backup afterwards. Both
programs and people do that on one machine, so nothing of this is logged or survives the process: the operations say what follows.
"""

from tgdav.ids import EntryId, Inode

FILL_NS = 60_000_000_000
"""A name that is filled later has nothing to do with the file that left it."""
BACKUP_NS = 600_000_000_000
"""A backup that is deleted later is an ordinary file."""
LIMIT = 256
"""Most departures, and most backups, that are remembered."""

Name = tuple[Inode, bytes]


class Departures:
    """Of one file system. Used only inside changes, whose time (ns) is given. A change that fails may leave something behind."""

    def __init__(self) -> None:
        self._left: dict[Name, tuple[EntryId, int]] = {}
        self._successors: dict[EntryId, tuple[EntryId, int]] = {}

    def leave(self, name: Name, entry: EntryId, time: int) -> None:
        """The entry of a file is renamed away from ``name``."""
        self._left.pop(name, None)
        self._left[name] = entry, time
        _shorten(self._left)

    def fill(self, name: Name, entry: EntryId, time: int) -> EntryId | None:
        """A file gets a name that is free, with the entry ``entry``; return the entry that left it less than a minute ago."""
        former, left = self._left.pop(name, (None, 0)) if self._left else (None, 0)
        if former is None or former == entry or not 0 <= time - left < FILL_NS:
            return None
        self._successors.pop(former, None)
        self._successors[former] = entry, time
        _shorten(self._successors)
        return former

    def successor(self, entry: EntryId, time: int) -> EntryId | None:
        """Return the entry of which ``entry`` is a backup that was made a moment ago."""
        found, filled = self._successors.get(entry, (None, 0))
        return found if found is not None and 0 <= time - filled < BACKUP_NS else None


def _shorten(remembered: dict[Name, tuple[EntryId, int]] | dict[EntryId, tuple[EntryId, int]]) -> None:
    if len(remembered) > LIMIT:
        # The first is the oldest.
        del remembered[next(iter(remembered))]  # type: ignore[arg-type]
