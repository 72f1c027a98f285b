"""Authenticated encryption with AES-256-GCM, and the one layout of associated data.

A sealed thing is ``version(1) ‖ nonce(12) ‖ ciphertext ‖ tag(16)``. What it is and where it belongs is not stored in it
but bound as associated data, so that nothing passes for anything else (``docs/formats/keys.md``).
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
"""Format versions that what does not open is tried with, to tell a later program's work from damage."""
NONCE_BYTES = 12
TAG_BYTES = 16
PREFIX_BYTES = 1 + NONCE_BYTES
OVERHEAD = PREFIX_BYTES + TAG_BYTES
"""Bytes that a seal adds to its plaintext."""

Data = bytes | bytearray | memoryview

_VERSION = bytes([SEALING_VERSION])
_ID_BYTES = 16
_NO_NAMESPACE = bytes(_ID_BYTES)
_ASSOCIATED = struct.Struct(">HB16sB16sH")


class Kind(IntEnum):
    """What was sealed. Numbers are part of the format and never change their meaning."""

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
    """Return the bytes that a seal is bound to; ``name`` is at most 65 535 bytes.

    The fields have fixed places and the name its length, so two different bindings never give equal bytes.
    """
    if len(vault) != _ID_BYTES or (namespace is not None and len(namespace) != _ID_BYTES):
        raise ValueError("vault and namespace ids have 16 bytes")
    place = _NO_NAMESPACE if namespace is None else namespace
    return _ASSOCIATED.pack(format_version, kind, vault, namespace is not None, place, len(name)) + name


class Sealer:
    """Seals and opens under one 256-bit key, with its key schedule ready. Thread-safe."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a sealing key has 32 bytes")
        self._cipher = AESGCM(key)

    def seal(self, plaintext: Data, associated: bytes, entropy: Entropy) -> bytes:
        """Return ``plaintext`` sealed; ``OVERHEAD`` bytes longer."""
        nonce = entropy.bytes(NONCE_BYTES)
        return b"".join((_VERSION, nonce, self._cipher.encrypt(nonce, plaintext, associated)))

    def seal_into(self, room: bytearray, plaintext: Data, associated: bytes, entropy: Entropy) -> memoryview:
        """As ``seal``, encrypting straight into ``room``; return the view of it that is the result.

        ``room`` is at least as long. For a MiB, memory that was not used before costs more than the cipher.
        """
        nonce = entropy.bytes(NONCE_BYTES)
        sealed = memoryview(room)[: len(plaintext) + OVERHEAD]
        sealed[:PREFIX_BYTES] = _VERSION + nonce
        self._cipher.encrypt_into(nonce, plaintext, associated, sealed[PREFIX_BYTES:])
        return sealed

    def open(self, sealed: Data, associated: bytes, what: str) -> bytes:
        """Return the plaintext.

        Raises ``DamageError`` with ``blob=what`` unless every byte is as it was sealed under this key and binding.
        """
        nonce, ciphertext = _parts(sealed, what)
        try:
            return self._cipher.decrypt(nonce, ciphertext, associated)
        except InvalidTag:
            raise _changed(what) from None

    def open_into(self, room: bytearray, sealed: Data, associated: bytes, what: str) -> memoryview:
        """As ``open``, into ``room``, which is at least as long; return the view of it that is the plaintext."""
        nonce, ciphertext = _parts(sealed, what)
        plaintext = memoryview(room)[: len(ciphertext) - TAG_BYTES]
        try:
            self._cipher.decrypt_into(nonce, ciphertext, associated, plaintext)
        except InvalidTag:
            raise _changed(what) from None
        return plaintext

    def later_version(self, sealed: Data, binding: Callable[[int], bytes]) -> int | None:
        """Return the version of what does not open, if a later program made it; ``binding`` gives the associated data of a
        version.

        The seal proves a version that is bound. The version of the frame itself is not covered by the seal: the caller knows
        by other means that it was not changed by chance.
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
    """Return the version that a seal's first byte says if only later programs know it. Nothing proves that byte, so a number
    that one flipped bit makes of 1 (3, 5, 9 …) is damage, and will be no version.
    """
    first = memoryview(sealed)[:1]
    return first[0] if first and is_later(first[0]) else None


def is_later(version: int) -> bool:
    """Return whether the first byte of a seal is that of a later version, and not of a damaged one."""
    return version > SEALING_VERSION and (version ^ SEALING_VERSION).bit_count() > 1


def _parts(sealed: Data, what: str) -> tuple[memoryview, memoryview]:
    view = memoryview(sealed)
    if len(view) < OVERHEAD or view[0] != SEALING_VERSION:
        raise DamageError(f"{what}: not sealed data of a known version", blob=what)
    return view[1:PREFIX_BYTES], view[PREFIX_BYTES:]


def _changed(what: str) -> DamageError:
    return DamageError(f"{what}: changed since it was sealed, or not what it stands for", blob=what)


def seal(key: bytes, plaintext: Data, associated: bytes, entropy: Entropy) -> bytes:
    """Return ``plaintext`` sealed under the 32-byte ``key``; see ``Sealer`` for keys used often."""
    return Sealer(key).seal(plaintext, associated, entropy)


def open_sealed(key: bytes, sealed: Data, associated: bytes, what: str) -> bytes:
    """Return the plaintext of ``sealed``; raises ``DamageError`` with ``blob=what`` when any check fails."""
    return Sealer(key).open(sealed, associated, what)
