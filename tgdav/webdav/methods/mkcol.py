"""MKCOL (RFC 4918 §9.3)."""

from tgdav.errors import Exists
from tgdav.fs.api import UMASK
from tgdav.http import Request, Response
from tgdav.metadata.types import Kind
from tgdav.webdav.access import Access
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import Refused
from tgdav.webdav.resources import locate
from tgdav.webdav.urls import check_changeable


def mkcol(context: WebContext, request: Request) -> Response:
    """Answer MKCOL: 405 if the name exists, 409 without parent, 415 with a body."""
    if request.has_body:
        raise Refused(415, "a MKCOL with a body means nothing here")
    create_collection(context, request, request.names)
    return Response(201)


def create_collection(context: WebContext, request: Request, names: tuple[bytes, ...]) -> None:
    """Create a directory; durable. Raises Refused 403, 405, 409, 412 or 423."""
    check_changeable(names)
    resource = locate(context.fs, names)
    if resource.attributes is not None:
        raise Refused(405)
    Access(context, request, names).check(None)
    owner = context.options.owner
    try:
        context.fs.create(resource.parent, resource.name, Kind.DIRECTORY, 0o777, owner, umask=UMASK, durable=True)
    except Exists as error:
        raise Refused(405) from error
