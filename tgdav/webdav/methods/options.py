"""OPTIONS (RFC 4918 §10.1)."""

from tgdav.http import Request, Response
from tgdav.webdav.context import WebContext

ALLOW = "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"


def options(_: WebContext, __: Request) -> Response:
    """Say on any path, ``*`` too, what this server is; Finder and Office decide by it whether they may write."""
    return Response(200, [("DAV", "1,2"), ("MS-Author-Via", "DAV"), ("Allow", ALLOW), ("Accept-Ranges", "bytes")])
