"""OPTIONS (RFC 4918 §10.1)."""

from tgdav.http import Request, Response
from tgdav.webdav.context import WebContext

ALLOW = "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"


def options(_: WebContext, __: Request) -> Response:
    """Answer OPTIONS for any path and ``*``. By ``DAV`` and ``MS-Author-Via`` Finder and Office decide whether they may write."""
    return Response(200, [("DAV", "1,2"), ("MS-Author-Via", "DAV"), ("Allow", ALLOW), ("Accept-Ranges", "bytes")])
