"""Extended attributes for the kernel, with the virtual attribute ``user.tgdav.state``.

On Linux a name must be in one of four namespaces (xattr(7)); other file systems refuse any other, and so do we. A file may
still have such names, set on a Mac; they are not listed. The kernel checks permissions, except that it does not hide the
names in ``trusted.`` from users other than administrators.
"""

import sys
from collections.abc import Callable, Sequence

from tgdav.errors import InvalidArgument, NoAttribute, NotPermitted, NotSupported
from tgdav.fs import acl
from tgdav.fs.api import FileSystem
from tgdav.ids import Inode

STATE = b"user.tgdav.state"
"""``local``, ``uploading`` or ``stored``. Never listed, so that programs that copy attributes do not copy it."""

CAPABILITY = b"security.capability"
"""Linux reads it before every write, so we cache that a file has none."""

_MAX_CACHED = 100_000
_NAMESPACES = (b"user.", b"trusted.", b"security.")
_TRUSTED = b"trusted."
_ACLS = (acl.ACCESS, acl.DEFAULT)


def is_valid(name: bytes) -> bool:
    """Return whether Linux, or any other system, accepts an attribute of that name."""
    if sys.platform != "linux":
        return True
    return name in _ACLS or (name.startswith(_NAMESPACES) and name not in _NAMESPACES)


def check_name(name: bytes) -> None:
    """Raise what ext4 raises for an invalid name: NotSupported, InvalidArgument."""
    if is_valid(name):
        return
    if name in _NAMESPACES:
        raise InvalidArgument("the attribute has no name after its namespace")
    raise NotSupported("the attribute is not in the namespace user, trusted or security")


class Xattrs:
    """The extended attributes of a file system."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._without_capability: set[int] = set()

    def has_none(self, inode: int, name: bytes) -> bool:
        """Return whether the cache knows that the attribute does not exist."""
        return name == CAPABILITY and inode in self._without_capability

    def get(self, inode: Inode, name: bytes) -> bytes:
        """Return a value. Raises NoAttribute, NotSupported, InvalidArgument."""
        check_name(name)
        if name == STATE:
            if not self._fs.attributes(inode).is_file:
                raise NoAttribute
            return self._fs.upload_state(inode).encode()
        try:
            return self._fs.get_xattr(inode, name)
        except NoAttribute:
            if name == CAPABILITY:  # the kernel does not cache that an attribute is missing
                self.created(inode)
            raise

    def set(self, inode: Inode, name: bytes, value: bytes, *, drop_set_group_id: bool = False) -> None:
        """Set a value; an ACL may clear setgid. Raises NotPermitted for the state, NotSupported, InvalidArgument."""
        self._check_settable(name)
        # ``changed`` comes last: a read meanwhile may have cached the old state.
        self._fs.set_xattr(inode, name, value, drop_set_group_id=drop_set_group_id)
        self.changed(inode)

    def list(self, inode: Inode, is_administrator: Callable[[], bool]) -> Sequence[bytes]:
        """Return the names, those in ``trusted.`` only if ``is_administrator()``."""
        found = [name for name in self._fs.list_xattrs(inode) if is_valid(name)]
        if any(name.startswith(_TRUSTED) for name in found) and not is_administrator():
            return [name for name in found if not name.startswith(_TRUSTED)]
        return found

    def remove(self, inode: Inode, name: bytes) -> None:
        """Remove an attribute. Raises NoAttribute, NotPermitted for the state, NotSupported, InvalidArgument."""
        self._check_settable(name)
        self._fs.remove_xattr(inode, name)

    def created(self, inode: int) -> None:
        """Record that a file was created, so it has no security.capability."""
        if len(self._without_capability) < _MAX_CACHED:  # what is not cached costs a query, nothing else
            self._without_capability.add(inode)

    def changed(self, inode: int) -> None:
        """Record that a node's attributes may have changed."""
        self._without_capability.discard(inode)

    def _check_settable(self, name: bytes) -> None:
        check_name(name)
        if name == STATE:
            raise NotPermitted("user.tgdav.state is read-only")
