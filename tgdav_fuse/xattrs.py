"""Extended attributes as the kernel asks for them, with ``user.tgdav.state``, which is made up when it is read."""

from tgdav.errors import InvalidArgument, NoAttribute, NotPermitted
from tgdav.fs.api import FileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange
from tgdav_fuse import acl

STATE = b"user.tgdav.state"
"""``local``, ``uploading`` or ``stored``: how far a file has gone. Never listed, so that copies leave it behind."""

CAPABILITY = b"security.capability"
"""Linux asks for it at every write; that a file has none is remembered here."""

_REMEMBERED = 100_000


class Xattrs:
    """The attributes of a file system."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._without_capability: set[int] = set()

    def has_none(self, inode: int, name: bytes) -> bool:
        """Return whether it is known, without a look, that ``name`` is not there."""
        return name == CAPABILITY and inode in self._without_capability

    def get(self, inode: Inode, name: bytes) -> bytes:
        """Return a value. Raises NoAttribute."""
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

    def set(self, inode: Inode, name: bytes, value: bytes) -> None:
        """Set one. Raises NotPermitted for the state."""
        self._refuse_state(name)
        if name == acl.ACCESS and self._is_only_mode(inode, value):
            return
        self._fs.set_xattr(inode, name, value)
        self.changed(inode)

    def _is_only_mode(self, inode: Inode, value: bytes) -> bool:
        """Set the mode that an ACL says; return whether it says no more, so that there is none to keep."""
        node = self._fs.attributes(inode)
        said = acl.mode_of(value, node.mode)
        if said is None:
            raise InvalidArgument("not an ACL")
        mode, is_all = said
        if mode != node.mode:
            self._fs.set_attributes(inode, AttributeChange(mode=mode))
        if is_all and acl.ACCESS in self._fs.list_xattrs(inode):
            self._fs.remove_xattr(inode, acl.ACCESS)
        return is_all

    def remove(self, inode: Inode, name: bytes) -> None:
        """Remove one. Raises NoAttribute, NotPermitted for the state."""
        self._refuse_state(name)
        self._fs.remove_xattr(inode, name)

    def made(self, inode: int) -> None:
        """Take in that a file is new, and has no attributes."""
        if len(self._without_capability) < _REMEMBERED:
            self._without_capability.add(inode)

    def changed(self, inode: int) -> None:
        """Take in that the attributes of a node may have changed."""
        self._without_capability.discard(inode)

    def _refuse_state(self, name: bytes) -> None:
        if name == STATE:
            raise NotPermitted("the state is not set by hand")
