"""Names that differ only in Unicode form, and names of entries that conflict. Pure."""

import unicodedata
from collections.abc import Collection
from datetime import UTC, datetime

from tgdav.crdt.clocks import stamp_time_ns

CONFLICT_MARK = b" (conflict "


def nfc(name: bytes) -> bytes | None:
    """Return ``name`` in Unicode NFC; None if that is equal, or if the name is not UTF-8."""
    if name.isascii():
        return None
    try:
        normal = unicodedata.normalize("NFC", name.decode()).encode()
    except UnicodeDecodeError:
        return None
    return None if normal == name else normal


def conflict_name(name: bytes, machine: str, stamp: int, taken: Collection[bytes]) -> bytes:
    """Return ``name (conflict MACHINE DATE)`` for the later of two entries of one name, with a number if that is ``taken``."""
    day = datetime.fromtimestamp(stamp_time_ns(stamp) // 1_000_000_000, UTC).date().isoformat()
    shown, number = name + f" (conflict {machine} {day})".encode(), 2
    while shown in taken:
        shown, number = name + f" (conflict {machine} {day} {number})".encode(), number + 1
    return shown
