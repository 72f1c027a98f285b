"""COPY and MOVE (RFC 4918 §9.8, §9.9): each is one change of the file system, whatever is below."""

from tgdav.http import Request, Response
from tgdav.metadata.types import AttributeChange, Attributes
from tgdav.webdav.access import Access
from tgdav.webdav.context import WebContext
from tgdav.webdav.dates import read_mtime
from tgdav.webdav.errors import Refused
from tgdav.webdav.locks import Lock
from tgdav.webdav.resources import Resource, locate
from tgdav.webdav.urls import check_changeable, split_destination


class CopyMove:
    """What COPY and MOVE have in common: source and target, and the rules for them."""

    def __init__(self, context: WebContext, request: Request, names: tuple[bytes, ...]) -> None:
        """``names`` are those of the target."""
        self._context = context
        self._request = request
        self._overwrite = _read_overwrite(request)
        self.mtime = read_mtime(request.headers)
        check_changeable(names)
        if not names:
            raise Refused(403)
        self.source = locate(context.fs, request.names) if request.names else _root(context)
        if self.source.attributes is None:
            raise Refused(404)
        self.target = locate(context.fs, names)
        self.from_access = Access(context, request, request.names)
        self.to_access = Access(context, request, names, own=False)
        self._check_places()
        self.replaced_locks = self._check_target()

    def _check_places(self) -> None:
        source, target = self.source, self.target
        if (source.parent, source.name) == (target.parent, target.name):
            raise Refused(403, "source and destination are the same")
        ours, theirs = source.names, target.names
        if theirs[: len(ours)] == ours or ours[: len(theirs)] == theirs:
            raise Refused(403, "one of source and destination is inside the other")

    def _check_target(self) -> list[Lock]:
        if self.target.attributes is not None and not self._overwrite:
            raise Refused(412, "the destination exists")
        self.to_access.check(self.target.attributes)
        return self.to_access.check_tree(self.target)

    def allow(self, current: Attributes | None) -> None:
        """Decide on the target at the moment of change; the file system's precondition."""
        if current is not None and not self._overwrite:
            raise Refused(412, "the destination exists")
        self.to_access.check(current)

    def finish(self, attributes: Attributes, *, replaced: bool) -> Response:
        """Update the locks, set the requested mtime, and return the response."""
        old = self.target.attributes.inode if self.target.attributes is not None else None
        # Locks of a replaced resource go on under the same URL (RFC 4918 §7.6); those below it end with what they locked.
        gone = [lock for lock in self.replaced_locks if lock.inode != old]
        self._context.locks.remove(gone)
        for lock in self.replaced_locks:
            if lock.inode == old:
                self._context.locks.rebind(lock, attributes.inode)
        headers = []
        if self.mtime is not None:
            change = AttributeChange(mtime=self.mtime)
            self._context.fs.set_attributes(attributes.inode, change, durable=True)
            headers.append(("X-OC-Mtime", "accepted"))
        return Response(204 if replaced else 201, headers)


def read_destination(context: WebContext, request: Request) -> tuple[bytes, ...]:
    """Return the names that the Destination header means. Raises Refused 400 or 502."""
    header = request.headers.get("destination")
    if header is None:
        raise Refused(400, "Destination is missing")
    return split_destination(header, request.headers.get("host", ""), context.public)


def _read_overwrite(request: Request) -> bool:
    value = request.headers.get("overwrite", "T").strip().upper()
    if value not in ("T", "F"):
        raise Refused(400, "Overwrite is T or F")
    return value == "T"


def _root(context: WebContext) -> Resource:
    return Resource((), context.fs.root, b"", context.fs.attributes(context.fs.root))


def copy(context: WebContext, request: Request) -> Response:
    """Answer COPY: of a directory alone with Depth 0, else with all below it. No data is copied."""
    depth = request.headers.get("depth", "infinity").strip().lower()
    if depth not in ("0", "infinity"):
        raise Refused(400, "the Depth of a COPY is 0 or infinity")
    return copy_to(context, request, read_destination(context, request), recursive=depth == "infinity")


def copy_to(context: WebContext, request: Request, names: tuple[bytes, ...], *, recursive: bool) -> Response:
    """Copy the request's resource to another path; durable."""
    transfer = CopyMove(context, request, names)
    source, target = transfer.source, transfer.target
    assert source.attributes is not None
    transfer.from_access.check_conditions(source.attributes)
    attributes, replaced = context.fs.copy(
        source.attributes.inode,
        target.parent,
        target.name,
        recursive=recursive,
        replace=True,
        precondition=transfer.allow,
        durable=True,
    )
    return transfer.finish(attributes, replaced=replaced)


def move(context: WebContext, request: Request) -> Response:
    """Answer MOVE. Locks are not moved: they end. Properties are."""
    if request.headers.get("depth", "infinity").strip().lower() != "infinity":
        raise Refused(400, "the Depth of a MOVE is infinity")
    check_changeable(request.names)
    if not request.names:
        raise Refused(403)
    return move_to(context, request, read_destination(context, request))


def move_to(context: WebContext, request: Request, names: tuple[bytes, ...]) -> Response:
    """Move the request's resource to another path; durable. The root and reserved names are 403."""
    check_changeable(request.names)
    if not request.names:
        raise Refused(403)
    transfer = CopyMove(context, request, names)
    source, target = transfer.source, transfer.target
    assert source.attributes is not None
    transfer.from_access.check(source.attributes)
    transfer.from_access.check_membership()
    locks = transfer.from_access.check_tree(source)
    replaced = context.fs.rename(
        source.parent,
        source.name,
        target.parent,
        target.name,
        replace_tree=True,
        precondition=transfer.allow,
        durable=True,
    )
    context.locks.remove(locks)
    return transfer.finish(source.attributes, replaced=replaced)
