"""The operations of the log and their encoding.

One operation is a msgpack array ``[number, field, field …]``. Numbers are for ever; fields are only ever added at the
end, with defaults. A group is the operations of one file-system call: one stamp, consecutive sequence numbers, applied,
skipped and undone as a whole.

Reserved numbers for what is not built yet: 6 snapshot, 7 unsnapshot, 8 purge, 9 retire (pack), 10 set trash policy,
11 set version policy, 12 pin version, 13 revoke, 14 admit, 15 acknowledge.
"""

from typing import ClassVar

import msgspec

from tgdav.errors import DamageError
from tgdav.ids import ContentTag, EntryId, Incarnation, MachineId, NodeId

ROOT = NodeId(bytes(15) + b"\x01")
"""The root folder's id in every namespace."""
TRASH = NodeId(bytes(15) + b"\x02")
"""The parent of deleted entries."""


class Make(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A node comes to be. ``kind`` is a ``tgdav.metadata.types.Kind``, ``target`` a symlink's target."""

    node: NodeId
    kind: int
    mode: int
    uid: int
    gid: int
    rdev: int
    time: int
    target: bytes = b""


class Place(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """An entry is at (parent, name) from now on: create, link, rename, delete (parent TRASH) and undelete."""

    entry: EntryId
    node: NodeId
    parent: NodeId
    name: bytes


class Write(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A node's content is ``manifest`` (``tgdav.content.manifest``) from now on.

    ``replaces`` is the tag of the content that the author saw, for finding concurrent writes. ``mtime`` is in ns.
    """

    node: NodeId
    size: int
    tag: ContentTag
    manifest: bytes
    replaces: ContentTag | None
    mtime: int


class Attr(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Attributes of a node; last writer wins per field.

    ``values`` maps ``mode``, ``uid``, ``gid``, ``mtime``, ``ctime``, ``btime`` to integers.
    """

    node: NodeId
    values: dict[str, int]


class Field(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """An extended attribute (``b"x:…"``) or property (``b"p:…"``) of a node; ``value`` None removes it."""

    node: NodeId
    field: bytes
    value: bytes | None


class Member(msgspec.Struct, array_like=True, frozen=True, tag=16):
    """``machine`` is the writer from ``epoch`` on, with this key and incarnation, replacing ``replaces`` (None: the first)."""

    machine: MachineId
    name: str
    public_key: bytes
    incarnation: Incarnation
    epoch: int
    replaces: MachineId | None
    exchange_key: bytes = b""


class Namespace(msgspec.Struct, array_like=True, frozen=True, tag=17):
    """The namespace comes to be; the first operation of its log. ``mode`` as in the configuration: ``standalone`` …"""

    name: str
    mode: str
    time: int


Op = Make | Place | Write | Attr | Field | Member | Namespace


class Group(msgspec.Struct, array_like=True, frozen=True):
    """The operations of one call. ``sequence`` numbers the first operation, the rest follow.

    ``stamp`` orders (see ``tgdav.crdt.clocks``); ``time`` is the author's wall clock in ns, shown as mtime and ctime.
    """

    sequence: int
    stamp: int
    time: int
    ops: tuple[Op, ...]

    FORMAT_VERSION: ClassVar[int] = 1


_encoder = msgspec.msgpack.Encoder()
_ops_decoder = msgspec.msgpack.Decoder(tuple[Op, ...])


def encode_ops(ops: tuple[Op, ...] | list[Op]) -> bytes:
    """Encode operations as a msgpack array."""
    return _encoder.encode(ops)


def decode_ops(data: bytes) -> tuple[Op, ...]:
    """Decode what ``encode_ops`` made. Raises DamageError on anything else."""
    try:
        return _ops_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamageError("an operation in the log cannot be read", blob="log") from error
