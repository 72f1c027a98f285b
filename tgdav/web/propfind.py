"""PROPFIND (RFC 4918 §9.1): one query, one pass, a serializer that writes what even simple parsers read.

Every element of ``DAV:`` has the prefix ``D:``, nothing is indented, folders' hrefs end in a slash.
"""

from collections.abc import Callable, Iterable

import msgspec
from lxml import etree

from tgdav.ids import Inode
from tgdav.metadata.types import Attributes
from tgdav.web.access import Access
from tgdav.web.errors import XML, Refused
from tgdav.web.lock_methods import lockdiscovery
from tgdav.web.locks import path_inodes
from tgdav.web.messages import Request, Response
from tgdav.web.owncloud import shown_checksums
from tgdav.web.page import is_listed
from tgdav.web.paths import find, href, quote_name
from tgdav.web.properties import ALL, BRIEF, CHECKSUMS, FILE, FOLDER, QUOTA, STATE, Renderer
from tgdav.web.site import MOST_PROPERTIES, Site
from tgdav.web.xml import DAV, DECLARATION, children, element_with, empty_element, read_xml

_OPEN = f'{DECLARATION}<D:multistatus xmlns:D="DAV:">'
_CLOSE = "</D:multistatus>"
_OK = "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
_MISSING = "</D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>"

Entry = tuple[str, Attributes, bytes]
"""An href, what it shows, its name as stored."""


class Wish(msgspec.Struct, frozen=True):
    """What a PROPFIND asks for: property names in Clark notation, dead ones too, or names only."""

    names: tuple[str, ...]
    dead: bool = False
    names_only: bool = False
    strict: bool = True
    """Whether to say 404 for what is not there; not for ``allprop``."""


def propfind(site: Site, request: Request) -> Response:
    """Answer PROPFIND with depth 0 or 1."""
    depth = request.headers.get("depth", "infinity").strip().lower()
    if depth == "infinity":
        raise Refused(403, condition="propfind-finite-depth")
    if depth not in ("0", "1"):
        raise Refused(400, "the Depth of a PROPFIND is 0, 1 or infinity")
    wish = _read_wish(request)
    attributes = find(site.fs, request.names)
    if not (attributes.is_directory or attributes.is_file):
        raise Refused(404)
    if "if" in request.headers:
        Access(site, request, request.names).check_conditions(attributes)
    entries = _entries(site, request.names, attributes, deep=depth == "1")
    body = "".join((_OPEN, *Listing(site, request.names, wish, entries).responses(), _CLOSE))
    return Response(207, [XML], body.encode())


def _read_wish(request: Request) -> Wish:
    root = read_xml(request, "propfind") if request.has_body else None
    if root is None:
        return Wish(BRIEF, strict=False)
    found = {str(child.tag): child for child in children(root)}
    if DAV + "prop" in found:
        return Wish(_names_in(found[DAV + "prop"]))
    if DAV + "propname" in found:
        return Wish(ALL, dead=True, names_only=True, strict=False)
    if DAV + "allprop" in found:
        included = _names_in(found[DAV + "include"]) if DAV + "include" in found else ()
        return Wish((*ALL, *(name for name in included if name not in ALL)), dead=True, strict=False)
    raise Refused(400, "expected DAV:prop, DAV:propname or DAV:allprop")


def _names_in(element: etree._Element) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(str(child.tag) for child in children(element)))
    if len(names) > MOST_PROPERTIES:
        raise Refused(413, "too many properties")
    return names


def _entries(site: Site, names: tuple[bytes, ...], attributes: Attributes, *, deep: bool) -> list[Entry]:
    base = href(names, folder=attributes.is_directory)
    entries = [(base, attributes, names[-1] if names else b"")]
    if deep and attributes.is_directory:
        for entry in site.fs.list_directory(attributes.inode):
            if is_listed(entry):
                path = base + quote_name(entry.name)
                entries.append((path + "/" if entry.attributes.is_directory else path, entry.attributes, entry.name))
    return entries


