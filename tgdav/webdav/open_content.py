"""A file's content, opened to be sent: pinned against changes, with its Content-Type."""

from collections.abc import Sequence

from tgdav.errors import TgdavError
from tgdav.metadata.types import Attributes
from tgdav.webdav.conditions import etag
from tgdav.webdav.context import WebContext
from tgdav.webdav.media_types import is_active, is_text, is_utf8

_NO_TEXT = b"\xff"
_SAMPLE = 64 * 1024
"""Bytes at the start of a text that decide whether it is sent as UTF-8."""

# A document from the drive must not act on the drive with the login of the user who opens it: a sandbox has no origin.
_ACTIVE = (("Content-Security-Policy", "sandbox"), ("X-Frame-Options", "DENY"))
# A sandbox would break the range requests of media and PDF viewers, and these types run no scripts.
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

    After ``pin`` it does not change, whatever replaces it. A file that is open for writing has no committed content to pin: there
    a change ends the response.
    """

    def __init__(self, context: WebContext, attributes: Attributes, kind: str) -> None:
        self._context, self._attributes, self._kind = context, attributes, kind
        self._handle = context.fs.open(attributes.inode)
        self.close = self._handle.close

    def pin(self) -> bool:
        """Pin the present content; return whether the attributes belong to it."""
        tag = self._handle.keep_content()
        return (tag is None) == bool(self._attributes.dirty) and tag in (None, self._attributes.tag or b"")

    def is_unchanged(self) -> bool:
        """Return whether all that was read since ``pin`` belongs to one content."""
        attributes = self._attributes
        return not attributes.dirty or etag(self._context.fs.attributes(attributes.inode)) == etag(attributes)

    def read(self, start: int, count: int) -> bytes:
        """Return bytes, waiting up to ``store_wait`` for a store that is not available."""
        return self._context.retry_unavailable(lambda: self._handle.read(start, count))

    def read_unchanged(self, start: int, count: int) -> bytes:
        """As ``read``. Raises ConnectionError if the file changed or ended."""
        block = self.read(start, count)
        if not block or not self.is_unchanged():
            raise ConnectionError("the file changed while it was sent")
        return block

    def type_header(self, start: bytes = b"") -> tuple[str, str]:
        """Return Content-Type; ``start`` is the content's beginning, if it was read already."""
        start = start or self._sample()
        return content_type(self._kind, start[:_SAMPLE], whole=self._attributes.size <= _SAMPLE)

    def _sample(self) -> bytes:
        """Return the start of a text; for other types, and if it cannot be read now, bytes that are not text."""
        try:
            return self._handle.read(0, _SAMPLE) if is_text(self._kind) else _NO_TEXT
        except TgdavError:
            return _NO_TEXT
