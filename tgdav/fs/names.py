"""Rules for names: valid, reserved, junk. Pure."""

from enum import Enum

from tgdav.db.schema import ROOT_INODE
from tgdav.errors import InvalidArgument, NameTooLong, NotPermitted, ReadOnly
from tgdav.fs.api import HISTORY_INODES
from tgdav.ids import Inode
from tgdav.metadata.types import NAME_MAX

HISTORY_NAMES = frozenset((b".snapshots", b".versions", b".trash"))
"""Names of the directories of history in the root, which does not list them."""
RESERVED = HISTORY_NAMES | {b".namespaces", b".conflicts", b"-"}
"""Names in the root that nothing can be created under: history, other namespaces, conflicts, the server's own pages."""

_NUL, _SLASH = b"\0/"
_JUNK = frozenset((b".DS_Store", b"Thumbs.db", b"desktop.ini"))


class JunkPolicy(Enum):
    """What happens to the files that Finder and Explorer create everywhere."""

    LOCAL = "local"
    STORE = "store"
    REFUSE = "refuse"


def is_junk(name: bytes) -> bool:
    """Return whether Finder or Explorer uses a name for its own files."""
    return name in _JUNK or (name.startswith(b"._") and len(name) > 2)


def check_name(name: bytes) -> None:
    """Raise InvalidArgument or NameTooLong for an invalid name."""
    if not name or name in (b".", b"..") or _SLASH in name or _NUL in name:
        raise InvalidArgument("invalid name")
    if len(name) > NAME_MAX:
        raise NameTooLong


def read_only() -> ReadOnly:
    """Return the error for a change of history."""
    return ReadOnly("history cannot be changed", hint="copy what you need out of it")


def check_old_name(parent: Inode, name: bytes) -> None:
    """Check the name of an entry that is to be removed or moved. Raises InvalidArgument, NameTooLong, ReadOnly (history)."""
    check_name(name)
    if parent >= HISTORY_INODES or (parent == ROOT_INODE and name in HISTORY_NAMES):
        raise read_only()


def check_new_name(parent: Inode, name: bytes, policy: JunkPolicy) -> bool:
    """Check the name of a new entry; return whether it is junk that stays on this machine.

    Raises InvalidArgument, NameTooLong, NotPermitted (reserved in the root, or junk that is refused), ReadOnly (in history).
    """
    check_name(name)
    if parent >= HISTORY_INODES:
        raise read_only()
    if parent == ROOT_INODE and name in RESERVED:
        raise NotPermitted("this name is reserved")
    if not is_junk(name) or policy is JunkPolicy.STORE:
        return False
    if policy is JunkPolicy.REFUSE:
        raise NotPermitted("files of this kind are refused by the configuration (webdav.junk_files)")
    return True
