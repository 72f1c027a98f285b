"""Directories and files as WsgiDAV's resources, over the ``Resource`` objects that our own handlers use.

They make their changes through those handlers' functions: ``Access`` decides on each at the moment it is made, and each is
durable when the call returns.
"""

from typing import Any

from lxml import etree
from wsgidav.dav_error import HTTP_NOT_FOUND, DAVError
from wsgidav.dav_provider import DAVCollection, DAVNonCollection

from tgdav.errors import TgdavError
from tgdav.http import HttpError
from tgdav.metadata.types import AttributeChange, Attributes, listed
from tgdav.webdav.access import Access
from tgdav.webdav.checksums import CHECKSUM_REQUESTS
from tgdav.webdav.conditions import etag
from tgdav.webdav.context import WebContext
from tgdav.webdav.dates import SECOND
from tgdav.webdav.errors import Refused, translate
from tgdav.webdav.exchange import Environ, Exchange, exchange_of
from tgdav.webdav.media_types import media_type
from tgdav.webdav.methods.copy_move import copy_to, move_to
from tgdav.webdav.methods.delete import remove
from tgdav.webdav.methods.lock import map_name
from tgdav.webdav.methods.mkcol import create_collection
from tgdav.webdav.methods.propfind import Entries, Listing, PropertyRequest
from tgdav.webdav.methods.proppatch import Patch
from tgdav.webdav.methods.put import Put
from tgdav.webdav.open_content import OpenContent, protection
from tgdav.webdav.page import is_listed
from tgdav.webdav.properties import ALL
from tgdav.webdav.resources import Resource, locate
from tgdav.webdav.urls import check_changeable, href, names_of, shown

Properties = list[tuple[str, Any]]
"""Names in Clark notation, each with an element, a DAVError, or None if only names were requested."""


class Refusal(DAVError):  # type: ignore[misc]
    """One of our errors as a DAVError, with the status, headers and body of our own server."""

    def __init__(self, error: HttpError | TgdavError) -> None:
        self.response = translate(error)
        super().__init__(self.response.status, src_exception=error)
        self.add_headers = [each for each in self.response.headers if each[0] != "Content-Type"]

    def get_response_page(self) -> tuple[str, bytes]:
        """Return Content-Type and body."""
        kind = dict(self.response.headers).get("Content-Type", "text/plain")
        assert isinstance(self.response.body, bytes), "error responses are short"
        return kind, self.response.body


