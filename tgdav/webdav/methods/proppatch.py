"""PROPPATCH (RFC 4918 §9.2): all or nothing. Some properties are a node's times, and change those."""

from functools import cached_property

from lxml import etree

from tgdav.http import Request, Response
from tgdav.http.head import status_line
from tgdav.metadata.types import AttributeChange, Attributes
from tgdav.webdav.access import Access
from tgdav.webdav.context import MAX_PROPERTIES, WebContext
from tgdav.webdav.dates import NO_DATE, read_time
from tgdav.webdav.errors import XML, Refused
from tgdav.webdav.properties import PROTECTED, WIN32
from tgdav.webdav.resources import find
from tgdav.webdav.urls import check_changeable, href
from tgdav.webdav.xml import DAV, DECLARATION, children, empty_element, read_xml, serialize, text_of

_TIMES = {
    DAV + "lastmodified": "mtime",
    WIN32 + "Win32LastModifiedTime": "mtime",
    WIN32 + "Win32CreationTime": "btime",
}
"""Properties that are a node's times; as seconds since 1970 or as an HTTP date."""

MAX_VALUE_BYTES = 1 << 20
"""Bytes of the names and values that one request sets."""


class Patch:
    """The changes that a PROPPATCH asks for, in document order; the last one for each name counts."""

    def __init__(self, root: etree._Element | None = None) -> None:
        self._elements: dict[str, etree._Element | None] = {}
        self.times: dict[str, int] = {}
        self.names: dict[str, None] = {}
        self.refused: dict[str, int] = {}
        self._applied = False
        for instruction in children(root) if root is not None else ():
            if instruction.tag not in (DAV + "set", DAV + "remove"):
                continue
            for prop in children(instruction):
                if prop.tag != DAV + "prop":
                    continue
                for element in children(prop):
                    self.add(element, removing=instruction.tag == DAV + "remove")

    def add(self, element: etree._Element, *, removing: bool) -> None:
        """Set the property that an element names to it, or remove it."""
        name = str(element.tag)
        self.names[name] = None
        if name in PROTECTED:
            self.refused[name] = 403
        elif name in _TIMES:
            self._add_time(name, element, removing=removing)
        else:
            self._elements[name] = None if removing else element

    @cached_property
    def values(self) -> dict[bytes, bytes | None]:
        """Return the new value for each name; None removes it. Raises Refused 413 if they are too large."""
        values: dict[bytes, bytes | None] = {}
        total = 0
        for name, element in self._elements.items():
            value = None if element is None else serialize(element)
            total += len(name) + len(value or b"")
            if total > MAX_VALUE_BYTES:
                raise Refused(413, "the properties are too large")
            values[name.encode()] = value
        return values

    def _add_time(self, name: str, element: etree._Element, *, removing: bool) -> None:
        if removing:
            return
        moment = read_time(text_of(element))
        if moment is None:
            self.refused[name] = 400
        elif moment != NO_DATE:
            self.times[_TIMES[name]] = moment

    def apply(self, context: WebContext, attributes: Attributes) -> None:
        """Apply all changes, or none; durable. Calling it again does nothing."""
        if self._applied:
            return
        change = AttributeChange(**self.times) if self.times else None
        values = self.values
        if values or change is not None:
            context.fs.set_properties(attributes.inode, values, attributes=change, durable=True)
        self._applied = True

    def check_size(self) -> None:
        """Raise Refused 413 if the values are too large."""
        assert self.values is not None

    @property
    def only_win32(self) -> bool:
        """Whether it names Explorer's own properties and nothing else."""
        return bool(self.names) and all(name.startswith(WIN32) for name in self.names)


def proppatch(context: WebContext, request: Request) -> Response:
    """Answer PROPPATCH."""
    check_changeable(request.names)
    attributes = find(context.fs, request.names)
    patch = read_patch(request, Access(context, request, request.names), attributes)
    path = href(request.names, folder=attributes.is_directory, below=context.public.prefix)
    if patch.refused:
        return _answer(path, {name: patch.refused.get(name, 424) for name in patch.names})
    patch.apply(context, attributes)
    return _answer(path, dict.fromkeys(patch.names, 200))


def read_patch(request: Request, access: Access, attributes: Attributes) -> Patch:
    """Return the requested changes, if they are allowed. Raises Refused 400, 412, 413 or 423."""
    refusal = _refusal(access, attributes)
    root = read_xml(request, "propertyupdate")
    if root is None:
        raise Refused(400, "a PROPPATCH needs a body")
    patch = Patch(root)
    if len(patch.names) > MAX_PROPERTIES:
        raise Refused(413, "too many properties")
    if refusal is not None and not patch.only_win32:
        raise refusal
    return patch


def _refusal(access: Access, attributes: Attributes) -> Refused | None:
    """Decide on the change before the body is read; return the refusal of anything but Win32 times.

    Explorer and Office set these without submitting their token, which the lock's owner may do. Raises Refused 412 or 423.
    """
    try:
        access.check(attributes)
    except Refused as refusal:
        if refusal.status != 423 or not access.owns_lock(attributes):
            raise
        return refusal
    return None


def _answer(path: str, statuses: dict[str, int]) -> Response:
    groups: dict[int, str] = {}
    for name, status in statuses.items():
        groups[status] = groups.get(status, "") + empty_element(name)
    propstats = "".join(_propstat(names, status) for status, names in groups.items())
    body = (
        f'{DECLARATION}<D:multistatus xmlns:D="DAV:"><D:response><D:href>{path}</D:href>{propstats}'
        "</D:response></D:multistatus>"
    )
    return Response(207, [XML], body.encode())


def _propstat(names: str, status: int) -> str:
    reason = "<D:error><D:cannot-modify-protected-property/></D:error>" if status == 403 else ""
    return f"<D:propstat><D:prop>{names}</D:prop><D:status>{status_line(status)}</D:status>{reason}</D:propstat>"
