"""Types for identifiers, so that the type checker finds one used in place of another.

At run time all are plain ``bytes`` or ``int``.
"""

from typing import NewType

VaultId = NewType("VaultId", bytes)
"""16 random bytes, chosen by ``init``."""

NamespaceId = NewType("NamespaceId", bytes)
"""16 random bytes; one independent file system of a vault."""

MachineId = NewType("MachineId", bytes)
"""16 bytes of a UUID v4; one installation."""

Incarnation = NewType("Incarnation", int)
"""Random unsigned 64-bit number; a machine chooses a new one when it joins or recovers."""

BlobName = NewType("BlobName", bytes)
"""16 random bytes, chosen before the first byte of the blob is written."""

BlobId = NewType("BlobId", int)
"""The store's number for a blob: positive, increasing in append order, never reused."""

ChunkId = NewType("ChunkId", bytes)
"""32 bytes: keyed BLAKE3 of the chunk's plaintext."""

NodeId = NewType("NodeId", bytes)
"""16 bytes; an inode's identity in the log: (incarnation, sequence), or a keyed hash for a directory."""

EntryId = NewType("EntryId", bytes)
"""16 bytes; a directory entry's identity in the log."""

Inode = NewType("Inode", int)
"""This machine's local number for a node; 1 is the root. It never occurs in operations."""

SnapshotId = NewType("SnapshotId", bytes)
"""16 bytes; a snapshot's identity in the log."""

ContentTag = NewType("ContentTag", bytes)
"""16 bytes: keyed hash of a file's manifest; equal content, equal tag."""

Position = NewType("Position", int)
"""A position in this machine's sequence of applied groups; a row is valid from one position to another."""


def make_id(prefix: bytes, count: int) -> bytes:
    """Return a 16-byte id: ``prefix`` (8 bytes), then ``count`` in big-endian order, so that ids sort by it."""
    return prefix + count.to_bytes(8, "big")
