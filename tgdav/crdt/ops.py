"""The operations of the log and their encoding.

One operation is a msgpack array ``[number, field, field …]``. Numbers are for ever; fields are only ever added at the
end, with defaults. A group is the operations of one file-system call: one stamp, consecutive sequence numbers, applied,
skipped and undone as a whole.

Reserved numbers for what is not built yet: 6 snapshot, 7 unsnapshot, 8 purge, 9 retire (pack), 10 set trash policy,
11 set version policy, 12 pin version, 13 revoke, 14 admit, 15 acknowledge.
"""

from typing import Annotated, ClassVar

import msgspec

from tgdav.errors import DamageError
from tgdav.ids import ContentTag, EntryId, Incarnation, MachineId, NodeId

ROOT = NodeId(bytes(15) + b"\x01")
"""The root folder's id in every namespace."""
TRASH = NodeId(bytes(15) + b"\x02")
"""The parent of deleted entries."""


Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What the database keeps; a larger one, which nobody but a forger sends, is refused with the whole segment."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A number that others count on from: sequence, stamp, size."""
Number32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
"""A user, group or device number."""
MODE_MAX = 0o7777
Mode = Annotated[int, msgspec.Meta(ge=0, le=MODE_MAX)]
"""Permission bits."""


class Make(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A node comes to be. ``kind`` is a ``tgdav.metadata.types.Kind``, ``target`` a symlink's target."""

    node: NodeId
    kind: Number
    mode: Mode
    uid: Number32
    gid: Number32
    rdev: Number32
    time: Number
    target: bytes = b""


class Place(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """An entry is at (parent, name) from now on: create, link, rename, delete (parent TRASH) and undelete."""

    entry: EntryId
    node: NodeId
    parent: NodeId
    name: bytes


class Write(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A node's content is ``manifest`` (``tgdav.content.format.manifest``) from now on.

    ``replaces`` is the tag of the content that the author saw, for finding concurrent writes. ``mtime`` is in ns.
    """

    node: NodeId
    size: Count
    tag: ContentTag
    manifest: bytes
    replaces: ContentTag | None
    mtime: Number


class Attr(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Attributes of a node; last writer wins per field.

    ``values`` maps ``mode``, ``uid``, ``gid``, ``mtime``, ``ctime``, ``btime`` to integers.
    """

    node: NodeId
    values: dict[str, Number]


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
    epoch: Count
    replaces: MachineId | None
    exchange_key: bytes = b""


class Namespace(msgspec.Struct, array_like=True, frozen=True, tag=17):
    """The namespace comes to be; the first operation of its log. ``mode`` as in the configuration: ``standalone`` …"""

    name: str
    mode: str
    time: Number


Op = Make | Place | Write | Attr | Field | Member | Namespace


class Group(msgspec.Struct, array_like=True, frozen=True):
    """The operations of one call. ``sequence`` numbers the first operation, the rest follow.

    ``stamp`` orders (see ``tgdav.crdt.clocks``); ``time`` is the author's wall clock in ns, shown as mtime and ctime.
    """

    sequence: Count
    stamp: Count
    time: Number
    ops: tuple[Op, ...]

    FORMAT_VERSION: ClassVar[int] = 1


_encoder = msgspec.msgpack.Encoder()
_ops_decoder = msgspec.msgpack.Decoder(tuple[Op, ...])


def is_possible(op: Op) -> bool:
    """Return whether attributes in ``op`` can be shown; the types of all other fields see to that."""
    if not isinstance(op, Attr):
        return True
    values = op.values
    owners = (values.get("uid", 0), values.get("gid", 0))
    return 0 <= values.get("mode", 0) <= MODE_MAX and all(0 <= number < 2**32 for number in owners)


def encode_ops(ops: tuple[Op, ...] | list[Op]) -> bytes:
    """Encode operations as a msgpack array."""
    return _encoder.encode(ops)


def decode_ops(data: bytes) -> tuple[Op, ...]:
    """Decode what ``encode_ops`` made. Raises DamageError on anything else."""
    try:
        return _ops_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamageError("an operation in the log cannot be read", blob="log") from error
