"""LOCK and UNLOCK (RFC 4918 §9.10, §9.11)."""

import re

from lxml import etree

from tgdav.fs.api import UMASK
from tgdav.http import Request, Response
from tgdav.metadata.types import Attributes, Kind
from tgdav.webdav.access import Access
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import XML, Refused
from tgdav.webdav.locks import DEFAULT_TIMEOUT, MAX_TIMEOUT, Lock, LockConflict, LockDetails, lockdiscovery, path_inodes
from tgdav.webdav.resources import Resource, locate
from tgdav.webdav.urls import check_changeable
from tgdav.webdav.xml import DAV, DECLARATION, children, read_xml, serialize

MAX_OWNER_BYTES = 16 * 1024
"""Bytes of a lock's owner, which each listing of a locked resource repeats."""

_SECONDS = re.compile(r"Second-(\d{1,12})\Z", re.IGNORECASE)


def lock(context: WebContext, request: Request) -> Response:
    """Answer LOCK: take a lock, creating an empty file for an unmapped name; without a body refresh the locks that If names."""
    root = read_xml(request, "lockinfo")
    infinite = _depth_is_infinite(request)
    check_changeable(request.names)
    access = Access(context, request, request.names)
    resource = locate(context.fs, request.names)
    if root is None:
        return _refresh(context, request, access, resource)
    access.check_conditions(resource.attributes)
    exclusive, owner = _read_lockinfo(root)
    attributes, created = map_name(context, access, resource)
    details = LockDetails(request.names, exclusive, infinite, request.user, owner, _seconds(request, DEFAULT_TIMEOUT))
    taken = take_lock(context, attributes, details)
    return _shown(context, [taken], 201 if created else 200, (("Lock-Token", f"<{taken.token}>"),))


def take_lock(context: WebContext, attributes: Attributes, details: LockDetails) -> Lock:
    """Lock a resource; durable. Raises Refused 423 if another lock conflicts."""
    folders = path_inodes(context.fs, details.names[:-1]) if details.names else []
    inside = context.locks.inside(attributes.inode) if details.infinite and attributes.is_directory else []
    try:
        return context.locks.add([*folders, attributes.inode], details, inside=inside)
    except LockConflict as conflict:
        raise conflict.refusal(context.public.prefix) from None


def map_name(context: WebContext, access: Access, resource: Resource) -> tuple[Attributes, bool]:
    """Return what is to be locked, creating an empty file where there is nothing, and whether it was created."""
    if resource.attributes is not None:
        return resource.attributes, False
    # A name that does not exist has no lock of its own, so only its directory's can conflict. Checked before creating it, since
    # a 423 must not leave a file behind.
    access.check_membership()
    owner = context.options.owner
    return context.fs.create(resource.parent, resource.name, Kind.FILE, 0o666, owner, umask=UMASK, durable=True), True


def _read_lockinfo(root: etree._Element) -> tuple[bool, bytes]:
    """Return whether the lock is exclusive, and the owner element. Raises Refused 400 for anything but RFC 4918's locks."""
    scope = kind = ""
    owner = b""
    for element in children(root):
        inner = [str(child.tag) for child in children(element)]
        if element.tag == DAV + "lockscope":
            scope = inner[0] if len(inner) == 1 else ""
        elif element.tag == DAV + "locktype":
            kind = inner[0] if len(inner) == 1 else ""
        elif element.tag == DAV + "owner":
            owner = serialize(element)
            if len(owner) > MAX_OWNER_BYTES:
                raise Refused(413, "the owner is too long")
    if scope not in (DAV + "exclusive", DAV + "shared") or kind != DAV + "write":
        raise Refused(400, "malformed lockinfo")
    return scope == DAV + "exclusive", owner


def _depth_is_infinite(request: Request) -> bool:
    depth = request.headers.get("depth", "infinity").lower()
    if depth not in ("0", "infinity"):
        raise Refused(400, "the Depth of a LOCK is 0 or infinity")
    return depth == "infinity"


def _seconds(request: Request, usual: int) -> int:
    """Return the first requested timeout that is understood, at most ``MAX_TIMEOUT`` (RFC 4918 §10.7)."""
    for wanted in request.headers.get("timeout", "").split(","):
        wanted = wanted.strip()
        if wanted.lower() == "infinite":
            return MAX_TIMEOUT
        if match := _SECONDS.match(wanted):
            return max(1, min(int(match[1]), MAX_TIMEOUT))
    return usual


def _refresh(context: WebContext, request: Request, access: Access, resource: Resource) -> Response:
    if "if" in request.headers:
        access.check_conditions(resource.attributes)
    named = submitted_locks(context, request, access, resource)
    renewed = [context.locks.refresh(held, _seconds(request, held.details.seconds)) for held in named]
    return _shown(context, renewed, 200)


def submitted_locks(context: WebContext, request: Request, access: Access, resource: Resource) -> list[Lock]:
    """Return the locks that a LOCK without body refreshes. Raises Refused 400 without If, 412 where it names none."""
    if "if" not in request.headers:
        raise Refused(400, "a LOCK without body needs If")
    named = [held for held in _covering(context, request, resource) if access.submits(held)]
    if not named:
        raise Refused(412, condition="lock-token-matches-request-uri")
    return named


def _covering(context: WebContext, request: Request, resource: Resource) -> list[Lock]:
    inodes = path_inodes(context.fs, request.names)
    return context.locks.covering(inodes, exists=resource.attributes is not None)


def unlock(context: WebContext, request: Request) -> Response:
    """Answer UNLOCK. The token may lack its brackets, as Explorer's sometimes does."""
    token = request.headers.get("lock-token", "").strip().strip("<>")
    if not token:
        raise Refused(400, "Lock-Token is missing")
    resource = locate(context.fs, request.names)
    held = next((held for held in _covering(context, request, resource) if held.token == token), None)
    if held is None:
        raise Refused(409, condition="lock-token-matches-request-uri")
    if held.details.principal != request.user:
        raise Refused(403, "the lock is another user's")
    context.locks.remove([held])
    return Response(204)


# ---- response ----------------------------------------------------------------------------------------------------


def _shown(context: WebContext, locks: list[Lock], status: int, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    shown = lockdiscovery(context.locks, locks, context.public.prefix)
    body = f'{DECLARATION}<D:prop xmlns:D="DAV:">{shown}</D:prop>'.encode()
    return Response(status, [*headers, XML], body)
