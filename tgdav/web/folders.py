"""MKCOL, DELETE and OPTIONS."""

from tgdav.errors import Exists
from tgdav.fs.api import UMASK
from tgdav.metadata.types import Kind
from tgdav.web.access import Access
from tgdav.web.errors import Refused
from tgdav.web.messages import Request, Response
from tgdav.web.paths import is_reserved, locate
from tgdav.web.site import Site

ALLOW = "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"


def options(_: Site, __: Request) -> Response:
    """Say on any path, ``*`` too, what this server is; Finder and Office decide by it whether they may write."""
    return Response(200, [("DAV", "1,2"), ("MS-Author-Via", "DAV"), ("Allow", ALLOW), ("Accept-Ranges", "bytes")])


def mkcol(site: Site, request: Request) -> Response:
    """Make a folder: 405 where something is, 409 without parent, 415 with a body."""
    if request.has_body:
        raise Refused(415, "a MKCOL with a body means nothing here")
    if is_reserved(request.names):
        raise Refused(403)
    place = locate(site.fs, request.names)
    if place.attributes is not None:
        raise Refused(405)
    access = Access(site, request, request.names)
    access.check(None)
    try:
        site.fs.create(place.parent, place.name, Kind.DIRECTORY, 0o777, site.options.owner, umask=UMASK, durable=True)
    except Exists as error:
        raise Refused(405) from error
    return Response(201)


def delete(site: Site, request: Request) -> Response:
    """Remove a name and all below it, as one change; its locks go with it."""
    if is_reserved(request.names) or not request.names:
        raise Refused(403)
    place = locate(site.fs, request.names)
    if place.attributes is None:
        raise Refused(404)
    depth = request.headers.get("depth", "infinity").strip().lower()
    if place.attributes.is_directory and depth != "infinity":
        raise Refused(400, "a folder is deleted with all it holds: Depth is infinity")
    access = Access(site, request, request.names)
    access.check(place.attributes)
    access.check_membership()
    locks = access.check_tree(place)
    site.fs.remove_tree(place.parent, place.name, precondition=access.check, durable=True)
    site.locks.remove(locks)
    return Response(204)
