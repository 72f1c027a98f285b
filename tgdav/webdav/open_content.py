"""A file's content, opened to be sent: it does not change while it is read, and says what type it has."""

from collections.abc import Sequence

from tgdav.errors import TgdavError
from tgdav.metadata.types import Attributes
from tgdav.webdav.conditions import etag
from tgdav.webdav.context import WebContext
from tgdav.webdav.media_types import is_active, is_text, is_utf8

_NO_TEXT = b"\xff"
_SAMPLE = 64 * 1024
"""Bytes at a text's beginning that decide whether it is sent as UTF-8."""

# A page of the drive must not act on the drive in the name of whoever opened it: without an origin it may ask for nothing.
_ACTIVE = (("Content-Security-Policy", "sandbox"), ("X-Frame-Options", "DENY"))
# A sandbox would keep media and PDF from the ranges that they ask for, and nothing in them runs.
_PASSIVE = (
    (
        "Content-Security-Policy",
        "default-src 'none'; media-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'none'",
    ),
)


def protection(kind: str) -> Sequence[tuple[str, str]]:
    """Return the headers that keep a document of that media type from acting on the drive in a browser."""
    return _ACTIVE if is_active(kind) else _PASSIVE


def content_type(kind: str, start: bytes, *, whole: bool) -> tuple[str, str]:
    """Return Content-Type; ``start`` is the content's beginning, ``whole`` whether it is all of it."""
    return "Content-Type", f"{kind}; charset=utf-8" if is_text(kind) and is_utf8(start, whole=whole) else kind


class OpenContent:
    """A file's content, open for one response, which closes it.

    After ``pin`` it does not change, whatever replaces it. A file that is open for writing has no such content yet: there a
    change ends the response.
    """

    def __init__(self, context: WebContext, attributes: Attributes, kind: str) -> None:
        self._context, self._attributes, self._kind = context, attributes, kind
        self._handle = context.fs.open(attributes.inode)
        self.close = self._handle.close

    def pin(self) -> bool:
        """Keep to the present content; return whether the attributes are of that content."""
        tag = self._handle.keep_content()
        return (tag is None) == bool(self._attributes.dirty) and tag in (None, self._attributes.tag or b"")

    def is_unchanged(self) -> bool:
        """Return whether what was read since ``pin`` is all of one content."""
        attributes = self._attributes
        return not attributes.dirty or etag(self._context.fs.attributes(attributes.inode)) == etag(attributes)

    def read(self, start: int, count: int) -> bytes:
        """Return bytes; waits for a store that is away, up to ``store_wait``."""
        return self._context.retry_unavailable(lambda: self._handle.read(start, count))

    def read_unchanged(self, start: int, count: int) -> bytes:
        """As ``read``. Raises ConnectionError where the file changed or ended."""
        block = self.read(start, count)
        if not block or not self.is_unchanged():
            raise ConnectionError("the file changed while it was sent")
        return block

    def type_header(self, start: bytes = b"") -> tuple[str, str]:
        """Return Content-Type; ``start`` is the content's beginning, if it was read already."""
        start = start or self._sample()
        return content_type(self._kind, start[:_SAMPLE], whole=self._attributes.size <= _SAMPLE)

    def _sample(self) -> bytes:
        """Return the beginning of a text; of other kinds, and where it cannot be read now, what is no text."""
        try:
            return self._handle.read(0, _SAMPLE) if is_text(self._kind) else _NO_TEXT
        except TgdavError:
            return _NO_TEXT
