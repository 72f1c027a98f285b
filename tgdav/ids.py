"""Value types for identities, so that no id is taken for another.

All are plain ``bytes`` or ``int`` at run time; the type checker keeps them apart.
"""

from typing import NewType

VaultId = NewType("VaultId", bytes)
"""16 random bytes, made by ``init``."""

NamespaceId = NewType("NamespaceId", bytes)
"""16 random bytes; one independent file system of a vault."""

MachineId = NewType("MachineId", bytes)
"""16 bytes of a UUID v4; one installation."""

Incarnation = NewType("Incarnation", int)
"""Random unsigned 64-bit number; a machine takes a fresh one at join and recover."""

BlobName = NewType("BlobName", bytes)
"""16 random bytes, made before the blob's first byte."""

BlobId = NewType("BlobId", int)
"""The store's own number for a blob: positive, growing in append order, never used twice."""

ChunkId = NewType("ChunkId", bytes)
"""32 bytes: keyed BLAKE3 of the chunk's plaintext."""

NodeId = NewType("NodeId", bytes)
"""16 bytes; an inode's identity in the log: (incarnation, sequence), or a keyed hash for a directory."""

EntryId = NewType("EntryId", bytes)
"""16 bytes; a directory entry's identity in the log."""

Inode = NewType("Inode", int)
"""This machine's own number for a node; 1 is the root. No operation names it."""

ContentTag = NewType("ContentTag", bytes)
"""16 bytes: keyed hash of a file's manifest; equal content, equal tag."""

Position = NewType("Position", int)
"""A place in this machine's order of applied groups; rows are valid from one position to another."""


def make_id(prefix: bytes, count: int) -> bytes:
    """Return a 16-byte identity: ``prefix`` (8 bytes), then ``count`` (big-endian, so it sorts)."""
    return prefix + count.to_bytes(8, "big")
