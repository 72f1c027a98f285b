"""SHA1 and MD5 of contents that came without them, as those that a mount wrote do: made when a client asks, and remembered.

Making them while files are written would cost a mount a third of its rate, for the few who ask. They are made of what lies on
this machine, up to a bound a request; what lies in the store alone is not fetched for them. They are kept by the content's
tag, in memory: asking changes nothing, so it also works where nothing may be written.
"""

import base64
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable

from tgdav.errors import TgdavError
from tgdav.fs.api import FileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, Kind, Listed, listed
from tgdav.web.messages import Headers
from tgdav.web.owncloud import CHECKSUMS, sums_of

MOST_BYTES = 1 << 30
"""Bytes that are read for the checksums of one request."""

_KEPT = 20_000
_BLOCK = 1 << 20
_DIGEST_NAMES = {"SHA1": ("SHA", "sha"), "MD5": ("MD5", "md5")}
"""Names in Digest (RFC 3230) and in Repr-Digest (RFC 9530)."""


class Checksums:
    """Thread-safe. A value is what ``owncloud.CHECKSUMS`` holds: ``SHA1:… MD5:…``."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def fill(self, nodes: Iterable[Listed], properties: dict[Inode, dict[bytes, bytes]]) -> None:
        """Add to ``properties``, which the nodes have, the checksums of files that lack them, as far as they can be had."""
        left = MOST_BYTES
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
        """Return what says the checksums of a file's whole content in an answer; nothing where they cannot be had."""
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
            return None  # what cannot be read has no checksum; a GET says why
        finally:
            handle.close()
        made = " ".join(f"{name}:{digest.hexdigest()}" for name, digest in digests.items())
        with self._lock:
            self._known[tag] = made
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return made
