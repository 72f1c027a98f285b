"""Which ranges of which packs the disk cache holds, in order of use. Pure; the caller keeps threads apart."""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from tgdav.ids import BlobName

_NAME_DIGITS = 32
_MOST_DIGITS = 16


class CachedRange(msgspec.Struct, frozen=True):
    """``length`` sealed bytes from ``offset`` of a pack: one file of the cache."""

    pack: BlobName
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset in the pack behind the last byte."""
        return self.offset + self.length

    @property
    def folder(self) -> str:
        """Name of the folder that holds the file."""
        return self.pack.hex()[:2]

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.pack.hex()}-{self.offset:x}-{self.length:x}"

    def covers(self, offset: int, length: int) -> bool:
        """Whether the range is part of this one."""
        return self.offset <= offset and offset + length <= self.end


def parse(file: str) -> CachedRange | None:
    """Return the range that a file name stands for; None if it is not the name of any."""
    parts = file.split("-")
    if len(parts) != 3 or len(parts[0]) != _NAME_DIGITS or max(map(len, parts[1:])) > _MOST_DIGITS:
        return None
    try:
        found = CachedRange(BlobName(bytes.fromhex(parts[0])), int(parts[1], 16), int(parts[2], 16))
    except ValueError:
        return None
    return found if found.file == file and found.length else None


class CachedRanges:
    """Least recently used first. ``used``: bytes of all ranges."""

    def __init__(self) -> None:
        self._order: OrderedDict[CachedRange, int] = OrderedDict()
        self._packs: dict[BlobName, set[CachedRange]] = {}
        self.used = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, entry: CachedRange) -> bool:
        return entry in self._order

    def find(self, pack: BlobName, offset: int, length: int) -> CachedRange | None:
        """Return a range that covers this one."""
        return next((entry for entry in self._packs.get(pack, ()) if entry.covers(offset, length)), None)

    def within(self, outer: CachedRange) -> list[CachedRange]:
        """Return the other ranges that ``outer`` covers."""
        inside = self._packs.get(outer.pack, ())
        return [entry for entry in inside if entry != outer and outer.covers(entry.offset, entry.length)]

    def touching(self, pack: BlobName, offset: int, length: int) -> list[CachedRange]:
        """Return the ranges that share a byte with this one."""
        inside = self._packs.get(pack, ())
        return [entry for entry in inside if entry.offset < offset + length and offset < entry.end]

    def use(self, entry: CachedRange, now_ns: int) -> int:
        """Note that a range was used; return when it was before, ns."""
        before, self._order[entry] = self._order[entry], now_ns
        self._order.move_to_end(entry)
        return before

    def add(self, entry: CachedRange, now_ns: int, *, oldest: bool = False) -> None:
        """Take in a range, if it is new, as the one used last or as the one used longest ago."""
        if entry in self._order:
            return
        self._order[entry] = now_ns
        self._order.move_to_end(entry, last=not oldest)
        self._packs.setdefault(entry.pack, set()).add(entry)
        self.used += entry.length

    def remove(self, entry: CachedRange) -> bool:
        """Take a range out; False if it is not there."""
        if self._order.pop(entry, None) is None:
            return False
        inside = self._packs[entry.pack]
        inside.remove(entry)
        if not inside:
            del self._packs[entry.pack]
        self.used -= entry.length
        return True

    def take_oldest(self, limit: int) -> Iterator[CachedRange]:
        """Take out ranges, the one used longest ago first, until at most ``limit`` bytes are used."""
        while self.used > limit and self._order:
            entry = next(iter(self._order))
            self.remove(entry)
            yield entry
