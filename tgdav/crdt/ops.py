"""The operations of the log and their encoding.

An operation is a msgpack array ``[number, field, field …]``. Numbers are never reused; fields are only added at the end,
with defaults. A group consists of the operations of one file-system call: it has one stamp and consecutive sequence
numbers, and is applied, skipped and undone as a whole.

Numbers reserved for operations that do not exist yet: 12 pin version, 13 revoke, 14 admit,
15 acknowledge, 19 set conflict policy, 20 rekey, 21 promote. Fields reserved likewise, to be appended: ``seen`` (the
dots of the contents that it replaces) of Write; ``permissions`` and ``admitted_by`` of Member.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any, ClassVar

import msgspec

from tgdav.errors import DamageError, NewerFormat
from tgdav.ids import BlobName, ContentTag, EntryId, Incarnation, MachineId, NodeId, SnapshotId

ROOT = NodeId(bytes(15) + b"\x01")
"""The id of the root directory in every namespace."""
TRASH = NodeId(bytes(15) + b"\x02")
"""The parent of deleted entries."""


Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that the database can store. Only a forger sends a larger one; the whole segment is refused then."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A number that later ones are derived from: sequence, stamp, size."""
Number32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
"""A user, group or device number."""
MODE_MAX = 0o7777
_NAME_MAX = 255
Mode = Annotated[int, msgspec.Meta(ge=0, le=MODE_MAX)]
"""Permission bits."""


