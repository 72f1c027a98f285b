"""Formats values for people: sizes, durations, times, names of machines. Pure."""

import difflib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

_SHORT_ID = 8
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def readable_size(count: int) -> str:
    """Return a number of bytes as text, such as ``1.5 GiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 1024 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def readable_duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``2 d 3 h``, ``1 h 5 min``, ``3 min 12 s``, ``0 s``."""
    whole = max(0, round(seconds))
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            remainder = whole % size // part
            return f"{whole // size} {unit}" + (f" {remainder} {smaller}" if remainder else "")
    return f"{whole} s"


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 file``, ``2 files``. The default plural is the singular and an s."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def iso_time(time_ns: int) -> str:
    """Return a time in ns since 1970 in ISO 8601 format, UTC."""
    seconds, remainder = divmod(time_ns, 1_000_000_000)
    return (
        datetime.fromtimestamp(seconds, UTC).replace(microsecond=remainder // 1000).isoformat().replace("+00:00", "Z")
    )


def utc_time_after(time_ns: int, seconds: float) -> str:
    """Return the time ``seconds`` after one in ns since 1970, as ISO 8601 in UTC, in whole seconds."""
    return datetime.fromtimestamp(time_ns / 1e9 + seconds, UTC).isoformat(timespec="seconds")


def describe_damage(blob: str, kind: str, reason: str) -> str:
    """Return damage as one line. The reason of a gap names its place itself."""
    return reason if kind == "gap" else f"{kind} {blob}: {reason}"


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped: names in it may come from others, and a terminal would obey them."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shown_path(path: bytes) -> str:
    """Return a path as people and JSON can read it; bytes that are not UTF-8 as ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a misspelt one, None when none is similar."""
    matches = difflib.get_close_matches(name.lower(), list(known), 1)
    return matches[0] if matches else None


def machine_names(machines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a name for each machine id; names that occur twice are followed by the first digits of the id.

    ``machines`` are pairs of id (hexadecimal, with or without dashes) and name.
    """
    named = dict(machines)
    uses = Counter(named.values())
    return {key: name if uses[name] == 1 else f"{name} ({key[:_SHORT_ID]})" for key, name in named.items()}
