"""PROPFIND (RFC 4918 §9.1): one query, one pass, and XML that simple parsers accept.

Every element of ``DAV:`` has the prefix ``D:``, nothing is indented, hrefs of collections end in a slash.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, compress, repeat

import msgspec
from lxml import etree

from tgdav.http import Request, Response
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, Kind, Listed, listed
from tgdav.webdav.access import Access
from tgdav.webdav.checksums import shown_checksums
from tgdav.webdav.context import MAX_NAME_CHARACTERS, MAX_PROPERTIES, WebContext
from tgdav.webdav.errors import XML, Refused
from tgdav.webdav.listing import listing
from tgdav.webdav.locks import lockdiscovery, path_inodes
from tgdav.webdav.page import is_listed
from tgdav.webdav.properties import ALL, BRIEF, CHECKSUMS, FILE, FOLDER, QUOTA, STATE, Renderer, constant
from tgdav.webdav.resources import find
from tgdav.webdav.urls import href, quote_names
from tgdav.webdav.xml import DAV, DECLARATION, children, element_with, empty_element, read_xml

_OPEN = f'{DECLARATION}<D:multistatus xmlns:D="DAV:">'
_CLOSE = "</D:multistatus>"
_HEAD = "</D:href><D:propstat><D:prop>"
_OK = "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>"
_MISSING = "</D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>"
_END = "</D:response>"

_SLASHES = {Kind.DIRECTORY: "/"}

Rows = Iterable[Sequence[str]]
"""A ``D:response`` each, in pieces."""


class Entries(msgspec.Struct, frozen=True):
    """The entries of a listing, as columns: hrefs and nodes."""

    hrefs: Sequence[str]
    nodes: Sequence[Listed]

    def only(self, chosen: Sequence[bool]) -> "Entries":
        """Return the entries at which ``chosen`` is true."""
        return Entries(list(compress(self.hrefs, chosen)), list(compress(self.nodes, chosen)))


class PropertyRequest(msgspec.Struct, frozen=True):
    """What a PROPFIND asks for: property names in Clark notation, dead ones too, or names only."""

    names: tuple[str, ...]
    dead: bool = False
    names_only: bool = False
    strict: bool = True
    """Whether missing properties are listed as 404; not for ``allprop``."""


def propfind(context: WebContext, request: Request) -> Response:
    """Answer PROPFIND with depth 0 or 1; for a file with any depth, since nothing is below it."""
    depth = request.headers.get("depth", "infinity").strip().lower()
    if depth not in ("0", "1", "infinity"):
        raise Refused(400, "the Depth of a PROPFIND is 0, 1 or infinity")
    asked = read_property_request(request)
    attributes = find(context.fs, request.names)
    if not (attributes.is_directory or attributes.is_file):
        raise Refused(404)
    if depth == "infinity" and attributes.is_directory:
        raise Refused(403, condition="propfind-finite-depth")
    if "if" in request.headers:
        Access(context, request, request.names).check_conditions(attributes)
    entries = _entries(context, request.names, attributes, deep=depth == "1")
    rows = Listing(context, request.names, asked, entries).rows()
    return listing(207, [XML], chain((_OPEN,), chain.from_iterable(rows), (_CLOSE,)))


def read_property_request(request: Request) -> PropertyRequest:
    """Return the properties that the body asks for; without a body, those that every client needs. Raises Refused 400, 413."""
    root = read_xml(request, "propfind") if request.has_body else None
    if root is None:
        return PropertyRequest(BRIEF, strict=False)
    found = {str(child.tag): child for child in children(root)}
    if DAV + "prop" in found:
        return PropertyRequest(_names_in(found[DAV + "prop"]))
    if DAV + "propname" in found:
        return PropertyRequest(ALL, dead=True, names_only=True, strict=False)
    if DAV + "allprop" in found:
        included = _names_in(found[DAV + "include"]) if DAV + "include" in found else ()
        return PropertyRequest((*ALL, *(name for name in included if name not in ALL)), dead=True, strict=False)
    raise Refused(400, "expected DAV:prop, DAV:propname or DAV:allprop")


def _names_in(element: etree._Element) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(str(child.tag) for child in children(element)))
    if len(names) > MAX_PROPERTIES or sum(map(len, names)) > MAX_NAME_CHARACTERS:
        raise Refused(413, "too many properties")
    return names


def _entries(context: WebContext, names: tuple[bytes, ...], attributes: Attributes, *, deep: bool) -> Entries:
    base = href(names, folder=attributes.is_directory, below=context.public.prefix)
    hrefs, nodes = [base], [listed(names[-1] if names else b"", attributes)]
    if deep and attributes.is_directory:
        found = [node for node in context.fs.list_briefly(attributes.inode) if is_listed(node)]
        paths = zip(found, quote_names([node.name for node in found]), strict=True)
        nodes += found
        hrefs += [f"{base}{path}{_SLASHES.get(node.kind, '')}" for node, path in paths]
    return Entries(hrefs, nodes)


class Listing:
    """Renders one response: a column of text for each property, then row by row."""

    def __init__(self, context: WebContext, names: tuple[bytes, ...], asked: PropertyRequest, entries: Entries) -> None:
        self._context = context
        self._names = names
        self._asked = asked
        self._entries = entries
        self._dead = self._dead_properties()
        self._extra: dict[str, Renderer] = self._computed()

    def rows(self) -> Rows:
        """Return a ``D:response`` for each entry, in order. Files and directories are rendered apart: their properties differ."""
        folder = Kind.DIRECTORY
        is_folder = [node.kind == folder for node in self._entries.nodes]
        is_file = [not each for each in is_folder]
        files = iter(self._rows_of(self._entries.only(is_file), FILE))
        folders = iter(self._rows_of(self._entries.only(is_folder), {**FOLDER, **self._quota()}))
        return (next(folders if each else files) for each in is_folder)

    def _rows_of(self, entries: Entries, live: dict[str, Renderer]) -> Rows:
        found, missing = self._plan(live)
        columns = [render(entries.nodes) for render in found]
        if self._dead is None:
            endings: Iterable[str] = repeat(self._ending("", missing, shown=bool(found)))
        else:
            endings = self._endings(entries.nodes, self._dead, missing, shown=bool(found))
        return zip(repeat("<D:response><D:href>"), entries.hrefs, repeat(_HEAD), *columns, endings)

    def _endings(
        self, nodes: Sequence[Listed], dead: dict[Inode, dict[bytes, bytes]], missing: list[str], *, shown: bool
    ) -> list[str]:
        """Return what follows the live properties of each node; most nodes have no dead ones."""
        # Rendered once and shared: only nodes with dead properties get an ending of their own.
        usual = self._ending("", [] if self._asked.dead else missing, shown=shown)
        return [
            self._ending(*self._dead_of(node, dead[node.inode], missing), shown=shown) if node.inode in dead else usual
            for node in nodes
        ]

    def _ending(self, dead: str, lost: list[str], *, shown: bool) -> str:
        """Return what follows the live properties, if any are ``shown``: dead ones, and the missing names."""
        if not lost or not self._asked.strict:
            return dead + _OK + _END
        absent = "".join([empty_element(clark) for clark in lost]) + _MISSING + _END
        return dead + _OK + "<D:propstat><D:prop>" + absent if shown or dead else absent

    # ---- plans ---------------------------------------------------------------------------------------------------

    def _plan(self, live: dict[str, Renderer]) -> tuple[list[Renderer], list[str]]:
        """Return the renderers for what such a node has of what is asked, and the names of the rest."""
        table = {**live, **self._extra}
        found = [name for name in self._asked.names if name in table]
        missing = [name for name in self._asked.names if name not in table]
        if self._asked.names_only:
            return [constant(empty_element(name)) for name in found], missing
        return [table[name] for name in found], missing

    def _computed(self) -> dict[str, Renderer]:
        """Return renderers of properties that need more than attributes."""
        wanted = set(self._asked.names)
        extra: dict[str, Renderer] = {}
        if DAV + "lockdiscovery" in wanted:
            extra[DAV + "lockdiscovery"] = self._lockdiscovery()
        if STATE in wanted:
            extra[STATE] = self._state
        return extra

    def _state(self, nodes: Sequence[Listed]) -> Iterable[str]:
        return [element_with(STATE, self._context.fs.upload_state(node.inode)) for node in nodes]

    def _lockdiscovery(self) -> Renderer:
        table, prefix = self._context.locks, self._context.public.prefix
        if not table.live():
            return constant("<D:lockdiscovery/>")
        inodes = path_inodes(self._context.fs, self._names)
        top = inodes[-1]

        def render(nodes: Sequence[Listed]) -> Iterable[str]:
            lineages = (inodes if node.inode == top else [*inodes, node.inode] for node in nodes)
            return [lockdiscovery(table, table.covering(lineage), prefix) for lineage in lineages]

        return render

    def _quota(self) -> dict[str, Renderer]:
        wanted = {DAV + local for local in ("quota-available-bytes", "quota-used-bytes", "quota", "quotaused")}
        if not wanted & set(self._asked.names):
            return {}
        capacity = self._context.fs.capacity()
        available, used = QUOTA
        return {
            available: constant(element_with(available, str(capacity.free))),
            used: constant(element_with(used, str(capacity.used))),
            DAV + "quota": constant(element_with(DAV + "quota", str(capacity.free + capacity.used))),
            DAV + "quotaused": constant(element_with(DAV + "quotaused", str(capacity.used))),
        }

    # ---- dead properties -----------------------------------------------------------------------------------------

    def _dead_properties(self) -> dict[Inode, dict[bytes, bytes]] | None:
        """Return the entries' dead properties in one query; None if none is asked for."""
        # Most listings ask for live properties alone: they save the query for dead ones.
        known = {*FILE, *FOLDER, *QUOTA, *ALL, STATE}
        if not self._asked.dead and all(name in known or name.startswith(DAV) for name in self._asked.names):
            return None
        found = self._context.fs.properties([node.inode for node in self._entries.nodes])
        if CHECKSUMS in self._asked.names:
            self._context.checksums.fill(self._entries.nodes, found)
        return found

    def _dead_of(self, node: Listed, kept: dict[bytes, bytes], missing: list[str]) -> tuple[str, list[str]]:
        """Return a node's dead properties as asked, and which of ``missing`` is still missing."""
        held = dict(kept)
        sums = shown_checksums(node, held.pop(CHECKSUMS.encode(), None))
        texts = {name.decode(): value.decode() for name, value in held.items()}
        if sums is not None:
            texts[CHECKSUMS] = sums
        if self._asked.names_only:
            return "".join(map(empty_element, texts)), []
        if self._asked.dead:
            return "".join(texts.values()), []
        found = "".join([texts[name] for name in missing if name in texts])
        return found, [name for name in missing if name not in texts]