class Make(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Create a node. ``kind`` is a ``tgdav.metadata.types.Kind``, ``target`` a symlink's target."""

    node: NodeId
    kind: Number
    mode: Mode
    uid: Number32
    gid: Number32
    rdev: Number32
    time: Number
    target: bytes = b""


class Place(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Set an entry's position to (parent, name): create, link, rename, delete (parent TRASH) and undelete.

    ``because``: the entry was deleted as that entry was renamed over it, which makes its content an earlier version of that
    entry's file. ``made``: a directory that this group creates. ``after``: the entry that had this name until it was renamed
    away moments before, as editors do; its content is an earlier version too.
    """

    entry: EntryId
    node: NodeId
    parent: NodeId
    name: bytes
    because: EntryId | None = None
    made: bool = False
    after: EntryId | None = None


class Write(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Set a node's content to ``manifest`` (``tgdav.content.format.manifest``).

    ``replaces`` is the tag of the content that the author saw, for finding concurrent writes. ``mtime`` is in ns. ``restores``:
    the replaced content becomes a version even if it is of the same burst of saves.
    """

    node: NodeId
    size: Count
    tag: ContentTag
    manifest: bytes
    replaces: ContentTag | None
    mtime: Number
    restores: bool = False


class Attr(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Set attributes of a node; the last writer wins for each.

    ``values`` maps ``mode``, ``uid``, ``gid``, ``mtime``, ``ctime``, ``btime`` to integers.
    """

    node: NodeId
    values: dict[str, Number]


class Field(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Set an extended attribute (``b"x:…"``) or property (``b"p:…"``) of a node; None removes it."""

    node: NodeId
    field: bytes
    value: bytes | None


class Snapshot(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Create a snapshot: a name for the state after this operation's group. ``settled``: no file was being written."""

    id: SnapshotId
    name: str
    time: Number
    settled: bool = True


class Unsnapshot(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Delete a snapshot."""

    id: SnapshotId


class Purge(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Delete entries that are in the trash for good, with everything below them."""

    entries: tuple[EntryId, ...]


class Retire(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """Retire packs in which nothing is referenced any more: nobody uses their chunks from now on, and they may be deleted."""

    packs: tuple[BlobName, ...]


class TrashPolicy(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """Set after how many days deleted entries are purged; 0: at once."""

    retention_days: Count


class VersionPolicy(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """Set how many earlier contents of each file are kept; 0: none."""

    max_versions: Count


class Dot(msgspec.Struct, array_like=True, frozen=True):
    """The identity of a content: the operation that wrote it. In rows of programs that did not keep it: incarnation 0, and the
    position that closed the content (0: the file still has it)."""

    incarnation: Incarnation
    sequence: Count


class Prune(msgspec.Struct, array_like=True, frozen=True, tag=18):
    """Drop earlier contents that this node had. A content that a named file still has is only no version of others any more."""

    node: NodeId
    dots: tuple[Dot, ...]


class Retracted(msgspec.Struct, array_like=True, frozen=True, tag=22):
    """Nothing. It has the number of an operation that was retracted before it was sent (``tgdav.crdt.retraction``)."""


class Member(msgspec.Struct, array_like=True, frozen=True, tag=16):
    """Make ``machine`` the writer from ``epoch`` on, with this key and incarnation. ``replaces``: the previous writer."""

    machine: MachineId
    name: str
    public_key: bytes
    incarnation: Incarnation
    epoch: Count
    replaces: MachineId | None
    exchange_key: bytes = b""


class Namespace(msgspec.Struct, array_like=True, frozen=True, tag=17):
    """Create the namespace: the first operation of its log. ``mode`` is that of the configuration, such as ``standalone``."""

    name: str
    mode: str
    time: Number


NamespaceOp = Snapshot | Unsnapshot | Purge | Retire | TrashPolicy | VersionPolicy | Member | Namespace | Retracted
Op = Make | Place | Write | Attr | Field | Prune | NamespaceOp
_RESERVED = frozenset(range(1, 128)) - {kind.__struct_config__.tag for kind in Op.__args__}
"""Numbers that a later program may give to operations."""
BARRIERS = (Snapshot, Unsnapshot, Purge, Retire)
"""Operations about everything that was logged before them: they must not overtake a group that is held back."""


class Group(msgspec.Struct, array_like=True, frozen=True):
    """The operations of one call. ``sequence`` is the number of the first one; the others follow consecutively.

    ``stamp`` orders groups (``tgdav.crdt.clocks``); ``time`` is the author's wall clock in ns, shown as mtime and ctime.
    """

    sequence: Count
    stamp: Count
    time: Number
    ops: tuple[Op, ...]

    FORMAT_VERSION: ClassVar[int] = 1


_encoder = msgspec.msgpack.Encoder()
_ops_decoder = msgspec.msgpack.Decoder(tuple[Op, ...])


def is_snapshot_name(name: str) -> bool:
    """Return whether a snapshot may have this name: it must be the name of a directory in every front end."""
    return name.isprintable() and 0 < len(name.encode()) <= _NAME_MAX and "/" not in name and name not in (".", "..")


def is_possible(op: Op) -> bool:
    """Return whether the attributes in ``op`` are in range. All other fields are validated by their types."""
    if isinstance(op, Snapshot):
        return is_snapshot_name(op.name)
    if not isinstance(op, Attr):
        return True
    values = op.values
    owners = (values.get("uid", 0), values.get("gid", 0))
    return 0 <= values.get("mode", 0) <= MODE_MAX and all(0 <= number < 2**32 for number in owners)


def encode_ops(ops: tuple[Op, ...] | list[Op]) -> bytes:
    """Encode operations as a msgpack array."""
    return _encoder.encode(ops)


def decode_ops(data: bytes) -> tuple[Op, ...]:
    """Decode the output of ``encode_ops``. Raises NewerFormat for operations of a later program, DamageError."""
    try:
        return _ops_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        check_numbers("the log", data, lambda ops: [ops])
        raise DamageError("an operation in the log cannot be read", blob="log") from error


def check_numbers(what: str, data: bytes, find_groups: Callable[[Any], Iterable[Any]]) -> None:
    """Raise NewerFormat if ``data``, which cannot be decoded, contains an operation of a later program.

    ``find_groups`` returns the groups of operations in ``data``, decoded without their types.
    """
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        for ops in find_groups(msgspec.msgpack.decode(data)):
            for op in ops:
                if op[0] in _RESERVED:
                    raise NewerFormat(what, op[0], "operation")
