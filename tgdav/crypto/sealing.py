"""Authenticated encryption with AES-256-GCM, and the one layout of its associated data.

Sealed data is ``version(1) ‖ nonce(12) ‖ ciphertext ‖ tag(16)``. Its kind, vault and name are not stored but bound as
associated data, so that sealed data never opens as anything else (``docs/formats/keys.md``).
"""

import struct
from collections.abc import Callable
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tgdav.entropy import Entropy
from tgdav.errors import DamageError
from tgdav.ids import NamespaceId, VaultId

SEALING_VERSION = 1
LATER_VERSIONS = range(2, 17)
"""Versions that data which does not open is tried with, to distinguish the formats of later programs from damage."""
NONCE_BYTES = 12
TAG_BYTES = 16
PREFIX_BYTES = 1 + NONCE_BYTES
OVERHEAD = PREFIX_BYTES + TAG_BYTES
"""Bytes that sealing adds to the plaintext."""

Data = bytes | bytearray | memoryview

_VERSION = bytes([SEALING_VERSION])
_ID_BYTES = 16
_NO_NAMESPACE = bytes(_ID_BYTES)
_ASSOCIATED = struct.Struct(">HB16sB16sH")


class Kind(IntEnum):
    """The kind of sealed data. Numbers are part of the format and never change their meaning."""

    HEADER = 1
    LABEL = 2
    PACK_INDEX = 3
    PACK_TRAILER = 4
    CHUNK = 5
    SEGMENT = 6
    CHECKPOINT_PART = 7
    KEY_BOX = 8
    MACHINE = 9
    STAGING = 10
    OVERLAY = 11
    CACHE = 12
    LOCAL = 13


def associated_data(
    vault: VaultId, namespace: NamespaceId | None, kind: Kind, name: bytes, format_version: int
) -> bytes:
    """Return the associated data of a seal. ``name`` has at most 65 535 bytes.

    The encoding is injective: the fields have fixed offsets, and the name is preceded by its length.
    """
    if len(vault) != _ID_BYTES or (namespace is not None and len(namespace) != _ID_BYTES):
        raise ValueError("vault and namespace ids have 16 bytes")
    namespace_bytes = _NO_NAMESPACE if namespace is None else namespace
    return _ASSOCIATED.pack(format_version, kind, vault, namespace is not None, namespace_bytes, len(name)) + name


class Sealer:
    """Seals and opens under one 256-bit key, whose key schedule it keeps. Thread-safe."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a sealing key has 32 bytes")
        self._cipher = AESGCM(key)

    def seal(self, plaintext: Data, associated: bytes, entropy: Entropy) -> bytes:
        """Return ``plaintext`` sealed; ``OVERHEAD`` bytes longer."""
        nonce = entropy.bytes(NONCE_BYTES)
        return b"".join((_VERSION, nonce, self._cipher.encrypt(nonce, plaintext, associated)))

    def seal_into(self, buffer: bytearray, plaintext: Data, associated: bytes, entropy: Entropy) -> memoryview:
        """As ``seal``, but encrypt into ``buffer``, which must be long enough; return the part of it that was used."""
        nonce = entropy.bytes(NONCE_BYTES)
        sealed = memoryview(buffer)[: len(plaintext) + OVERHEAD]
        sealed[:PREFIX_BYTES] = _VERSION + nonce
        self._cipher.encrypt_into(nonce, plaintext, associated, sealed[PREFIX_BYTES:])
        return sealed

    def open(self, sealed: Data, associated: bytes, what: str) -> bytes:
        """Return the plaintext.

        Raises ``DamageError`` with ``blob=what`` unless ``sealed`` was sealed under this key and ``associated``, unchanged.
        """
        nonce, ciphertext = _parts(sealed, what)
        try:
            return self._cipher.decrypt(nonce, ciphertext, associated)
        except InvalidTag:
            raise _changed(what) from None

    def open_into(self, buffer: bytearray, sealed: Data, associated: bytes, what: str) -> memoryview:
        """As ``open``, but decrypt into ``buffer``, which must be long enough; return the part of it that was used."""
        nonce, ciphertext = _parts(sealed, what)
        plaintext = memoryview(buffer)[: len(ciphertext) - TAG_BYTES]
        try:
            self._cipher.decrypt_into(nonce, ciphertext, associated, plaintext)
        except InvalidTag:
            raise _changed(what) from None
        return plaintext

    def later_version(self, sealed: Data, binding: Callable[[int], bytes]) -> int | None:
        """Return the version of data that does not open, if a later program sealed it; else None.

        ``binding`` returns the associated data for a version. Such a version is authenticated. The version of the frame, the
        first byte, is not: the caller must know otherwise that it is not damaged.
        """
        if (frame := later_frame(sealed)) is not None:
            return frame
        for version in LATER_VERSIONS:
            try:
                self.open(sealed, binding(version), "")
            except DamageError:
                continue
            return version
        return None


def later_frame(sealed: Data) -> int | None:
    """Return the version in the first byte of sealed data if it is later than this program's, else None.

    The byte is not authenticated. Values that differ from 1 in one bit (3, 5, 9 …) count as damage and will never be used
    as versions.
    """
    first = memoryview(sealed)[:1]
    return first[0] if first and is_later(first[0]) else None


def is_later(version: int) -> bool:
    """Return whether ``version``, a first byte, is a later version and not damage."""
    return version > SEALING_VERSION and (version ^ SEALING_VERSION).bit_count() > 1


def _parts(sealed: Data, what: str) -> tuple[memoryview, memoryview]:
    view = memoryview(sealed)
    if len(view) < OVERHEAD or view[0] != SEALING_VERSION:
        raise DamageError(f"{what}: not sealed data of a known version", blob=what)
    return view[1:PREFIX_BYTES], view[PREFIX_BYTES:]


def _changed(what: str) -> DamageError:
    return DamageError(f"{what}: changed since it was sealed, or not what was expected here", blob=what)


def seal(key: bytes, plaintext: Data, associated: bytes, entropy: Entropy) -> bytes:
    """Return ``plaintext`` sealed under the 32-byte ``key``; see ``Sealer`` for keys used often."""
    return Sealer(key).seal(plaintext, associated, entropy)


def open_sealed(key: bytes, sealed: Data, associated: bytes, what: str) -> bytes:
    """Return the plaintext of ``sealed``; raises ``DamageError`` with ``blob=what`` when any check fails."""
    return Sealer(key).open(sealed, associated, what)
