"""POSIX ACLs as Linux hands them over in ``system.posix_acl_access`` (linux/posix_acl_xattr.h). Pure.

The value is a version (u32, 2) and entries of tag (u16), permissions (u16) and id (u32), little-endian. ACLs are kept, and
what they say of owner, group and others is kept in step with the mode; the kernel does not enforce the rest.
"""

import struct

ACCESS = b"system.posix_acl_access"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20


def mode_of(value: bytes, mode: int) -> tuple[int, bool] | None:
    """Return the mode that an ACL makes of ``mode``, and whether it says no more than that; None for what is no ACL."""
    if value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        return None
    found = {tag: permissions & 7 for tag, permissions, _ in _ENTRY.iter_unpack(value[4:])}
    if not {_OWNER, _GROUP, _OTHERS} <= found.keys():
        return None
    group = found.get(_MASK, found[_GROUP])
    return mode & ~0o777 | found[_OWNER] << 6 | group << 3 | found[_OTHERS], len(found) == 3
