"""Names of the files in a directory store: pure, both ways.

A blob is the file ``{id:016d}-{name, 32 hex digits}-{label}``; its content is the blob's bytes and nothing else. Names
that begin with a dot, end in ``.lock``, ``.tmp`` or ``.part``, or do not parse, are no blobs: the first kinds follow
from the pattern, which has no dot.
"""

import bisect
import re

import msgspec

from tgdav.errors import StoreRejected
from tgdav.ids import BlobId, BlobName

LOCK_NAME = ".lock"
"""Locked with flock by whoever appends or scans; holds the last id given, as decimal digits."""

ID_DIGITS = 16
LAST_ID = 10**ID_DIGITS - 1
MAX_LABEL_CHARACTERS = 255 - ID_DIGITS - 32 - 2

_PATTERN = re.compile(rf"(\d{{{ID_DIGITS}}})-([0-9a-f]{{32}})-([A-Za-z0-9_-]{{0,{MAX_LABEL_CHARACTERS}}})", re.ASCII)

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}-[0-9a-f]{16}")


class Entry(msgspec.Struct, frozen=True):
    """One blob's file name and what it says."""

    id: BlobId
    name: BlobName
    label: str
    file_name: str


def make_entry(blob_id: BlobId, name: BlobName, label: str) -> Entry:
    """Return the entry of a new blob."""
    return Entry(blob_id, name, label, f"{blob_id:0{ID_DIGITS}d}-{name.hex()}-{label}")


def parse_entry(file_name: str) -> Entry | None:
    """Return what a file name says, or None if it is no blob's."""
    match = _PATTERN.fullmatch(file_name)
    if match is None or int(match[1]) == 0:
        return None
    return Entry(BlobId(int(match[1])), BlobName(bytes.fromhex(match[2])), match[3], file_name)


def temporary_name(name: BlobName, unique: bytes) -> str:
    """Return the name of a file being written; ``unique`` is 8 random bytes.

    Its writer holds it locked with flock, so one that is not locked is a dead writer's.
    """
    return f".tmp-{name.hex()}-{unique.hex()}"


def is_temporary(file_name: str) -> bool:
    """Return whether a file name is one that ``temporary_name`` makes."""
    return _TEMPORARY.fullmatch(file_name) is not None


class Listing(msgspec.Struct, frozen=True):
    """All blobs of a folder at one moment.

    ``entries`` in append order. Where files share an id (only copying by hand does that), the first by file name has
    it and the others are no blobs. Where files share a name, all are blobs and ``by_name`` has them in append order.
    """

    entries: tuple[Entry, ...] = ()
    by_id: dict[BlobId, Entry] = {}
    by_name: dict[BlobName, tuple[Entry, ...]] = {}

    def after(self, blob_id: BlobId) -> tuple[Entry, ...]:
        """Return the entries with higher ids."""
        return self.entries[bisect.bisect_right(self.entries, blob_id, key=lambda entry: entry.id) :]


def make_listing(entries: list[Entry]) -> Listing:
    """Sort and index the entries of a folder."""
    by_id: dict[BlobId, Entry] = {}
    by_name: dict[BlobName, tuple[Entry, ...]] = {}
    for entry in sorted(entries, key=lambda entry: entry.file_name):
        if entry.id not in by_id:
            by_id[entry.id] = entry
            by_name[entry.name] = (*by_name.get(entry.name, ()), entry)
    return Listing(tuple(by_id.values()), by_id, by_name)


def next_id(remembered: bytes, listing: Listing) -> BlobId:
    """Return the id after the highest ever given: the lock file's content, or what is there if that is lost.

    Raises StoreRejected when the digits are used up, which only a file put there by hand can cause.
    """
    digits = remembered.strip()
    last = int(digits) if digits.isdigit() and len(digits) <= ID_DIGITS else 0
    new = max(last, listing.entries[-1].id if listing.entries else 0) + 1
    if new > LAST_ID:
        raise StoreRejected("the store has no more ids", hint="a file in it has the highest possible number")
    return BlobId(new)
