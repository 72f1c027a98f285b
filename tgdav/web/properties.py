"""The live properties: which there are, and how each is written from a node's attributes.

A renderer takes attributes and the name as stored, and returns the whole property element.
"""

import re
from collections.abc import Callable

from tgdav.metadata.types import Attributes
from tgdav.web.conditions import SECOND
from tgdav.web.live import etag, http_date, iso_date, media_type
from tgdav.web.paths import shown
from tgdav.web.xml import DAV, xml_text

Renderer = Callable[[Attributes, bytes], str]

WIN32 = "{urn:schemas-microsoft-com:}"
STATE = "{tgdav:}state"
CHECKSUMS = "{http://owncloud.org/ns}checksums"
_WIN32_OPEN = 'xmlns:Z="urn:schemas-microsoft-com:"'
_PLAIN = re.compile(rb"[\x20-\x25\x27-\x3b=?-\x7e]*\Z")

SUPPORTEDLOCK = (
    "<D:supportedlock>"
    "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    "<D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    "</D:supportedlock>"
)


def _displayname(_: Attributes, name: bytes) -> str:
    if _PLAIN.match(name):
        return f"<D:displayname>{name.decode('ascii')}</D:displayname>"
    return f"<D:displayname>{xml_text(shown(name).decode())}</D:displayname>"


def _resourcetype(attributes: Attributes, _: bytes) -> str:
    return "<D:resourcetype><D:collection/></D:resourcetype>" if attributes.is_directory else "<D:resourcetype/>"


def _length(attributes: Attributes, _: bytes) -> str:
    return f"<D:getcontentlength>{attributes.size}</D:getcontentlength>"


def _etag(attributes: Attributes, _: bytes) -> str:
    return f"<D:getetag>{etag(attributes)}</D:getetag>"


def _modified(attributes: Attributes, _: bytes) -> str:
    return f"<D:getlastmodified>{http_date(attributes.mtime)}</D:getlastmodified>"


def _created(attributes: Attributes, _: bytes) -> str:
    return f"<D:creationdate>{iso_date(attributes.btime)}</D:creationdate>"


def _type(_: Attributes, name: bytes) -> str:
    return f"<D:getcontenttype>{media_type(name)}</D:getcontenttype>"


def _folder_type(_: Attributes, __: bytes) -> str:
    return "<D:getcontenttype>httpd/unix-directory</D:getcontenttype>"


def _seconds(attributes: Attributes, _: bytes) -> str:
    return f"<D:lastmodified>{attributes.mtime // SECOND}</D:lastmodified>"


def _win32_modified(attributes: Attributes, _: bytes) -> str:
    return f"<Z:Win32LastModifiedTime {_WIN32_OPEN}>{http_date(attributes.mtime)}</Z:Win32LastModifiedTime>"


def _win32_created(attributes: Attributes, _: bytes) -> str:
    return f"<Z:Win32CreationTime {_WIN32_OPEN}>{http_date(attributes.btime)}</Z:Win32CreationTime>"


def _supportedlock(_: Attributes, __: bytes) -> str:
    return SUPPORTEDLOCK


_COMMON: dict[str, Renderer] = {
    DAV + "resourcetype": _resourcetype,
    DAV + "creationdate": _created,
    DAV + "getlastmodified": _modified,
    DAV + "displayname": _displayname,
    DAV + "supportedlock": _supportedlock,
    DAV + "lastmodified": _seconds,
    WIN32 + "Win32LastModifiedTime": _win32_modified,
    WIN32 + "Win32CreationTime": _win32_created,
}

FILE: dict[str, Renderer] = {
    **_COMMON,
    DAV + "getcontentlength": _length,
    DAV + "getetag": _etag,
    DAV + "getcontenttype": _type,
}
"""What every file has."""

FOLDER: dict[str, Renderer] = {**_COMMON, DAV + "getcontenttype": _folder_type}
"""What every folder has."""

BRIEF = tuple(
    DAV + local for local in ("resourcetype", "creationdate", "getcontentlength", "getlastmodified", "getetag")
)
"""What a listing without body shows: enough for every client, small enough for Explorer's 1 MB."""

ALL = (*BRIEF, DAV + "displayname", DAV + "getcontenttype", DAV + "supportedlock", DAV + "lockdiscovery")
"""What ``allprop`` shows beside dead properties (RFC 4918 §9.1)."""

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
"""What no PROPPATCH changes."""
