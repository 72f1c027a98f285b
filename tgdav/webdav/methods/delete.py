"""DELETE (RFC 4918 §9.6)."""

from tgdav.http import Request, Response
from tgdav.webdav.access import Access
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import Refused
from tgdav.webdav.resources import locate
from tgdav.webdav.urls import check_changeable


def delete(context: WebContext, request: Request) -> Response:
    """Answer DELETE: the name and all below it are removed as one change, and their locks end."""
    remove(context, request, request.names, depth=request.headers.get("depth", "infinity").strip().lower())
    return Response(204)


def remove(context: WebContext, request: Request, names: tuple[bytes, ...], *, depth: str = "infinity") -> None:
    """Remove a resource and all below it; durable. Raises Refused 400, 403, 404, 409, 412 or 423."""
    check_changeable(names)
    if not names:
        raise Refused(403)
    resource = locate(context.fs, names)
    if resource.attributes is None:
        raise Refused(404)
    if resource.attributes.is_directory and depth != "infinity":
        raise Refused(400, "a folder is deleted with all it holds: Depth is infinity")
    access = Access(context, request, names)
    access.check(resource.attributes)
    access.check_membership()
    locks = access.check_tree(resource)
    context.fs.remove_tree(resource.parent, resource.name, precondition=access.check, durable=True)
    context.locks.remove(locks)
