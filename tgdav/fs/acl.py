"""POSIX ACLs (acl(5)) in the form of Linux's extended attributes (linux/posix_acl_xattr.h). Pure.

A value is a version (u32, 2) and entries of tag (u16), permissions (u16) and id (u32), little-endian. The access ACL of a
node and its mode say the same about owner, others and the group class (the mask, or the group where there is no mask), so
each change of one changes the other. A folder's default ACL is what new entries in it inherit. The algorithms are those of
Linux (fs/posix_acl.c); checking rights is left to the kernel.
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
    """Return ``mode`` with the permissions that an ACL says, and whether the ACL says no more than that.

    Raises InvalidArgument for what is no ACL.
    """
    entries = list(_entries(value))
    found = {tag: permissions for tag, permissions, _ in entries}
    if not found.keys() >= _BASE:
        raise InvalidArgument("not an ACL")
    group = found.get(_MASK, found[_GROUP])
    return mode & ~0o777 | found[_OWNER] << 6 | group << 3 | found[_OTHERS], len(entries) == len(_BASE)


def with_mode(value: bytes, mode: int) -> bytes:
    """Return an ACL with the permissions of ``mode``, as chmod(2) changes it. Raises InvalidArgument."""
    entries = list(_entries(value))
    shifts = _shifts(entries)
    return _encoded([(tag, mode >> shifts[tag] & 7 if tag in shifts else old, id_) for tag, old, id_ in entries])


def inherited(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """Return mode and access ACL of a new node that is made with ``mode`` in a folder with the ACL ``default``.

    The ACL is None where the mode says all. Raises InvalidArgument.
    """
    entries = list(_entries(default))
    shifts = _shifts(entries)
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
    """Return where in a mode the permissions of each tag stand that a mode has a place for."""
    has_mask = any(tag == _MASK for tag, _, _ in entries)
    return {**_SHIFTS, _MASK if has_mask else _GROUP: 3}
