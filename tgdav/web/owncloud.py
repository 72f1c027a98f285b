"""What rclone's vendor ``owncloud`` and its kin say beside WebDAV: modification times and checksums."""

import hashlib
import re

import msgspec

from tgdav.metadata.types import Attributes, Listed
from tgdav.web.conditions import SECOND
from tgdav.web.errors import Refused

CHECKSUMS = b"{http://owncloud.org/ns}checksums"
"""The property, as named in the file system. Its value there is the ETag's tag in hex, a space, ``SHA1:… MD5:…``."""

_CHECKSUM = re.compile(r"(SHA1|MD5):([0-9A-Fa-f]+)\Z", re.IGNORECASE)
_HEX_DIGITS = {"sha1": 40, "md5": 32}
_SECONDS = re.compile(r"(-?)([0-9]{1,60})(?:\.([0-9]{1,60}))?\Z")
_FURTHEST = 2**63 // SECOND
"""Seconds between 1970 and the last (and first) date that a file can have: nanoseconds are kept in 64 bits."""


class Checksum(msgspec.Struct, frozen=True):
    """A checksum that a client sent; ``algorithm`` as hashlib names it, ``value`` in lower-case hex."""

    algorithm: str
    value: str


def read_mtime(headers: dict[str, str]) -> int | None:
    """Return X-OC-Mtime (seconds since 1970, a fraction allowed) in ns. Raises Refused 400."""
    value = headers.get("x-oc-mtime")
    return None if value is None else parse_seconds(value)


def parse_seconds(value: str) -> int:
    """Return decimal seconds since 1970 as ns; out of range, the nearest that a file can have. Raises Refused 400."""
    match = _SECONDS.match(value.strip())
    if match is None:
        raise Refused(400, "malformed time")
    sign, whole, fraction = match.groups("")
    nanoseconds = int(whole) * SECOND + int(f"{fraction[:9]:0<9}")
    return nearest_time(-nanoseconds if sign else nanoseconds)


def nearest_time(nanoseconds: int) -> int:
    """Return the time nearest to ``nanoseconds`` since 1970 that a file can have (years 1677 to 2262)."""
    return min(max(nanoseconds, -_FURTHEST * SECOND), _FURTHEST * SECOND)


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
    """Checks a body against the checksum that came with it, and makes the other kind on the way."""

    def __init__(self, expected: Checksum) -> None:
        self._expected = expected
        self._digests = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in _HEX_DIGITS}

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        for digest in self._digests.values():
            digest.update(block)

    def check(self) -> None:
        """Raise Refused 400 unless the checksum fits."""
        if self._digests[self._expected.algorithm].hexdigest() != self._expected.value:
            raise Refused(400, "the checksum does not fit the body")

    def property_of(self, tag: bytes) -> bytes:
        """Return the value under which the checksums are kept: with the content's tag, so that they end with it."""
        sums = " ".join(f"{algorithm.upper()}:{digest.hexdigest()}" for algorithm, digest in self._digests.items())
        return f"{tag.hex()} {sums}".encode()


def sums_of(node: Attributes | Listed, kept: bytes | None) -> str | None:
    """Return ``SHA1:… MD5:…`` of the present content, or None where ``kept`` is of none or of another."""
    if kept is None or node.tag is None or node.dirty:
        return None
    tag, _, sums = kept.decode().partition(" ")
    return sums if tag == node.tag.hex() else None


def shown_checksums(node: Attributes | Listed, kept: bytes | None) -> str | None:
    """Return the property's XML, or None where nothing is known of the present content."""
    sums = sums_of(node, kept)
    if sums is None:
        return None
    return f'<o:checksums xmlns:o="http://owncloud.org/ns"><o:checksum>{sums}</o:checksum></o:checksums>'
