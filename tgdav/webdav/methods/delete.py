"""DELETE (RFC 4918 §9.6)."""

from tgdav.http import Request, Response
from tgdav.webdav.access import Access
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import Refused
from tgdav.webdav.resources import locate
from tgdav.webdav.urls import is_reserved


def delete(context: WebContext, request: Request) -> Response:
    """Remove a name and all below it, as one change; its locks go with it."""
    if is_reserved(request.names) or not request.names:
        raise Refused(403)
    place = locate(context.fs, request.names)
    if place.attributes is None:
        raise Refused(404)
    depth = request.headers.get("depth", "infinity").strip().lower()
    if place.attributes.is_directory and depth != "infinity":
        raise Refused(400, "a folder is deleted with all it holds: Depth is infinity")
    access = Access(context, request, request.names)
    access.check(place.attributes)
    access.check_membership()
    locks = access.check_tree(place)
    context.fs.remove_tree(place.parent, place.name, precondition=access.check, durable=True)
    context.locks.remove(locks)
    return Response(204)
