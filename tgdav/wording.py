"""Values as people read them: sizes, times, names of machines, near misses of a word. Pure."""

import difflib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

_SHORT_ID = 8
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def readable_size(count: int) -> str:
    """Return a number of bytes as ``1.5 GiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 1024 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def readable_duration(seconds: float) -> str:
    """Return a time as its two largest units: ``2 d 3 h``, ``1 h 5 min``, ``3 min 12 s``, ``0 s``."""
    whole = max(0, round(seconds))
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``1 file``, ``2 files``: a number and its noun, whose plural is ``many``, else ends in s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def iso_time(time_ns: int) -> str:
    """Return a time in ns since 1970 as ISO 8601 in UTC."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000).isoformat().replace("+00:00", "Z")


def printable(text: str) -> str:
    """Return ``text`` with everything that a terminal would act on escaped; names may come from anybody."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like a mistyped one, None when none is."""
    found = difflib.get_close_matches(word.lower(), list(known), 1)
    return found[0] if found else None


def machine_names(machines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return what to call each machine, by its id: its name, with the beginning of the id where names repeat.

    ``machines`` holds pairs of id (hexadecimal, with or without dashes) and name.
    """
    named = dict(machines)
    times = Counter(named.values())
    return {key: name if times[name] == 1 else f"{name} ({key[:_SHORT_ID]})" for key, name in named.items()}
