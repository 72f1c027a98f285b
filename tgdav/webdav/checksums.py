"""SHA1 and MD5 of files: sent by clients with a PUT (ownCloud's OC-Checksum), or computed when a client asks.

Computing them while files are written would cost a mount a third of its rate, for the few clients that ask. They are computed
from what is stored on this machine, up to a bound per request; nothing is fetched for them. Computed ones are kept in memory, by
the content's tag: asking changes nothing, so it also works where nothing may be written.
"""

import base64
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from tgdav.errors import TgdavError
from tgdav.fs.api import FileSystem
from tgdav.http import Headers
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, Kind, Listed, listed
from tgdav.webdav.errors import Refused

CHECKSUMS = b"{http://owncloud.org/ns}checksums"
"""The property, as named in the file system. Its value there is the ETag's tag in hex, a space, ``SHA1:… MD5:…``."""

_CHECKSUM = re.compile(r"(SHA1|MD5):([0-9A-Fa-f]+)\Z", re.IGNORECASE)
_HEX_DIGITS = {"sha1": 40, "md5": 32}

CHECKSUM_REQUESTS = frozenset(("want-digest", "want-repr-digest"))
"""Request headers by which a client asks for checksums (RFC 3230, RFC 9530)."""

MAX_BYTES = 1 << 30
"""Bytes that are read for the checksums of one request."""

_KEPT = 20_000
_BLOCK = 1 << 20
_DIGEST_NAMES = {"SHA1": ("SHA", "sha"), "MD5": ("MD5", "md5")}
"""Names in Digest (RFC 3230) and in Repr-Digest (RFC 9530)."""


class Checksum(msgspec.Struct, frozen=True):
    """A checksum that a client sent; ``algorithm`` as hashlib names it, ``value`` in lower-case hex."""

    algorithm: str
    value: str


def read_checksum(headers: dict[str, str]) -> Checksum | None:
    """Return OC-Checksum where it is SHA1 or MD5; other kinds are not checked. Raises Refused 400 if malformed."""
    value = headers.get("oc-checksum")
    if value is None:
        return None
    match = _CHECKSUM.match(value.strip())
    if not match:
        return None
    algorithm = match[1].lower()
    if len(match[2]) != _HEX_DIGITS[algorithm]:
        raise Refused(400, "malformed OC-Checksum")
    return Checksum(algorithm, match[2].lower())


class Verifier:
    """Checks a body against the checksum that the client sent, and computes the other kind as well."""

    def __init__(self, expected: Checksum) -> None:
        self._expected = expected
        self._digests = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in _HEX_DIGITS}

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        for digest in self._digests.values():
            digest.update(block)

    def check(self) -> None:
        """Raise Refused 400 unless the checksum matches."""
        if self._digests[self._expected.algorithm].hexdigest() != self._expected.value:
            raise Refused(400, "the checksum does not match the body")

    def property_of(self, tag: bytes) -> bytes:
        """Return the stored value: with the content's tag, so that it is void for any other content."""
        sums = " ".join(f"{algorithm.upper()}:{digest.hexdigest()}" for algorithm, digest in self._digests.items())
        return f"{tag.hex()} {sums}".encode()


def sums_of(node: Attributes | Listed, kept: bytes | None) -> str | None:
    """Return ``SHA1:… MD5:…`` of the present content, or None if ``kept`` is missing or belongs to another one."""
    if kept is None or node.tag is None or node.dirty:
        return None
    tag, _, sums = kept.decode().partition(" ")
    return sums if tag == node.tag.hex() else None


def shown_checksums(node: Attributes | Listed, kept: bytes | None) -> str | None:
    """Return the property's XML, or None if the present content's checksums are unknown."""
    sums = sums_of(node, kept)
    if sums is None:
        return None
    return f'<o:checksums xmlns:o="http://owncloud.org/ns"><o:checksum>{sums}</o:checksum></o:checksums>'


class Checksums:
    """Thread-safe. A value is what ``owncloud.CHECKSUMS`` holds: ``SHA1:… MD5:…``."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def fill(self, nodes: Iterable[Listed], properties: dict[Inode, dict[bytes, bytes]]) -> None:
        """Add missing checksums of files to ``properties``, as far as they can be computed here."""
        left = MAX_BYTES
        for node in nodes:
            if node.kind != Kind.FILE or node.tag is None or node.dirty:
                continue
            if sums_of(node, properties.get(node.inode, {}).get(CHECKSUMS)) is not None:
                continue
            known = self._look_up(node.tag)
            if known is None and node.size <= left:
                left -= node.size
                known = self._make(node.inode, node.tag)
            if known is not None:
                properties.setdefault(node.inode, {})[CHECKSUMS] = f"{node.tag.hex()} {known}".encode()

    def headers(self, attributes: Attributes) -> Headers:
        """Return the response headers with the checksums of a file's whole content; none if they cannot be computed."""
        kept = self._fs.properties([attributes.inode])
        node = listed(b"", attributes)
        self.fill([node], kept)
        sums = sums_of(node, kept.get(attributes.inode, {}).get(CHECKSUMS))
        if sums is None:
            return []
        found = [part.partition(":") for part in sums.split()]
        encoded = [(name, base64.b64encode(bytes.fromhex(value)).decode()) for name, _, value in found]
        return [
            ("OC-Checksum", sums.split()[0]),
            ("Digest", ",".join(f"{_DIGEST_NAMES[name][0]}={value}" for name, value in encoded)),
            ("Repr-Digest", ", ".join(f"{_DIGEST_NAMES[name][1]}=:{value}:" for name, value in encoded)),
        ]

    def _look_up(self, tag: bytes) -> str | None:
        with self._lock:
            if tag in self._known:
                self._known.move_to_end(tag)
            return self._known.get(tag)

    def _make(self, inode: Inode, tag: bytes) -> str | None:
        try:
            handle = self._fs.open(inode)
        except TgdavError:
            return None
        try:
            if handle.keep_content() != tag or not handle.is_here():
                return None
            digests = {name: hashlib.new(name, usedforsecurity=False) for name in _DIGEST_NAMES}
            at = 0
            while block := handle.read(at, _BLOCK):
                at += len(block)
                for digest in digests.values():
                    digest.update(block)
        except TgdavError:
            return None  # a GET reports why it cannot be read
        finally:
            handle.close()
        made = " ".join(f"{name}:{digest.hexdigest()}" for name, digest in digests.items())
        with self._lock:
            self._known[tag] = made
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return made
