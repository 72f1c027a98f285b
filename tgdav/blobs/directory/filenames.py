"""File names in a directory store: formatting, parsing and indexing them. Pure functions.

A blob is the file ``{id:016d}-{name, 32 hex digits}-{label}``; its content is exactly the blob's bytes. All other
names are ignored. The pattern has no dot, so hidden files and names that end in ``.lock``, ``.tmp`` or ``.part`` are
never blobs.
"""

import bisect
import re

import msgspec

from tgdav.errors import StoreRejected
from tgdav.ids import BlobId, BlobName

LOCK_NAME = ".lock"
"""Locked with flock for appends, deletes and scans; its content is the last assigned id in decimal digits."""

ID_DIGITS = 16
LAST_ID = 10**ID_DIGITS - 1
MAX_LABEL_CHARACTERS = 255 - ID_DIGITS - 32 - 2

# ASCII, because \d would match the digits of other scripts too.
_PATTERN = re.compile(rf"(\d{{{ID_DIGITS}}})-([0-9a-f]{{32}})-([A-Za-z0-9_-]{{0,{MAX_LABEL_CHARACTERS}}})", re.ASCII)

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}-[0-9a-f]{16}")


class Entry(msgspec.Struct, frozen=True):
    """A blob's file name and its parts."""

    id: BlobId
    name: BlobName
    label: str
    file_name: str


def make_entry(blob_id: BlobId, name: BlobName, label: str) -> Entry:
    """Return the entry of a new blob."""
    return Entry(blob_id, name, label, f"{blob_id:0{ID_DIGITS}d}-{name.hex()}-{label}")


def parse_entry(file_name: str) -> Entry | None:
    """Return the parts of a file name, or None if it is not the name of a blob."""
    match = _PATTERN.fullmatch(file_name)
    if match is None or int(match[1]) == 0:
        return None
    return Entry(BlobId(int(match[1])), BlobName(bytes.fromhex(match[2])), match[3], file_name)


def temporary_name(name: BlobName, unique: bytes) -> str:
    """Return the name of the temporary file of an append; ``unique`` is 8 random bytes.

    The writer keeps the file locked with flock, so an unlocked one was left behind by a process that died.
    """
    return f".tmp-{name.hex()}-{unique.hex()}"


def is_temporary(file_name: str) -> bool:
    """Return whether a file name was made by ``temporary_name``."""
    return _TEMPORARY.fullmatch(file_name) is not None


class DirectoryListing(msgspec.Struct, frozen=True):
    """All blobs of a directory at one moment; ``entries`` are in append order.

    If files share an id (only manual copying does that), the first by file name is the blob and the others are
    ignored. If files share a name, all are blobs, and ``by_name`` holds them in append order.
    """

    entries: tuple[Entry, ...] = ()
    by_id: dict[BlobId, Entry] = {}
    by_name: dict[BlobName, tuple[Entry, ...]] = {}

    def after(self, blob_id: BlobId) -> tuple[Entry, ...]:
        """Return the entries with greater ids."""
        return self.entries[bisect.bisect_right(self.entries, blob_id, key=lambda entry: entry.id) :]


def make_listing(entries: list[Entry]) -> DirectoryListing:
    """Sort and index the entries of a directory."""
    by_id: dict[BlobId, Entry] = {}
    by_name: dict[BlobName, tuple[Entry, ...]] = {}
    for entry in sorted(entries, key=lambda entry: entry.file_name):
        if entry.id not in by_id:
            by_id[entry.id] = entry
            by_name[entry.name] = (*by_name.get(entry.name, ()), entry)
    return DirectoryListing(tuple(by_id.values()), by_id, by_name)


def next_id(lock_file: bytes, listing: DirectoryListing) -> BlobId:
    """Return the id after the last assigned one: that of the lock file's content or of the listing, if it is higher.

    Raises StoreRejected if no id is left, which only a manually created file can cause.
    """
    digits = lock_file.strip()
    last = int(digits) if digits.isdigit() and len(digits) <= ID_DIGITS else 0
    new = max(last, listing.entries[-1].id if listing.entries else 0) + 1
    if new > LAST_ID:
        raise StoreRejected("the store has no ids left", hint="remove the file with the highest possible id from it")
    return BlobId(new)
