"""The live properties, and how each is rendered from a node's attributes.

A renderer takes many nodes and returns the property element of each: in a large directory, the calls would cost more than the
rendering.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from tgdav.metadata.types import Listed
from tgdav.webdav.conditions import etag_of_file
from tgdav.webdav.dates import SECOND, http_date, http_date_of, iso_date_of
from tgdav.webdav.media_types import media_type
from tgdav.webdav.urls import shown
from tgdav.webdav.xml import DAV, xml_text

Renderer = Callable[[Sequence[Listed]], Iterable[str]]

WIN32 = "{urn:schemas-microsoft-com:}"
STATE = "{tgdav:}state"
CHECKSUMS = "{http://owncloud.org/ns}checksums"
_WIN32_OPEN = 'xmlns:Z="urn:schemas-microsoft-com:"'

SUPPORTEDLOCK = (
    "<D:supportedlock>"
    "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    "<D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    "</D:supportedlock>"
)


def constant(text: str) -> Renderer:
    """Return a renderer whose result is the same for every node."""
    return lambda _: repeat(text)


def _displayname(nodes: Sequence[Listed]) -> Iterable[str]:
    # No name contains a slash, so all names are escaped by one call.
    texts = xml_text(shown(b"/".join([node.name for node in nodes])).decode()).split("/")
    return [f"<D:displayname>{text}</D:displayname>" for text in texts]


def _length(nodes: Sequence[Listed]) -> Iterable[str]:
    return [f"<D:getcontentlength>{node.size}</D:getcontentlength>" for node in nodes]


def _etag(nodes: Sequence[Listed]) -> Iterable[str]:
    return [f"<D:getetag>{etag_of_file(node)}</D:getetag>" for node in nodes]


def _modified(nodes: Sequence[Listed]) -> Iterable[str]:
    return [f"<D:getlastmodified>{http_date_of(node.mtime // SECOND)}</D:getlastmodified>" for node in nodes]


def _created(nodes: Sequence[Listed]) -> Iterable[str]:
    return [f"<D:creationdate>{iso_date_of(node.btime // SECOND)}</D:creationdate>" for node in nodes]


def _type(nodes: Sequence[Listed]) -> Iterable[str]:
    return [f"<D:getcontenttype>{media_type(node.name)}</D:getcontenttype>" for node in nodes]


def _seconds(nodes: Sequence[Listed]) -> Iterable[str]:
    return [f"<D:lastmodified>{node.mtime // SECOND}</D:lastmodified>" for node in nodes]


def _win32_modified(nodes: Sequence[Listed]) -> Iterable[str]:
    opening, end = f"<Z:Win32LastModifiedTime {_WIN32_OPEN}>", "</Z:Win32LastModifiedTime>"
    return [f"{opening}{http_date(node.mtime)}{end}" for node in nodes]


def _win32_created(nodes: Sequence[Listed]) -> Iterable[str]:
    opening, end = f"<Z:Win32CreationTime {_WIN32_OPEN}>", "</Z:Win32CreationTime>"
    return [f"{opening}{http_date(node.btime)}{end}" for node in nodes]


_COMMON: dict[str, Renderer] = {
    DAV + "creationdate": _created,
    DAV + "getlastmodified": _modified,
    DAV + "displayname": _displayname,
    DAV + "supportedlock": constant(SUPPORTEDLOCK),
    DAV + "lastmodified": _seconds,
    WIN32 + "Win32LastModifiedTime": _win32_modified,
    WIN32 + "Win32CreationTime": _win32_created,
}

FILE: dict[str, Renderer] = {
    **_COMMON,
    DAV + "resourcetype": constant("<D:resourcetype/>"),
    DAV + "getcontentlength": _length,
    DAV + "getetag": _etag,
    DAV + "getcontenttype": _type,
}
"""The properties of every file."""

FOLDER: dict[str, Renderer] = {
    **_COMMON,
    DAV + "resourcetype": constant("<D:resourcetype><D:collection/></D:resourcetype>"),
    DAV + "getcontenttype": constant("<D:getcontenttype>httpd/unix-directory</D:getcontenttype>"),
}
"""The properties of every directory."""

BRIEF = tuple(
    DAV + local for local in ("resourcetype", "creationdate", "getcontentlength", "getlastmodified", "getetag")
)
"""The properties for a PROPFIND without body: enough for every client, small enough for Explorer's limit of 1 MB."""

ALL = (*BRIEF, DAV + "displayname", DAV + "getcontenttype", DAV + "supportedlock", DAV + "lockdiscovery")
"""The properties for ``allprop``, beside dead ones (RFC 4918 §9.1)."""

QUOTA = tuple(DAV + local for local in ("quota-available-bytes", "quota-used-bytes"))

PROTECTED = frozenset(
    DAV + local
    for local in [
        "resourcetype",
        "creationdate",
        "getcontentlength",
        "getlastmodified",
        "getetag",
        "displayname",
        "getcontenttype",
        "supportedlock",
        "lockdiscovery",
        "quota-available-bytes",
        "quota-used-bytes",
        "quota",
        "quotaused",
    ]
) | {STATE, CHECKSUMS}
"""Properties that no PROPPATCH may change."""
