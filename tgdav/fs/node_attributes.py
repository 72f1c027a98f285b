"""Attributes, extended attributes and WebDAV properties, read and changed inside one transaction."""

import stat
from collections.abc import Iterable, Iterator, Mapping

from tgdav.crdt.ops import Attr, Field
from tgdav.db.connection import Connection
from tgdav.errors import Exists, InvalidArgument, NameTooLong, NoAttribute, NoSpace, NotFound
from tgdav.fs import acl
from tgdav.fs.api import XattrFlag
from tgdav.ids import Inode
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.types import AttributeChange, Attributes, Kind

# Prefixes of field names; docs/formats.md lists them.
XATTR = b"x:"
PROPERTY = b"p:"
VALUE_MAX = 65_536
"""Longest value of an extended attribute, bytes (as on Linux)."""
NAMES_MAX = 65_536
"""Most bytes of all names of a node, each with a NUL: Linux lists no more (listxattr(2)), and copies would lose the rest."""
NUMBER_MAX = 2**32 - 1
_LOGGED = ("mode", "uid", "gid", "mtime", "ctime", "btime")


def checked(wanted: AttributeChange) -> AttributeChange:
    """Return the change with its times clamped to what can be stored. Raises InvalidArgument for an invalid owner."""
    check_numbers(wanted.uid, wanted.gid)
    return wanted.clamped()


def check_numbers(*numbers: int | None) -> None:
    """Raise InvalidArgument if a user, group or device number does not fit in 32 bits; None means not given."""
    for number in numbers:  # runs for each new file: any() with a generator would cost more than the comparisons
        if number is not None and not 0 <= number <= NUMBER_MAX:
            raise InvalidArgument("user, group and device numbers have 32 bits")


def require(change: Change, inode: Inode) -> Attributes:
    """Return a node's attributes. Raises NotFound."""
    found = change.attributes(inode)
    if found is None:
        raise NotFound
    return found


def _emit(change: Change, node: Attributes, op: Attr | Field) -> None:
    if node.local:
        change.emit_local(op)
    else:
        change.emit(op)


def set_attributes(change: Change, inode: Inode, wanted: AttributeChange) -> None:
    """Set attributes, except ``size``; ctime becomes the change's time unless given. Raises NotFound, InvalidArgument."""
    wanted = checked(wanted)
    node = require(change, inode)
    if wanted.atime is not None:
        change.set_local(inode, atime=wanted.atime)
    values = {name: getattr(wanted, name) for name in _LOGGED if getattr(wanted, name) is not None}
    if values:
        if "mode" in values:
            # The kernel sends the type bits as well.
            values["mode"] &= 0o7777
            for op in acl_operations(change, node, values["mode"]):
                _emit(change, node, op)
        _emit(change, node, Attr(node.node, {"ctime": change.time} | values))


def acl_operations(change: Change, node: Attributes, mode: int) -> Iterator[Field]:
    """Yield the operation that changes a node's access ACL, if it has one, to a new ``mode``."""
    value = change.field(node.inode, XATTR + acl.ACCESS)
    if value is not None and (changed := acl.with_mode(value, mode)) != value:
        yield Field(node.node, XATTR + acl.ACCESS, changed)


def read_link(connection: Connection, inode: Inode) -> bytes:
    """Return a symlink's target. Raises NotFound, InvalidArgument for other kinds."""
    attributes = queries.attributes(connection, inode)
    if attributes is None:
        raise NotFound
    if attributes.kind != Kind.SYMLINK:
        raise InvalidArgument("not a symbolic link")
    return queries.link_target(connection, inode)


def is_simple(change: AttributeChange) -> bool:
    """Return whether a file's commit can set all given attributes (the size apart)."""
    return change.btime is None


def check_xattr(name: bytes, value: bytes) -> None:
    """Raise InvalidArgument or NameTooLong if an extended attribute cannot have this name or value."""
    if not name or b"\0" in name:
        raise InvalidArgument("invalid attribute name")
    if len(name) > 255:
        raise NameTooLong("the attribute's name is longer than 255 bytes")
    if len(value) > VALUE_MAX:
        raise InvalidArgument("an attribute's value may have at most 65536 bytes")


def get_xattr(connection: Connection, inode: Inode, name: bytes) -> bytes:
    """Return the value of an extended attribute. Raises NoAttribute."""
    value = queries.field(connection, inode, XATTR + name)
    if value is None:
        raise NoAttribute
    return value


def set_xattr(
    change: Change, inode: Inode, name: bytes, value: bytes, flags: XattrFlag, *, drop_set_group_id: bool = False
) -> None:
    """Set an extended attribute. An access ACL sets the mode too, and removes setgid if ``drop_set_group_id``.

    Raises Exists (CREATE), NoAttribute (REPLACE), NotFound, NoSpace (too many names), InvalidArgument (invalid ACL).
    """
    node = require(change, inode)
    present = queries.field(change.connection, inode, XATTR + name) is not None
    if XattrFlag.CREATE in flags and present:
        raise Exists("the attribute already exists")
    if XattrFlag.REPLACE in flags and not present:
        raise NoAttribute
    values, kept = {"ctime": change.time}, True
    if name in (acl.ACCESS, acl.DEFAULT):
        mode, says_mode = acl.mode_of(value, node.mode)
        if name == acl.ACCESS:
            values["mode"] = mode & ~stat.S_ISGID if drop_set_group_id else mode
            kept = not says_mode  # an ACL that equals the mode is not stored, as on Linux
    # Replacing a value adds no name.
    if kept and not present:
        _require_room(change, inode, name)
    if kept or present:
        _emit(change, node, Field(node.node, XATTR + name, value if kept else None))
    # POSIX: setting an extended attribute changes ctime, not mtime.
    _emit(change, node, Attr(node.node, values))


def _require_room(change: Change, inode: Inode, name: bytes) -> None:
    if queries.names_bytes(change.connection, inode, XATTR) + len(name) + 1 > NAMES_MAX:
        raise NoSpace("the names of a file's extended attributes may have at most 65536 bytes in total")


def list_xattrs(connection: Connection, inode: Inode) -> list[bytes]:
    """Return the names of extended attributes, sorted."""
    found = queries.fields(connection, [inode], XATTR).get(inode, {})
    return sorted(name.removeprefix(XATTR) for name in found)


def remove_xattr(change: Change, inode: Inode, name: bytes) -> None:
    """Remove an extended attribute. Raises NoAttribute, NotFound."""
    node = require(change, inode)
    if queries.field(change.connection, inode, XATTR + name) is None:
        raise NoAttribute
    _emit(change, node, Field(node.node, XATTR + name, None))
    _emit(change, node, Attr(node.node, {"ctime": change.time}))


def properties(connection: Connection, inodes: Iterable[Inode]) -> dict[Inode, dict[bytes, bytes]]:
    """Return the WebDAV properties of nodes."""
    found = queries.fields(connection, list(inodes), PROPERTY)
    return {
        inode: {name.removeprefix(PROPERTY): value for name, value in each.items()} for inode, each in found.items()
    }


def set_properties(
    change: Change, inode: Inode, values: Mapping[bytes, bytes | None], attributes: AttributeChange | None
) -> None:
    """Set or remove properties, and set attributes. Raises NotFound, InvalidArgument."""
    node = require(change, inode)
    for name, value in values.items():
        _emit(change, node, Field(node.node, PROPERTY + name, value))
    if attributes is not None:
        if attributes.size is not None:
            raise InvalidArgument("the size cannot be set with properties")
        set_attributes(change, inode, attributes)
