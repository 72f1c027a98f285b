"""The envelope of segments and checkpoint parts: a key box, and a sealed, padded body. Pure.

::

    version (1) │ epoch (u32) │ length of the key box (u32) │ key box │ sealed body        integers big-endian

With the key box the vault key alone opens this blob. The body's plaintext is
``codec (1) ‖ length of the content (u64) ‖ stored content (u64 length before it) ‖ zeros``; the zeros bring the blob to a
Padmé size of at least 64 KiB. The associated data bind vault, namespace, kind, blob name, version, and every byte before
the sealed body, so each byte and the length of the blob are authenticated. Byte by byte: ``docs/formats/segment.md``.
"""

import struct

import lz4.block

from tgdav.content.format.pack import padme
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys, later_key_box, unwrap_namespace
from tgdav.crypto.sealing import OVERHEAD, Kind, associated_data, later_frame, open_sealed, seal
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import BlobName, NamespaceId

VERSION = 1
MAX_CONTENT = 1 << 31
"""The largest content in bytes that is written or accepted."""
_PREAMBLE = struct.Struct(">BII")
_BODY = struct.Struct(">BQQ")
_RAW, _LZ4 = 0, 1


def wrap(
    vault_keys: VaultKeys, keys: NamespaceKeys, box: bytes, kind: Kind, name: BlobName, content: bytes, entropy: Entropy
) -> bytes:
    """Return the blob that holds ``content``."""
    epoch = keys.current_epoch
    preamble = _PREAMBLE.pack(VERSION, epoch, len(box)) + box
    stored = lz4.block.compress(content, store_size=False)
    codec = _LZ4 if len(stored) < len(content) else _RAW  # what LZ4 does not shrink is stored as it is
    stored = stored if codec == _LZ4 else content
    plaintext = _BODY.pack(codec, len(content), len(stored)) + stored
    size = padme(len(preamble) + len(plaintext) + OVERHEAD)
    padded = plaintext.ljust(size - len(preamble) - OVERHEAD, b"\0")
    binding = _binding(vault_keys, keys.namespace, kind, name, preamble)
    return preamble + seal(keys.log_key(epoch), padded, binding, entropy)


def secret_of(vault_keys: VaultKeys, namespace: NamespaceId, blob: bytes, name: BlobName) -> NamespaceSecret:
    """Return the namespace's secret from the key box of a blob whose hash was checked. Raises DamageError, NewerFormat."""
    _, preamble = _split(blob, name)
    box = preamble[_PREAMBLE.size :]
    try:
        return unwrap_namespace(vault_keys, namespace, box)
    except DamageError:
        if (version := later_key_box(vault_keys, namespace, box)) is not None:
            raise _newer(name, version) from None
        raise


def unwrap(vault_keys: VaultKeys, keys: NamespaceKeys, kind: Kind, name: BlobName, blob: bytes) -> bytes:
    """Return the content of a blob whose hash was checked. Raises DamageError, naming the blob, and NewerFormat."""
    epoch, preamble = _split(blob, name)
    if (version := later_frame(memoryview(blob)[len(preamble) :])) is not None:
        raise _newer(name, version)
    binding = _binding(vault_keys, keys.namespace, kind, name, preamble)
    plaintext = open_sealed(keys.log_key(epoch), memoryview(blob)[len(preamble) :], binding, name.hex())
    if len(plaintext) < _BODY.size:
        raise _damage(name)
    codec, length, stored_length = _BODY.unpack_from(plaintext)
    stored = plaintext[_BODY.size : _BODY.size + stored_length]
    # Checked before decompressing: LZ4 allocates ``length`` bytes.
    if len(stored) != stored_length or length > MAX_CONTENT:
        raise _damage(name)
    return _decompress(codec, stored, length, name)


def _decompress(codec: int, stored: bytes, length: int, name: BlobName) -> bytes:
    if codec == _RAW and len(stored) == length:
        return stored
    if codec != _LZ4:
        raise _damage(name)
    try:
        content = bytes(lz4.block.decompress(stored, uncompressed_size=length))
    except lz4.block.LZ4BlockError as error:
        raise _damage(name) from error
    if len(content) != length:
        raise _damage(name)
    return content


def _split(blob: bytes, name: BlobName) -> tuple[int, bytes]:
    if len(blob) < _PREAMBLE.size:
        raise _damage(name)
    version, epoch, length = _PREAMBLE.unpack_from(blob)
    if version > VERSION:
        raise _newer(name, version)
    if version != VERSION or len(blob) < _PREAMBLE.size + length + OVERHEAD:
        raise _damage(name)
    return epoch, blob[: _PREAMBLE.size + length]


def _binding(vault_keys: VaultKeys, namespace: NamespaceId, kind: Kind, name: BlobName, preamble: bytes) -> bytes:
    return associated_data(vault_keys.vault, namespace, kind, name, VERSION) + preamble


def _newer(name: BlobName, version: int) -> NewerFormat:
    return NewerFormat(f"blob {name.hex()} of the log", version)


def _damage(name: BlobName) -> DamageError:
    return DamageError(f"blob {name.hex()} is cut off or malformed", blob=name.hex())