class _Node:
    """What directories and files have in common. ``resource.attributes`` is None for a file that a PUT is about to create."""

    environ: Environ
    path: str
    row: str | None = None

    def set_resource(self, resource: Resource) -> None:
        """Set the resource."""
        self.resource = resource

    @property
    def attributes(self) -> Attributes:
        """The attributes."""
        assert self.resource.attributes is not None, "nothing exists yet"
        return self.resource.attributes

    @property
    def exchange(self) -> Exchange:
        """The request in which the node was looked up."""
        return exchange_of(self.environ)

    @property
    def context(self) -> WebContext:
        """The served file system."""
        return self.exchange.context

    # ---- live properties ----------------------------------------------------------------------------------------

    def get_creation_date(self) -> float:
        """Return the birth time in seconds since 1970."""
        return self.attributes.btime / SECOND

    def get_last_modified(self) -> float | None:
        """Return mtime in seconds since 1970."""
        return None if self.resource.attributes is None else self.attributes.mtime / SECOND

    def get_display_name(self) -> str:
        """Return the name as stored."""
        return shown(self.resource.name).decode()

    def get_href(self) -> str:
        """Return the percent-encoded URL path; that of a collection ends in a slash."""
        folder = self.resource.attributes is not None and self.attributes.is_directory
        return href(self.resource.names, folder=folder, below=self.context.public.prefix)

    def get_ref_url(self) -> str:
        """Return the key of locks and properties: ``get_href`` without a final slash."""
        return href(self.resource.names, folder=False, below=self.context.public.prefix)

    # ---- properties ---------------------------------------------------------------------------------------------

    def get_property_names(self, *, is_allprop: bool) -> list[str]:
        """Return the names of all properties, live and dead."""
        mode = "allprop" if is_allprop else "name"
        return [name for name, _ in self.get_properties(mode) if not name.startswith("{tgdav:}")]

    def get_properties(self, mode: str, *, name_list: list[str] | None = None) -> Properties:
        """Return properties as our own PROPFIND shows them: (name, element | DAVError | None)."""
        of_request = self.exchange.asked
        asked = of_request if of_request is not None else _property_request(mode, name_list)
        if self.row is None or of_request is None:
            entries = Entries([self.get_href()], [listed(self.resource.name, self.attributes)])
            row = "".join(next(iter(Listing(self.context, self.resource.names, asked, entries).rows())))
        else:
            row = self.row
        return _properties(row, names_only=asked.names_only)

    def get_property_value(self, name: str) -> Any:
        """Return a property's element. Raises DAVError 404."""
        asked = _property_request("named", [name])
        entries = Entries([self.get_href()], [listed(self.resource.name, self.attributes)])
        row = "".join(next(iter(Listing(self.context, self.resource.names, asked, entries).rows())))
        [(_, value)] = _properties(row, names_only=False)
        if isinstance(value, DAVError):
            raise value
        return value

    def set_property_value(self, name: str, value: Any, *, dry_run: bool = False) -> None:
        """Set a property, or remove it (None).

        The first call that is not a dry run applies the whole PROPPATCH, or nothing of it.
        """
        patch = self.exchange.patch
        if patch is None:
            patch = Patch()
            patch.add(etree.Element(name) if value is None else value, removing=value is None)
        if name in patch.refused:
            raise DAVError(patch.refused[name])
        if dry_run:
            return
        try:
            patch.apply(self.context, self.attributes)
        except (HttpError, TgdavError) as error:
            raise Refusal(error) from error

    def set_last_modified(self, dest_path: str, time_stamp: object, *, dry_run: bool) -> bool:
        """Set mtime in seconds since 1970; after a PUT, COPY or MOVE it was already set by the change itself."""
        if not dry_run and self.exchange.response is None:
            found = locate(self.context.fs, names_of(dest_path)).attributes
            change = AttributeChange(mtime=int(float(str(time_stamp)) * SECOND))
            self.context.fs.set_attributes((found or self.attributes).inode, change, durable=True)
        return True

    # ---- changes ------------------------------------------------------------------------------------------------

    def handle_delete(self) -> bool:
        """Remove the resource and everything below it, as one change."""
        try:
            remove(self.context, self.exchange.request, self.resource.names)
        except (HttpError, TgdavError) as error:
            raise Refusal(error) from error
        return True

    def delete(self) -> list[tuple[str, DAVError]]:
        """As ``handle_delete``; single members never fail."""
        self.handle_delete()
        return []

    def support_recursive_delete(self) -> bool:
        """Return True."""
        return True

    def handle_copy(self, dest_path: str, *, depth_infinity: bool) -> bool:
        """Copy as one change. The Destination header names the target: WsgiDAV decoded ``dest_path`` before splitting it."""
        try:
            names = self._destination(dest_path)
            self.exchange.response = copy_to(self.context, self.exchange.request, names, recursive=bool(depth_infinity))
        except (HttpError, TgdavError) as error:
            raise Refusal(error) from error
        return True

    def handle_move(self, dest_path: str) -> bool:
        """Move as one change; the target as in ``handle_copy``."""
        try:
            self.exchange.response = move_to(self.context, self.exchange.request, self._destination(dest_path))
        except (HttpError, TgdavError) as error:
            raise Refusal(error) from error
        return True

    def _destination(self, dest_path: str) -> tuple[bytes, ...]:
        destination = self.exchange.destination
        return names_of(dest_path) if destination is None else destination


class Folder(_Node, DAVCollection):  # type: ignore[misc]
    """A directory."""

    def get_used_bytes(self) -> int:
        """Return the bytes of all files of the drive."""
        return self.context.fs.capacity().used

    def get_available_bytes(self) -> int:
        """Return how many bytes can still be staged."""
        return self.context.fs.capacity().free

    def get_member_names(self) -> list[str]:
        """Return the members' names."""
        return [member.name for member in self.get_member_list()]

    def get_member_list(self) -> list["Folder | File"]:
        """Return the members in one query; for a PROPFIND their properties in one more."""
        context, names = self.context, self.resource.names
        entries = [
            entry
            for entry in context.fs.list_directory(self.attributes.inode)
            if is_listed(listed(entry.name, entry.attributes))
        ]
        base = self.path.rstrip("/")
        members = [
            node_of(
                f"{base}/{shown(entry.name).decode()}",
                self.environ,
                Resource((*names, entry.name), self.attributes.inode, entry.name, entry.attributes),
            )
            for entry in entries
        ]
        asked = self.exchange.asked
        if asked is not None and members:
            nodes = [listed(entry.name, entry.attributes) for entry in entries]
            table = Entries([member.get_href() for member in members], nodes)
            for member, row in zip(members, Listing(context, names, asked, table).rows(), strict=True):
                member.row = "".join(row)
        return members

    def create_collection(self, name: str) -> None:
        """Create a directory in this one."""
        create_collection(self.context, self.exchange.request, (*self.resource.names, name.encode()))

    def create_empty_resource(self, name: str) -> "File":
        """Create an empty file. For a PUT nothing is created until its body is complete."""
        exchange, names = self.exchange, (*self.resource.names, name.encode())
        resource = locate(exchange.context.fs, names)
        if exchange.request.method != "PUT" or exchange.request.names != names:
            check_changeable(names)
            attributes, _ = map_name(exchange.context, Access(exchange.context, exchange.request, names), resource)
            resource = Resource(names, resource.parent, resource.name, attributes)
        return File.of(f"{self.path.rstrip('/')}/{name}", self.environ, resource)

    @classmethod
    def of(cls, path: str, environ: Environ, resource: Resource) -> "Folder":
        """Return the node for a directory."""
        node = cls(path, environ)
        node.set_resource(resource)
        return node


