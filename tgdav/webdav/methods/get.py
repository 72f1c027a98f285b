"""GET and HEAD of files: conditions, ranges, blocks that are read as they are sent (RFC 9110 §13, §14)."""

import re
from collections.abc import Iterator

from tgdav.errors import NotFound, TgdavError
from tgdav.http import Headers, Request, Response
from tgdav.metadata.types import Attributes
from tgdav.webdav.access import Access
from tgdav.webdav.conditions import check_conditions, etag, range_applies, state_of
from tgdav.webdav.context import BLOCK, WebContext
from tgdav.webdav.dates import http_date
from tgdav.webdav.errors import Refused
from tgdav.webdav.media_types import is_active, is_text, is_utf8, media_type
from tgdav.webdav.page import folder_page
from tgdav.webdav.probes import probe
from tgdav.webdav.resources import find

_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*\Z")

_ATTEMPTS = 3

_WANTS = frozenset(("want-digest", "want-repr-digest"))
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


def get(context: WebContext, request: Request) -> Response:
    """Answer GET or HEAD."""
    names = request.names
    if names and names[0] == b"-":
        return probe(context, request)
    attributes = find(context.fs, names)
    if attributes.is_directory:
        return folder_page(context, request, attributes)
    if not attributes.is_file:
        raise NotFound
    if "if" in request.headers:
        Access(context, request, names).check_conditions(attributes)
    for _ in range(_ATTEMPTS):
        answer = _answer(context, request, attributes)
        if answer is not None:
            return answer
        attributes = find(context.fs, names)
    raise ConnectionError("the file changes faster than it can be read")


def _answer(context: WebContext, request: Request, attributes: Attributes) -> Response | None:
    """Return the answer; None when the file has changed since ``attributes`` were read."""
    kind = media_type(request.names[-1])
    headers = [*validators(attributes), ("Accept-Ranges", "bytes"), *(_ACTIVE if is_active(kind) else _PASSIVE)]
    _check(request, attributes, headers)
    if not _WANTS.isdisjoint(request.headers):
        headers += context.checksums.headers(attributes)
    is_head = request.method == "HEAD"
    start, end, status = (0, attributes.size, 200) if is_head else _extent(request, attributes, headers)
    if not attributes.size or (is_head and not is_text(kind)):
        headers.append(_content_type(kind, b"", whole=True))
        return Response(status, headers, length=attributes.size)
    content = _Content(context, attributes, kind)
    try:
        answer = Response(status, headers, length=end - start)
        return content.describe(answer) if is_head else content.send(answer, start, end)
    except BaseException:
        content.close()
        raise


class _Content:
    """A file's content, open for one answer, which closes it.

    It stays what it was when it was opened, whatever replaces it. A file that is open for writing has no such content yet:
    there each change ends the answer.
    """

    def __init__(self, context: WebContext, attributes: Attributes, kind: str) -> None:
        self._context, self._attributes, self._kind = context, attributes, kind
        self._handle = context.fs.open(attributes.inode)
        self.close = self._handle.close

    def _is_as_told(self) -> bool:
        """Let the handle keep to its content; return whether the attributes are of that content."""
        tag = self._handle.keep_content()
        return (tag is None) == bool(self._attributes.dirty) and tag in (None, self._attributes.tag or b"")

    def _is_unchanged(self) -> bool:
        attributes = self._attributes
        return not attributes.dirty or etag(self._context.fs.attributes(attributes.inode)) == etag(attributes)

    def describe(self, answer: Response) -> Response | None:
        """Add the type; None if the file has changed."""
        is_right = self._is_as_told()
        answer.headers.append(self._type(self._sample()))
        self.close()
        return answer if is_right else None

    def send(self, answer: Response, start: int, end: int) -> Response | None:
        """Add type and bytes; None if the file has changed. Raises what reading the first block raises."""
        first = b""
        is_right = self._is_as_told()
        if is_right:
            # The first block is read before the head goes out, so that damage there is still a 500.
            first = self._read(start, min(BLOCK, end - start))
            answer.headers.append(self._type(self._sample() if start else first))
            is_right = self._is_unchanged()
        if not is_right or len(first) == end - start:
            self.close()
            answer.body = first
        else:
            answer.body = self._blocks(first, start, end)
        return answer if is_right else None

    def _read(self, start: int, count: int) -> bytes:
        return self._context.retry_unavailable(lambda: self._handle.read(start, count))

    def _sample(self) -> bytes:
        """Return the beginning of a text; of other kinds, and where it cannot be had now, what is no text."""
        try:
            return self._handle.read(0, _SAMPLE) if is_text(self._kind) else _NO_TEXT
        except TgdavError:
            return _NO_TEXT

    def _type(self, start: bytes) -> tuple[str, str]:
        return _content_type(self._kind, start[:_SAMPLE], whole=self._attributes.size <= _SAMPLE)

    def _blocks(self, first: bytes, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes. An error cuts the connection: never wrong bytes, nor mixed ones."""
        try:
            yield first
            at = start + len(first)
            while at < end:
                block = self._read(at, min(BLOCK, end - at))
                if not block or not self._is_unchanged():
                    raise ConnectionError("the file changed while it was sent")
                yield block
                at += len(block)
        finally:
            self.close()


def _content_type(kind: str, start: bytes, *, whole: bool) -> tuple[str, str]:
    return "Content-Type", f"{kind}; charset=utf-8" if is_text(kind) and is_utf8(start, whole=whole) else kind


def validators(attributes: Attributes) -> Headers:
    """Return ETag and Last-Modified."""
    tag = etag(attributes)
    headers = [("Last-Modified", http_date(attributes.mtime))]
    return [("ETag", tag), *headers] if tag is not None else headers


def _check(request: Request, attributes: Attributes, headers: Headers) -> None:
    try:
        check_conditions(request.method, request.headers, state_of(attributes))
    except Refused as refusal:
        if refusal.status == 304:
            raise Refused(304, headers=tuple(headers)) from None
        raise


def _extent(request: Request, attributes: Attributes, headers: Headers) -> tuple[int, int, int]:
    """Return first byte, end and status; adds Content-Range. Several ranges are answered by the whole file.

    Raises Refused 416.
    """
    size = attributes.size
    match = _RANGE.match(request.headers.get("range", ""))
    if not match or not range_applies(request.headers, state_of(attributes)):
        return 0, size, 200
    if match[3] is not None:
        start, end = max(0, size - int(match[3])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return 0, size, 200
    if start >= end:
        raise Refused(416, headers=(("Content-Range", f"bytes */{size}"),))
    headers.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
    return start, end, 206
