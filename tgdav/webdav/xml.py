"""Parsing XML from untrusted clients, and the few functions that write it."""

import re
from collections.abc import Iterable
from copy import deepcopy
from xml.sax.saxutils import escape, quoteattr

from lxml import etree

from tgdav.http import Request
from tgdav.webdav.context import MAX_XML_BYTES
from tgdav.webdav.errors import Refused

MAX_MARKUP = 20_000
"""Tags, and equals signs, in a request's XML. In the tree each takes hundreds of bytes, in the text about five."""

MAX_NAMESPACES = 1000
"""Namespace declarations in a request's XML: the lookup of each element's prefix is linear in those in scope."""

DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
DAV = "{DAV:}"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PREFIX = re.compile(r"(?<![\w.-])([^\W\d][\w.-]{0,99}):")
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def read_xml(request: Request, root: str) -> etree._Element | None:
    """Return the body's root element, which must be ``{DAV:}root``; None when there is no body.

    No DTD, no entities, no network; libxml2 refuses more than 256 levels. Raises Refused 400, 413 or 415.
    """
    data = request.body.read(MAX_XML_BYTES)
    if not data:
        return None
    # Counted in the bytes, before a tree exists.
    if data.count(b"<") > MAX_MARKUP or data.count(b"=") > MAX_MARKUP:
        raise Refused(413, "too much markup")
    if data.replace(b"\0", b"").count(b"xmlns") > MAX_NAMESPACES:
        raise Refused(413, "too many namespaces")
    element = parse_xml(data)
    if element.tag != DAV + root:
        raise Refused(400, f"expected DAV:{root}")
    return element


def parse_xml(data: bytes) -> etree._Element:
    """Parse XML without doctype. Raises Refused 400."""
    # Without the NULs UTF-16 reads like ASCII here; what other encodings hide is found in the tree below.
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        raise Refused(400, "a DOCTYPE is refused")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        element = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError, LookupError) as error:
        raise Refused(400, "malformed XML") from error
    if element.getroottree().docinfo.internalDTD is not None:
        raise Refused(400, "a DOCTYPE is refused")
    return element


def children(element: etree._Element) -> list[etree._Element]:
    """Return the child elements."""
    return [child for child in element if isinstance(child.tag, str)]


def text_of(element: etree._Element) -> str:
    """Return an element's own text, stripped."""
    return (element.text or "").strip()


def serialize(element: etree._Element) -> bytes:
    """Return an element as a self-contained fragment, with inherited xml:lang and the namespaces that it uses."""
    language = next((parent.get(_LANG) for parent in _lineage(element) if parent.get(_LANG) is not None), None)
    named = _prefixes_in_values(element)
    scope = {prefix: uri for prefix, uri in element.nsmap.items() if prefix in named} if named else {}
    # A copy keeps the namespaces of its element names; those used only in values are declared around it.
    holder = etree.Element("holder", nsmap=scope)
    holder.append(deepcopy(element))
    holder[0].tail = None
    etree.cleanup_namespaces(holder, top_nsmap=scope, keep_ns_prefixes=sorted(filter(None, named)))
    copy = etree.fromstring(etree.tostring(holder[0], encoding="utf-8"))
    if language is not None:
        copy.set(_LANG, language)
    return etree.tostring(copy, encoding="utf-8", xml_declaration=False)


def _prefixes_in_values(element: etree._Element) -> set[str]:
    """Return what may be prefixes in text and attributes, as in ``xsi:type="xs:string"``."""
    found: set[str] = set()
    for each in element.iter():
        for value in (each.text or "", each.tail or "", *map(str, each.attrib.values())):
            found.update(_PREFIX.findall(value))
    return found


def _lineage(element: etree._Element) -> Iterable[etree._Element]:
    yield element
    yield from element.iterancestors()


def split_name(clark: str) -> tuple[str, str]:
    """Return namespace and local part of ``{namespace}local``; no braces mean no namespace."""
    if clark.startswith("{"):
        namespace, _, local = clark[1:].partition("}")
        return namespace, local
    return "", clark


def empty_element(clark: str) -> str:
    """Return an empty element of that name, with the prefix ``D:`` in the namespace ``DAV:``."""
    namespace, local = split_name(clark)
    if namespace == "DAV:":
        return f"<D:{local}/>"
    if not namespace:
        return f'<{local} xmlns=""/>'
    return f"<x:{local} xmlns:x={quoteattr(namespace)}/>"


def element_with(clark: str, text: str) -> str:
    """Return an element with text, which is escaped."""
    namespace, local = split_name(clark)
    if namespace == "DAV:":
        return f"<D:{local}>{xml_text(text)}</D:{local}>"
    return f"<x:{local} xmlns:x={quoteattr(namespace)}>{xml_text(text)}</x:{local}>"


def xml_text(text: str) -> str:
    """Escape text for XML; characters that XML cannot hold become U+FFFD.

    A carriage return is written as a reference, for a parser reads the character itself as a line feed (XML 1.0 §2.11).
    """
    return escape(_FORBIDDEN.sub("\ufffd", text), {"\r": "&#13;"})
