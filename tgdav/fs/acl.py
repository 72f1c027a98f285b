"""POSIX ACLs (acl(5)) in the format of Linux's extended attributes (linux/posix_acl_xattr.h). Pure.

A value is a version (u32, 2) followed by entries of tag (u16), permissions (u16) and id (u32), little-endian. The access ACL of a
node and its mode both contain the permissions of the owner, of others and of the group class (the mask, or the group if there is
no mask), so a change of one changes the other. New entries of a directory inherit its default ACL. The algorithms are those of
Linux (fs/posix_acl.c); the kernel checks permissions.
"""

import struct
from collections.abc import Iterator

from tgdav.errors import InvalidArgument

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20
_BASE = {_OWNER, _GROUP, _OTHERS}
_SHIFTS = {_OWNER: 6, _OTHERS: 0}


def mode_of(value: bytes, mode: int) -> tuple[int, bool]:
    """Return ``mode`` with the permissions of an ACL, and whether the ACL contains nothing else.

    Raises InvalidArgument for an invalid ACL.
    """
    entries = list(_entries(value))
    found = {tag: permissions for tag, permissions, _ in entries}
    if not found.keys() >= _BASE:
        raise InvalidArgument("not an ACL")
    # With a mask, the group bits of the mode are those of the mask (acl(5)).
    group = found.get(_MASK, found[_GROUP])
    return mode & ~0o777 | found[_OWNER] << 6 | group << 3 | found[_OTHERS], len(entries) == len(_BASE)


def with_mode(value: bytes, mode: int) -> bytes:
    """Return an ACL with the permissions of ``mode``, as chmod(2) sets them. Raises InvalidArgument."""
    entries = list(_entries(value))
    shifts = _shifts(entries)
    return _encoded([(tag, mode >> shifts[tag] & 7 if tag in shifts else old, id_) for tag, old, id_ in entries])


def inherited(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """Return the mode and access ACL of a node that is created with ``mode`` in a directory with the default ACL ``default``.

    The ACL is None if it equals the mode. Raises InvalidArgument.
    """
    entries = list(_entries(default))
    shifts = _shifts(entries)
    # As posix_acl_create_masq: both the mode that the program asks for and the ACL can take permissions away.
    kept = mode & ~0o777
    made = []
    for tag, permissions, id_ in entries:
        if tag in shifts:
            permissions &= mode >> shifts[tag]
            kept |= permissions << shifts[tag]
        made.append((tag, permissions, id_))
    return kept, None if {tag for tag, _, _ in made} <= _BASE else _encoded(made)


def _entries(value: bytes) -> Iterator[tuple[int, int, int]]:
    if value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        raise InvalidArgument("not an ACL")
    for tag, permissions, id_ in _ENTRY.iter_unpack(value[4:]):
        yield tag, permissions & 7, id_


def _encoded(entries: list[tuple[int, int, int]]) -> bytes:
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _shifts(entries: list[tuple[int, int, int]]) -> dict[int, int]:
    """Return the bit position in a mode for each tag whose permissions a mode contains."""
    has_mask = any(tag == _MASK for tag, _, _ in entries)
    return {**_SHIFTS, _MASK if has_mask else _GROUP: 3}
