"""The options of ``-o``: ours, those for the kernel, and those of fstab that mean nothing here. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from tgdav.errors import UsageError
from tgdav_fuse.mount_table import FILE_SYSTEM

CHOICES = (
    ("ro", "rw"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("exec", "noexec"),
    ("sync", "async"),
    ("atime", "noatime"),
    ("diratime", "nodiratime"),
    ("relatime", "norelatime"),
    ("strictatime", "nostrictatime"),
    ("lazytime", "nolazytime"),
    ("symfollow", "nosymfollow"),
    ("allow_other", "allow_root"),
)
"""Words of which the last one given counts."""

_KERNEL = frozenset(["auto_unmount", "default_permissions", "dirsync", *(word for each in CHOICES for word in each)])
_OPPOSITE = {word: other for first, second in CHOICES for word, other in ((first, second), (second, first))}
_FSTAB_WORDS = "defaults auto noauto user nouser users owner group _netdev nofail nonempty"
_IGNORED = frozenset(_FSTAB_WORDS.split())
_IGNORED_PREFIXES = ("x-", "comment=")
_PLACES = ("home", "config", "namespace", "passphrase_file")
_MOST_ID = 2**32 - 2


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``-o`` asked for. ``kernel`` are the words for the kernel; ``places`` is for the command that mounts."""

    kernel: frozenset[str] = frozenset()
    uid: int | None = None
    gid: int | None = None
    places: Mapping[str, str] = {}

    @property
    def read_only(self) -> bool:
        """Whether nothing may be changed through the mount."""
        return "ro" in self.kernel

    @property
    def checks_permissions(self) -> bool:
        """Whether the kernel checks owner, mode and ACLs of files."""
        return not self.kernel.isdisjoint({"default_permissions", "allow_other", "allow_root"})

    def words(self) -> set[str]:
        """Return the options to mount with; no two of them are opposed."""
        words = set(self.kernel) | {f"fsname={FILE_SYSTEM}", f"subtype={FILE_SYSTEM}"}
        if self.checks_permissions:
            words.add("default_permissions")
        return words - {"rw"}


def parse_options(given: Iterable[str]) -> MountOptions:
    """Read lists of options separated by commas; of opposed ones the last counts. Raises UsageError for what is unknown."""
    kernel: set[str] = set()
    ids: dict[str, int] = {}
    places: dict[str, str] = {}
    for word in (word for text in given for word in text.split(",") if word):
        name, equals, value = word.partition("=")
        if word in _IGNORED or word.startswith(_IGNORED_PREFIXES):
            continue
        if word in _KERNEL:
            kernel = (kernel - {_OPPOSITE.get(word, word)}) | {word}
        elif equals and name in ("uid", "gid"):
            ids[name] = _number(name, value)
        elif equals and value and name in _PLACES:
            places[name] = value
        else:
            raise UsageError(f"the mount option '{word}' is not known", hint="docs/fuse.md lists all")
    return MountOptions(kernel=frozenset(kernel), uid=ids.get("uid"), gid=ids.get("gid"), places=places)


def _number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) > _MOST_ID:
        raise UsageError(f"the mount option '{name}' takes a number, not '{value}'")
    return int(value)
