"""MKCOL (RFC 4918 §9.3)."""

from tgdav.errors import Exists
from tgdav.fs.api import UMASK
from tgdav.http import Request, Response
from tgdav.metadata.types import Kind
from tgdav.webdav.access import Access
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import Refused
from tgdav.webdav.resources import locate
from tgdav.webdav.urls import is_reserved


def mkcol(context: WebContext, request: Request) -> Response:
    """Make a folder: 405 where something is, 409 without parent, 415 with a body."""
    if request.has_body:
        raise Refused(415, "a MKCOL with a body means nothing here")
    if is_reserved(request.names):
        raise Refused(403)
    place = locate(context.fs, request.names)
    if place.attributes is not None:
        raise Refused(405)
    access = Access(context, request, request.names)
    access.check(None)
    try:
        context.fs.create(
            place.parent, place.name, Kind.DIRECTORY, 0o777, context.options.owner, umask=UMASK, durable=True
        )
    except Exists as error:
        raise Refused(405) from error
    return Response(201)