class File(_Node, DAVNonCollection):  # type: ignore[misc]
    """A file."""

    @classmethod
    def of(cls, path: str, environ: Environ, resource: Resource) -> "File":
        """Return the node for a file."""
        node = cls(path, environ)
        node.set_resource(resource)
        return node

    def get_content_length(self) -> int:
        """Return the size in bytes."""
        return self.attributes.size

    def get_content_type(self) -> str:
        """Return the media type; of text that is sent as UTF-8, with the charset."""
        content = self.exchange.content
        return media_type(self.resource.name) if content is None else content.type_header()[1]

    def get_etag(self) -> str | None:
        """Return the strong ETag without quotes, as WsgiDAV expects it."""
        found = self.resource.attributes
        return None if found is None else (etag(found) or "").strip('"') or None

    def support_etag(self) -> bool:
        """Return True."""
        return True

    def support_ranges(self) -> bool:
        """Return True."""
        return True

    def get_content(self) -> "ContentStream":
        """Open the content, pinned against changes. Raises Refused 503 if it has changed already."""
        content = self.exchange.content
        if content is None:
            content = OpenContent(self.context, self.attributes, media_type(self.resource.name))
            if not content.pin():
                content.close()
                raise Refused(503, "the file has changed", headers=(("Retry-After", "1"),))
        return ContentStream(content, self.attributes.size)

    def begin_write(self, *, content_type: str | None = None) -> "BodyWriter":  # noqa: ARG002
        """Begin a new content; nothing is visible before ``close`` of what is returned."""
        exchange = self.exchange
        put = exchange.put
        if put is None:
            put = exchange.closing.enter_context(Put(self.context, exchange.request, self.resource.names, early=True))
        return BodyWriter(exchange, put)

    def end_write(self, *, with_errors: bool) -> None:
        """Do nothing: an uncommitted content is dropped when the request ends."""

    def finalize_headers(self, environ: Environ, response_headers: list[tuple[str, str]]) -> None:  # noqa: ARG002
        """Add headers that keep documents from acting on the drive in a browser, and requested checksums."""
        exchange = self.exchange
        response_headers += protection(media_type(self.resource.name))
        if not CHECKSUM_REQUESTS.isdisjoint(exchange.request.headers):
            response_headers += exchange.context.checksums.headers(self.attributes)


class ContentStream:
    """A file's content as WsgiDAV reads it. An error or a change ends the response early; wrong bytes are never sent."""

    def __init__(self, content: OpenContent, size: int) -> None:
        self._content, self._size, self._at = content, size, 0
        self.close = content.close

    def seek(self, offset: int) -> None:
        """Set the position."""
        self._at = offset

    def read(self, count: int) -> bytes:
        """Return the next bytes; none at the end."""
        count = min(count, self._size - self._at)
        if count <= 0:
            return b""
        block = self._content.read_unchanged(self._at, count)
        self._at += len(block)
        return block


class BodyWriter:
    """Receives a PUT's body from WsgiDAV."""

    def __init__(self, exchange: Exchange, put: Put) -> None:
        self._exchange, self._put = exchange, put
        self._received = 0

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        self._received += len(data)
        self._put.write(memoryview(data))

    def close(self) -> None:
        """Commit, durably. Raises Refused 400 for a body that was cut off; a WSGI server ends it like a complete one."""
        announced = self._exchange.request.body.length if self._exchange.put is self._put else None
        if announced is not None and announced != self._received:
            raise Refused(400, "the body is incomplete")
        self._exchange.response = self._put.commit()


def node_of(path: str, environ: Environ, resource: Resource) -> Folder | File:
    """Return the node for a directory or a file."""
    assert resource.attributes is not None, "only what exists has a node"
    kind = Folder if resource.attributes.is_directory else File
    return kind.of(path, environ, resource)


def _property_request(mode: str, names: list[str] | None) -> PropertyRequest:
    if mode == "named":
        return PropertyRequest(tuple(names or ()))
    return PropertyRequest(ALL, dead=True, names_only=mode == "name", strict=False)


def _properties(row: str, *, names_only: bool) -> Properties:
    """Return the properties in a ``D:response`` in WsgiDAV's form."""
    found: Properties = []
    response = etree.fromstring(f'<D:multistatus xmlns:D="DAV:">{row}</D:multistatus>'.encode())[0]
    for propstat in response.iterfind("{DAV:}propstat"):
        exists = " 200 " in (propstat.findtext("{DAV:}status") or "")
        for element in propstat.iterfind("{DAV:}prop/*"):
            name = str(element.tag)
            found.append((name, None if names_only else element if exists else DAVError(HTTP_NOT_FOUND)))
    return found
