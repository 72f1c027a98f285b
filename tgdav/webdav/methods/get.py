"""GET and HEAD of files: conditions, ranges, blocks that are read as they are sent (RFC 9110 §13, §14)."""

import re
from collections.abc import Iterator

from tgdav.errors import NotFound
from tgdav.http import Headers, Request, Response
from tgdav.metadata.types import Attributes
from tgdav.webdav.access import Access
from tgdav.webdav.checksums import CHECKSUM_REQUESTS
from tgdav.webdav.conditions import check_conditions, etag, range_applies, state_of
from tgdav.webdav.context import BLOCK, WebContext
from tgdav.webdav.dates import http_date
from tgdav.webdav.errors import Refused
from tgdav.webdav.media_types import is_text, media_type
from tgdav.webdav.open_content import OpenContent, content_type, protection
from tgdav.webdav.page import folder_page
from tgdav.webdav.probes import probe
from tgdav.webdav.resources import find

_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*\Z")

_ATTEMPTS = 3


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
    # Attributes and content are read apart; a file that was replaced in between is looked up again.
    for _ in range(_ATTEMPTS):
        answer = _answer(context, request, attributes)
        if answer is not None:
            return answer
        attributes = find(context.fs, names)
    raise ConnectionError("the file changes faster than it can be read")


def _answer(context: WebContext, request: Request, attributes: Attributes) -> Response | None:
    """Return the answer; None when the file has changed since ``attributes`` were read."""
    kind = media_type(request.names[-1])
    headers = [*validators(attributes), ("Accept-Ranges", "bytes"), *protection(kind)]
    check_cached(request, attributes, headers)
    if not CHECKSUM_REQUESTS.isdisjoint(request.headers):
        headers += context.checksums.headers(attributes)
    is_head = request.method == "HEAD"
    start, end, status = (0, attributes.size, 200) if is_head else read_range(request, attributes, headers)
    if not attributes.size or (is_head and not is_text(kind)):
        headers.append(content_type(kind, b"", whole=True))
        return Response(status, headers, length=attributes.size)
    content = OpenContent(context, attributes, kind)
    try:
        answer = Response(status, headers, length=end - start)
        return _describe(content, answer) if is_head else _send(content, answer, start, end)
    except BaseException:
        content.close()
        raise


def _send(content: OpenContent, answer: Response, start: int, end: int) -> Response | None:
    """Add type and bytes; None if the file has changed. Raises what reading the first block raises."""
    first = b""
    is_current = content.pin()
    if is_current:
        # Read before the head is sent, so that damage in the first block is still a 500.
        first = content.read(start, min(BLOCK, end - start))
        answer.headers.append(content.type_header(b"" if start else first))
        is_current = content.is_unchanged()
    if not is_current or len(first) == end - start:
        content.close()
        answer.body = first
    else:
        answer.body = _blocks(content, first, start, end)
    return answer if is_current else None


def _describe(content: OpenContent, answer: Response) -> Response | None:
    """Add the type; None if the file has changed."""
    is_current = content.pin()
    answer.headers.append(content.type_header())
    content.close()
    return answer if is_current else None


def _blocks(content: OpenContent, first: bytes, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes. An error cuts the connection: wrong or mixed bytes are never sent."""
    try:
        yield first
        at = start + len(first)
        while at < end:
            block = content.read_unchanged(at, min(BLOCK, end - at))
            yield block
            at += len(block)
    finally:
        content.close()


def validators(attributes: Attributes) -> Headers:
    """Return ETag and Last-Modified."""
    tag = etag(attributes)
    headers = [("Last-Modified", http_date(attributes.mtime))]
    return [("ETag", tag), *headers] if tag is not None else headers


def check_cached(request: Request, attributes: Attributes, headers: Headers) -> None:
    """Evaluate If-None-Match and the like. Raises Refused 412, or 304 with ``headers``."""
    try:
        check_conditions(request.method, request.headers, state_of(attributes))
    except Refused as refusal:
        if refusal.status == 304:
            raise Refused(304, headers=tuple(headers)) from None
        raise


def read_range(request: Request, attributes: Attributes, headers: Headers) -> tuple[int, int, int]:
    """Return first byte, end and status; adds Content-Range. Several ranges are answered by the whole file.

    Raises Refused 416.
    """
    size = attributes.size
    match = _RANGE.match(request.headers.get("range", ""))
    # Several ranges, and what is no range, get the whole file, which RFC 9110 §14.2 allows.
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
