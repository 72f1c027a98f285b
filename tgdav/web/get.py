"""GET and HEAD of files: conditions, ranges, blocks that are read as they are sent (RFC 9110 §13, §14)."""

import re
from collections.abc import Iterator

from tgdav.errors import NotFound
from tgdav.fs.api import FileHandle
from tgdav.metadata.types import Attributes
from tgdav.web.access import Access
from tgdav.web.conditions import check_conditions, range_applies
from tgdav.web.errors import Refused
from tgdav.web.live import etag, http_date, media_type, state_of
from tgdav.web.messages import Headers, Request, Response
from tgdav.web.page import folder_page
from tgdav.web.paths import find
from tgdav.web.probes import probe
from tgdav.web.site import BLOCK, Site

_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*\Z")

_ATTEMPTS = 3

# A page of the drive must not act on the drive in the name of whoever opened it.
_HARMLESS = (("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox"))


def get(site: Site, request: Request) -> Response:
    """Answer GET or HEAD."""
    names = request.names
    if names and names[0] == b"-":
        return probe(site, request)
    attributes = find(site.fs, names)
    if attributes.is_directory:
        return folder_page(site, request, attributes)
    if not attributes.is_file:
        raise NotFound
    if "if" in request.headers:
        Access(site, request, names).check_conditions(attributes)
    if request.method == "HEAD":
        return _head(request, attributes)
    for _ in range(_ATTEMPTS):
        answer = _content(site, request, attributes)
        if answer is not None:
            return answer
        attributes = find(site.fs, names)
    raise ConnectionError("the file changes faster than it can be read")


def _head(request: Request, attributes: Attributes) -> Response:
    headers = validators(attributes)
    _check(request, attributes, headers)
    headers += (("Content-Type", media_type(request.names[-1])), ("Accept-Ranges", "bytes"))
    return Response(200, headers, length=attributes.size)


def _content(site: Site, request: Request, attributes: Attributes) -> Response | None:
    """Return the answer; None when the file has changed since ``attributes`` were read."""
    headers = validators(attributes)
    _check(request, attributes, headers)
    headers += (("Content-Type", media_type(request.names[-1])), ("Accept-Ranges", "bytes"), *_HARMLESS)
    start, end, status = _extent(request, attributes, headers)
    if start == end:
        return Response(status, headers, b"")
    handle = site.fs.open(attributes.inode)
    try:
        # The first block is read before the head goes out, so that damage there is still a 500.
        first = site.patiently(lambda: handle.read(start, min(BLOCK, end - start)))
    except BaseException:
        handle.close()
        raise
    if len(first) == end - start:
        handle.close()
        return Response(status, headers, first)
    if not _is_unchanged(site, attributes):
        handle.close()
        return None
    return Response(status, headers, _blocks(site, handle, attributes, first, start, end), length=end - start)


def _is_unchanged(site: Site, attributes: Attributes) -> bool:
    """Return whether a file still has the content it had: a handle reads what is there now, whatever was there before."""
    return etag(site.fs.attributes(attributes.inode)) == etag(attributes)


def _blocks(
    site: Site, handle: FileHandle, attributes: Attributes, first: bytes, start: int, end: int
) -> Iterator[bytes]:
    """Yield a file's bytes. An error, or a change of the file, cuts the connection: never wrong bytes, nor mixed ones."""
    try:
        yield first
        at = start + len(first)
        while at < end:
            size = min(BLOCK, end - at)
            block = site.patiently(lambda at=at, size=size: handle.read(at, size))  # type: ignore[misc]
            if not block or not _is_unchanged(site, attributes):
                raise ConnectionError("the file changed while it was sent")
            yield block
            at += len(block)
    finally:
        handle.close()


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
