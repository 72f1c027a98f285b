"""Extended attributes as the kernel asks for them, with ``user.tgdav.state``, which is made up when it is read.

On Linux a name belongs to one of four namespaces, and other file systems refuse any other; those that a Mac has set, or a
program before that was checked, are not shown. The kernel checks who may read and set what, but for the names of ``trusted.``,
which only administrators may see.
"""

import sys
from collections.abc import Callable, Sequence

from tgdav.errors import InvalidArgument, NoAttribute, NotPermitted, NotSupported
from tgdav.fs import acl
from tgdav.fs.api import FileSystem
from tgdav.ids import Inode

STATE = b"user.tgdav.state"
"""``local``, ``uploading`` or ``stored``: how far a file has gone. Never listed, so that copies leave it behind."""

CAPABILITY = b"security.capability"
"""Linux asks for it at every write; that a file has none is remembered here."""

_REMEMBERED = 100_000
_NAMESPACES = (b"user.", b"trusted.", b"security.")
_TRUSTED = b"trusted."
_ACLS = (acl.ACCESS, acl.DEFAULT)


def is_possible(name: bytes) -> bool:
    """Return whether a file of this system can have an attribute of that name."""
    if sys.platform != "linux":
        return True
    return name in _ACLS or (name.startswith(_NAMESPACES) and name not in _NAMESPACES)


def check_name(name: bytes) -> None:
    """Refuse what ext4 refuses. Raises NotSupported, InvalidArgument."""
    if is_possible(name):
        return
    if name in _NAMESPACES:
        raise InvalidArgument("an attribute needs a name behind its namespace")
    raise NotSupported("attributes are named user.…, trusted.… or security.…")


class Xattrs:
    """The attributes of a file system."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._without_capability: set[int] = set()

    def has_none(self, inode: int, name: bytes) -> bool:
        """Return whether it is known, without a look, that ``name`` is not there."""
        return name == CAPABILITY and inode in self._without_capability

    def get(self, inode: Inode, name: bytes) -> bytes:
        """Return a value. Raises NoAttribute, NotSupported, InvalidArgument."""
        check_name(name)
        if name == STATE:
            if not self._fs.attributes(inode).is_file:
                raise NoAttribute
            return self._fs.storage_state(inode).encode()
        try:
            return self._fs.get_xattr(inode, name)
        except NoAttribute:
            if name == CAPABILITY:
                self.made(inode)
            raise

    def set(self, inode: Inode, name: bytes, value: bytes, *, drop_set_group_id: bool = False) -> None:
        """Set one; an ACL may take setgid away. Raises NotPermitted for the state, NotSupported, InvalidArgument."""
        self._check_settable(name)
        self._fs.set_xattr(inode, name, value, drop_set_group_id=drop_set_group_id)
        self.changed(inode)

    def list(self, inode: Inode, is_administrator: Callable[[], bool]) -> Sequence[bytes]:
        """Return the names; those that only administrators see if ``is_administrator`` says so."""
        found = [name for name in self._fs.list_xattrs(inode) if is_possible(name)]
        if any(name.startswith(_TRUSTED) for name in found) and not is_administrator():
            return [name for name in found if not name.startswith(_TRUSTED)]
        return found

    def remove(self, inode: Inode, name: bytes) -> None:
        """Remove one. Raises NoAttribute, NotPermitted for the state, NotSupported, InvalidArgument."""
        self._check_settable(name)
        self._fs.remove_xattr(inode, name)

    def made(self, inode: int) -> None:
        """Take in that a file is new, and has no attributes."""
        if len(self._without_capability) < _REMEMBERED:
            self._without_capability.add(inode)

    def changed(self, inode: int) -> None:
        """Take in that the attributes of a node may have changed."""
        self._without_capability.discard(inode)

    def _check_settable(self, name: bytes) -> None:
        check_name(name)
        if name == STATE:
            raise NotPermitted("the state is not set by hand")
