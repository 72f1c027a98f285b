"""The mount options of ``-o``: our own, the kernel's, and those of fstab that are ignored. Pure."""

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

_KERNEL = frozenset(
    ["auto_unmount", "default_permissions", "dirsync", *(option for pair in CHOICES for option in pair)]
)
_OPPOSITE = dict(CHOICES) | {second: first for first, second in CHOICES}
_FSTAB_OPTIONS = "defaults auto noauto user nouser users owner group _netdev nofail nonempty"
_IGNORED = frozenset(_FSTAB_OPTIONS.split())
_IGNORED_PREFIXES = ("x-", "comment=")
_PLACES = ("home", "config", "namespace", "passphrase_file")
_MAX_ID = 2**32 - 2
"""The highest user or group id: 2**32 - 1 means "unchanged" to chown(2)."""


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed options. ``kernel`` are those for the kernel; ``places`` are files and directories for the command."""

    kernel: frozenset[str] = frozenset()
    uid: int | None = None
    gid: int | None = None
    places: Mapping[str, str] = {}

    @property
    def read_only(self) -> bool:
        """Whether the mount is read-only."""
        return "ro" in self.kernel

    @property
    def checks_permissions(self) -> bool:
        """Whether the kernel checks owner, mode and ACLs of files."""
        return not self.kernel.isdisjoint({"default_permissions", "allow_other", "allow_root"})

    def for_kernel(self) -> set[str]:
        """Return the options to mount with. No two of them are opposites."""
        options = set(self.kernel) | {f"fsname={FILE_SYSTEM}", f"subtype={FILE_SYSTEM}"}
        if self.checks_permissions:
            options.add("default_permissions")
        return options - {"rw"}


def parse_options(given: Iterable[str]) -> MountOptions:
    """Parse lists of options separated by commas. Of opposites the last counts. Raises UsageError for an unknown option."""
    kernel: set[str] = set()
    ids: dict[str, int] = {}
    places: dict[str, str] = {}
    for option in (option for text in given for option in text.split(",") if option):
        name, equals, value = option.partition("=")
        if option in _IGNORED or option.startswith(_IGNORED_PREFIXES):
            continue
        if option in _KERNEL:
            # mount(8) passes fstab options before those of -o, so the last one must win.
            kernel = (kernel - {_OPPOSITE.get(option, option)}) | {option}
        elif equals and name in ("uid", "gid"):
            ids[name] = _number(name, value)
        elif equals and value and name in _PLACES:
            places[name] = value
        else:
            raise UsageError(f"unknown mount option '{option}'", hint="docs/fuse.md lists all")
    return MountOptions(kernel=frozenset(kernel), uid=ids.get("uid"), gid=ids.get("gid"), places=places)


def _number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) > _MAX_ID:
        raise UsageError(f"the mount option '{name}' needs a number, not '{value}'")
    return int(value)
