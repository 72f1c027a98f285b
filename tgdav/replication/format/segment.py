"""The content of a segment: groups of one machine, and the packs that they name. Pure.

A segment is ``signature (64) ‖ msgpack array``. The Ed25519 signature covers the array and the blob's name. The array is a
``Segment``: its fields in order, and only ever added to at the end. Byte by byte: ``docs/formats/segment.md``.
"""

import msgspec

from tgdav.crdt.membership import ClockEntry, Link
from tgdav.crdt.ops import Count, Group, Member, Namespace, check_numbers, is_possible
from tgdav.crypto.machine import MachineIdentity, verify
from tgdav.errors import DamageError
from tgdav.ids import BlobName, ChunkId, Incarnation, MachineId

_SIGNATURE = 64
_GROUPS, _OPS = 6, 3
"""The index of ``groups`` in an encoded segment, and of ``ops`` in an encoded group."""


class PackEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a chunk is in a pack, as in the pack's own index."""

    id: ChunkId
    offset: Count
    stored: Count
    length: Count
    codec: Count
    epoch: Count


class PackIndex(msgspec.Struct, array_like=True, frozen=True):
    """A stored pack: its blob name, size, BLAKE3 hash, and where its chunks are."""

    name: BlobName
    size: Count
    hash: bytes
    epoch: Count
    entries: tuple[PackEntry, ...]


class Segment(msgspec.Struct, array_like=True, frozen=True):
    """Consecutive groups of one machine. ``number`` is 1, 2, 3 … in its incarnation, ``previous`` chains the blobs' hashes.

    ``author`` is the author's membership, so that one segment is enough to check the others of its chain; None in segments
    that were made without it.
    """

    machine: MachineId
    incarnation: Incarnation
    number: Count
    previous: bytes
    clock: tuple[ClockEntry, ...]
    packs: tuple[PackIndex, ...]
    groups: tuple[Group, ...]
    author: Member | None = None

    @property
    def membership(self) -> Member | None:
        """The author's membership: the member operation in this segment, else the field."""
        operations = (op for group in self.groups for op in group.ops if isinstance(op, Member))
        return next((op for op in operations if op.incarnation == self.incarnation), self.author)

    def link(self, hash_: bytes) -> Link:
        """Return its link in the chain; ``hash_`` is the hash of its blob."""
        last = self.groups[-1]
        changes = sum(not isinstance(op, Member | Namespace) for group in self.groups for op in group.ops)
        return Link(
            machine=self.machine,
            incarnation=self.incarnation,
            number=self.number,
            hash=hash_,
            previous=self.previous,
            first=self.groups[0].sequence,
            last=last.sequence + len(last.ops) - 1,
            changes=changes,
            time=last.time,
            clock=self.clock,
            author=self.membership,
        )


__all__ = ["ClockEntry", "PackEntry", "PackIndex", "Segment", "check_signature", "decode", "encode"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Segment)


def encode(segment: Segment, identity: MachineIdentity, name: BlobName) -> bytes:
    """Return the signed content of a segment."""
    body = _encoder.encode(segment)
    return identity.sign(_signed(name, body)) + body


def decode(content: bytes, name: BlobName) -> Segment:
    """Return the segment, its signature not yet checked. Raises DamageError, NewerFormat."""
    try:
        segment = _decoder.decode(content[_SIGNATURE:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        what = f"segment {name.hex()}"
        check_numbers(what, content[_SIGNATURE:], lambda body: [group[_OPS] for group in body[_GROUPS]])
        raise DamageError(f"{what} cannot be read", blob=name.hex()) from error
    if not segment.groups or not all(group.ops for group in segment.groups):
        raise DamageError(f"segment {name.hex()} has no operations", blob=name.hex())
    # Numbers are limited by their types; what else a hostile author can encode is refused here, before it is applied.
    if not all(is_possible(op) for group in segment.groups for op in group.ops):
        raise DamageError(f"segment {name.hex()} has an impossible attribute", blob=name.hex())
    return segment


def check_signature(content: bytes, name: BlobName, public_key: bytes) -> None:
    """Raises DamageError unless the machine with ``public_key`` signed this segment under this name."""
    if not verify(public_key, content[:_SIGNATURE], _signed(name, content[_SIGNATURE:])):
        raise DamageError(f"segment {name.hex()} is not signed by its machine", blob=name.hex())


def _signed(name: BlobName, body: bytes) -> bytes:
    return b"tgdav segment 1" + name + body
