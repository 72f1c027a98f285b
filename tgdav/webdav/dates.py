"""Times as HTTP, WebDAV and its clients write them, in ns since 1970 here. Pure."""

import re
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

from tgdav.webdav.errors import Refused

SECOND = 1_000_000_000
NO_DATE = -11_644_473_600 * SECOND
"""1601-01-01, the epoch of Windows: a program without a date sends this one. It changes nothing."""

_SECONDS = re.compile(r"(-?)([0-9]{1,60})(?:\.([0-9]{1,60}))?\Z")
_FURTHEST = 2**63 // SECOND
"""Seconds between 1970 and the last (and first) date that a file can have: nanoseconds are kept in 64 bits."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_DATE_CHARACTERS = 64
_DATE_FORMS = (
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a, %d %b %Y %H:%M:%S %z",
    "%A, %d-%b-%y %H:%M:%S GMT",
    "%a %b %d %H:%M:%S %Y",
)


def http_date(nanoseconds: int) -> str:
    """Return a time as ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    return http_date_of(nanoseconds // SECOND)


@lru_cache(8192)
def http_date_of(seconds: int) -> str:
    """As ``http_date``, from whole seconds since 1970."""
    day, rest = divmod(min(max(seconds, _EARLIEST), _LATEST), _DAY)
    return f"{_http_day(day)} {_time_of_day(rest)} GMT"


def iso_date(nanoseconds: int) -> str:
    """Return a time as RFC 3339 in UTC, whole seconds."""
    return iso_date_of(nanoseconds // SECOND)


@lru_cache(8192)
def iso_date_of(seconds: int) -> str:
    """As ``iso_date``, from whole seconds since 1970."""
    day, rest = divmod(min(max(seconds, _EARLIEST), _LATEST), _DAY)
    return f"{_iso_day(day)}T{_time_of_day(rest)}Z"


# The calendar is the expensive part, and most files of a directory share a few days.
@lru_cache(1024)
def _http_day(day: int) -> str:
    return formatdate(day * _DAY, usegmt=True).removesuffix(" 00:00:00 GMT")


@lru_cache(1024)
def _iso_day(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY, UTC).strftime("%Y-%m-%d")


def _time_of_day(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}"


_DAY = 86_400
_EARLIEST = -62_135_596_800
_LATEST = 253_402_300_799


def read_mtime(headers: dict[str, str]) -> int | None:
    """Return X-OC-Mtime (seconds since 1970, a fraction allowed) in ns. Raises Refused 400."""
    value = headers.get("x-oc-mtime")
    return None if value is None else parse_seconds(value)


def parse_seconds(value: str) -> int:
    """Return decimal seconds since 1970 as ns, clamped to what a file can have. Raises Refused 400."""
    match = _SECONDS.match(value.strip())
    if match is None:
        raise Refused(400, "malformed time")
    sign, whole, fraction = match.groups("")
    nanoseconds = int(whole) * SECOND + int(f"{fraction[:9]:0<9}")
    return nearest_time(-nanoseconds if sign else nanoseconds)


def nearest_time(nanoseconds: int) -> int:
    """Return the time nearest to ``nanoseconds`` since 1970 that a file can have (years 1677 to 2262)."""
    return min(max(nanoseconds, -_FURTHEST * SECOND), _FURTHEST * SECOND)


def read_time(text: str) -> int | None:
    """Return a time given as seconds since 1970 or as an HTTP date, in ns, the nearest that a file can have.

    Returns ``NO_DATE`` as it is, and None for anything else.
    """
    moment = _read_date(text) if len(text) <= _MAX_DATE_CHARACTERS and text.isascii() else None
    if moment is not None:
        return moment if moment == NO_DATE else nearest_time(moment)
    try:
        return NO_DATE if text == str(NO_DATE // SECOND) else parse_seconds(text)
    except Refused:
        return None


def _read_date(text: str) -> int | None:
    """Return an HTTP date (RFC 9110 §5.6.7), or one with a numeric zone, as ns since 1970."""
    for form in _DATE_FORMS:
        try:
            date = datetime.strptime(text, form)
            moment = (date if date.tzinfo else date.replace(tzinfo=UTC)) - _EPOCH
        except (ValueError, OverflowError):
            continue
        return int(moment.total_seconds()) * SECOND
    return None
