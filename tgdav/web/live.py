"""What a node's attributes look like over HTTP: ETag and dates. Pure."""

from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

from tgdav.metadata.types import Attributes, Listed
from tgdav.web.conditions import SECOND, State


def etag(attributes: Attributes) -> str | None:
    """Return a file's strong ETag, quoted: its content's tag in hex, and a counter while it is being written. Folders: None."""
    return etag_of_file(attributes) if attributes.is_file else None


def etag_of_file(attributes: Attributes | Listed) -> str:
    """As ``etag``, of what is known to be a file."""
    tag = f"{attributes.size:x}-{attributes.mtime:x}" if attributes.tag is None else attributes.tag.hex()
    return f'"{tag}-{attributes.dirty:x}"' if attributes.dirty else f'"{tag}"'


def state_of(attributes: Attributes) -> State:
    """Return what conditions look at."""
    return State(etag(attributes), attributes.mtime)


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


# The calendar is what costs, and most files of a folder share a few days.
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
