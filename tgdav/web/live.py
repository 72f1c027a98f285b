"""What a node's attributes look like over HTTP: ETag, dates, media type. Pure."""

import mimetypes
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

from tgdav.metadata.types import Attributes
from tgdav.web.conditions import SECOND, State


def etag(attributes: Attributes) -> str | None:
    """Return a file's strong ETag, quoted: its content's tag in hex, and a counter while it is being written. Folders: None."""
    if not attributes.is_file:
        return None
    tag = f"{attributes.size:x}-{attributes.mtime:x}" if attributes.tag is None else attributes.tag.hex()
    return f'"{tag}-{attributes.dirty:x}"' if attributes.dirty else f'"{tag}"'


def state_of(attributes: Attributes) -> State:
    """Return what conditions look at."""
    return State(etag(attributes), attributes.mtime)


def http_date(nanoseconds: int) -> str:
    """Return a time as ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    return _http_date(nanoseconds // SECOND)


@lru_cache(8192)
def _http_date(seconds: int) -> str:
    return formatdate(min(max(seconds, _EARLIEST), _LATEST), usegmt=True)


def iso_date(nanoseconds: int) -> str:
    """Return a time as RFC 3339 in UTC, whole seconds."""
    return _iso_date(nanoseconds // SECOND)


@lru_cache(8192)
def _iso_date(seconds: int) -> str:
    return datetime.fromtimestamp(min(max(seconds, _EARLIEST), _LATEST), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_EARLIEST = -62_135_596_800
_LATEST = 253_402_300_799


def media_type(name: bytes) -> str:
    """Return the media type that a name's ending suggests."""
    dot = name.rfind(b".")
    return _type_of_ending(name[dot:].lower()) if dot >= 0 else "application/octet-stream"


@lru_cache(1024)
def _type_of_ending(ending: bytes) -> str:
    kind, coding = mimetypes.guess_type("x" + ending.decode("latin-1"))
    return kind if kind is not None and coding is None else "application/octet-stream"