class Listing:
    """One answer in the making. Which renderers a kind of node needs is decided once, not for each entry."""

    def __init__(self, site: Site, names: tuple[bytes, ...], wish: Wish, entries: list[Entry]) -> None:
        self._site = site
        self._names = names
        self._wish = wish
        self._entries = entries
        self._dead = self._dead_properties()
        self._extra: dict[str, Renderer] = self._computed()

    def responses(self) -> Iterable[str]:
        """Yield a ``D:response`` for each entry."""
        plans = {False: self._plan(FILE), True: self._plan({**FOLDER, **self._quota()})}
        for path, attributes, name in self._entries:
            found, missing = plans[attributes.is_directory]
            yield self._response(path, attributes, name, found, missing)

    def _response(
        self, path: str, attributes: Attributes, name: bytes, found: list[Renderer], missing: list[str]
    ) -> str:
        shown = "".join([render(attributes, name) for render in found])
        head = f"<D:response><D:href>{path}</D:href><D:propstat><D:prop>"
        if self._dead is None:
            lost = missing
        else:
            dead, lost = self._dead_of(attributes, missing)
            shown += dead
        if not lost or not self._wish.strict:
            return head + shown + _OK
        absent = "".join([empty_element(clark) for clark in lost])
        if not shown:
            return head + absent + _MISSING
        return head + shown + _OK.removesuffix("</D:response>") + "<D:propstat><D:prop>" + absent + _MISSING

    # ---- plans ---------------------------------------------------------------------------------------------------

    def _plan(self, live: dict[str, Renderer]) -> tuple[list[Renderer], list[str]]:
        """Return the renderers for what such a node has of the wish, and the names of the rest."""
        table = {**live, **self._extra}
        found = [name for name in self._wish.names if name in table]
        missing = [name for name in self._wish.names if name not in table]
        if self._wish.names_only:
            return [_constant(empty_element(name)) for name in found], missing
        return [table[name] for name in found], missing

    def _computed(self) -> dict[str, Renderer]:
        """Return renderers that need more than attributes."""
        wanted = set(self._wish.names)
        extra: dict[str, Renderer] = {}
        if DAV + "lockdiscovery" in wanted:
            extra[DAV + "lockdiscovery"] = self._lockdiscovery()
        if STATE in wanted:
            extra[STATE] = lambda attributes, _: element_with(STATE, self._site.fs.storage_state(attributes.inode))
        return extra

    def _lockdiscovery(self) -> Renderer:
        table = self._site.locks
        if not table.live():
            return _constant("<D:lockdiscovery/>")
        inodes = path_inodes(self._site.fs, self._names)
        top = inodes[-1]

        def render(attributes: Attributes, _: bytes) -> str:
            lineage = inodes if attributes.inode == top else [*inodes, attributes.inode]
            return lockdiscovery(table, table.covering(lineage))

        return render

    def _quota(self) -> dict[str, Renderer]:
        wanted = {DAV + local for local in ("quota-available-bytes", "quota-used-bytes", "quota", "quotaused")}
        if not wanted & set(self._wish.names):
            return {}
        capacity = self._site.fs.capacity()
        available, used = QUOTA
        return {
            available: _constant(element_with(available, str(capacity.free))),
            used: _constant(element_with(used, str(capacity.used))),
            DAV + "quota": _constant(element_with(DAV + "quota", str(capacity.free + capacity.used))),
            DAV + "quotaused": _constant(element_with(DAV + "quotaused", str(capacity.used))),
        }

    # ---- dead properties -----------------------------------------------------------------------------------------

    def _dead_properties(self) -> dict[Inode, dict[bytes, bytes]] | None:
        """Return the entries' dead properties in one query; None where the wish names none."""
        known = {*FILE, *FOLDER, *QUOTA, *ALL, STATE}
        if not self._wish.dead and all(name in known or name.startswith(DAV) for name in self._wish.names):
            return None
        return self._site.fs.properties([attributes.inode for _, attributes, _ in self._entries])

    def _dead_of(self, attributes: Attributes, missing: list[str]) -> tuple[str, list[str]]:
        """Return a node's dead properties as asked, and which of ``missing`` is still missing."""
        held = dict(self._dead.get(attributes.inode, {})) if self._dead else {}
        sums = shown_checksums(attributes, held.pop(CHECKSUMS.encode(), None))
        texts = {name.decode(): value.decode() for name, value in held.items()}
        if sums is not None:
            texts[CHECKSUMS] = sums
        if self._wish.names_only:
            return "".join(map(empty_element, texts)), []
        if self._wish.dead:
            return "".join(texts.values()), []
        found = "".join([texts[name] for name in missing if name in texts])
        return found, [name for name in missing if name not in texts]


def _constant(text: str) -> Callable[[Attributes, bytes], str]:
    return lambda _, __: text
