"""The conditions of ``find``, and how they are written. Pure."""

import os
import re
import unicodedata
from collections.abc import Callable
from datetime import datetime
from fnmatch import translate

from tgdav.cli.files.access import Entry
from tgdav.errors import UsageError
from tgdav.metadata.types import Kind

Condition = Callable[[Entry], bool]

KINDS = {
    "f": Kind.FILE,
    "d": Kind.DIRECTORY,
    "l": Kind.SYMLINK,
    "p": Kind.FIFO,
    "s": Kind.SOCKET,
    "c": Kind.CHARACTER_DEVICE,
    "b": Kind.BLOCK_DEVICE,
}
"""The types by the letters that find(1) uses."""

_SIZE = re.compile(r"([+-]?)(\d{1,18})([kMGT]?)(?:i?B)?")
_AGE = re.compile(r"(\d{1,9})(s|min|h|d|w)")
_UNIT_BYTES = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_UNIT_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SECOND = 1_000_000_000


def is_named(glob: str, *, ignores_case: bool) -> Condition:
    """Return whether the last name of a path matches; composed and decomposed letters are the same."""
    pattern = re.compile(translate(unicodedata.normalize("NFC", glob)), re.IGNORECASE if ignores_case else 0)
    return lambda entry: pattern.match(_text(entry.path.rpartition(b"/")[2])) is not None


def _text(name: bytes) -> str:
    return unicodedata.normalize("NFC", os.fsdecode(name))


def is_of_kind(letter: str) -> Condition:
    """Return whether an entry is of one of ``KINDS``."""
    kind = KINDS[letter]
    return lambda entry: entry.kind == kind


def parse_size(text: str) -> Condition:
    """Return the condition of ``[+|-]N[k|M|G|T]``. Raises UsageError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"--size: '{text}' is not a size", hint="write it as 4096, +10M (more) or -1k (fewer)")
    size = int(match[2]) * _UNIT_BYTES[match[3]]
    if match[1] == "+":
        return lambda entry: entry.size > size
    if match[1] == "-":
        return lambda entry: entry.size < size
    return lambda entry: entry.size == size


def is_since(moment: int) -> Condition:
    """Return whether an entry was changed after a time in ns since 1970."""
    return lambda entry: entry.mtime > moment


def is_before(moment: int) -> Condition:
    """Return whether an entry was changed before a time in ns since 1970."""
    return lambda entry: entry.mtime < moment


def parse_time(text: str, now: int) -> int:
    """Return the time that an age (``7d``) or a time (``2026-12-01``, ``2026-12-01T10:00``) means, in ns since 1970.

    A time without a zone is this machine's. Raises UsageError.
    """
    age = _AGE.fullmatch(text)
    if age is not None:
        return now - int(age[1]) * _UNIT_SECONDS[age[2]] * _SECOND
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * _SECOND)
    except (ValueError, OverflowError, OSError):
        hint = "write an age (30min, 12h, 7d, 4w), a time (2026-12-01, 2026-12-01T10:00), or the path of a file"
        raise UsageError(f"'{text}' is not a time", hint=hint) from None
