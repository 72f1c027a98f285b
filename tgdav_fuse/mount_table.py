"""Mounting by mount(2), unmounting, and what is mounted where (Linux: /proc/PID/mountinfo). Needs neither pyfuse3 nor trio."""

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

import msgspec

from tgdav.errors import TgdavError, UsageError, VaultInUse

FILE_SYSTEM = "tgdav"
_TYPES = (f"fuse.{FILE_SYSTEM}", "fuse", "macfuse", "osxfuse")
_PROCESSES = Path("/proc")
_MOUNT_INFO = _PROCESSES / "self/mountinfo"
_ESCAPE = re.compile(r"\\([0-7]{3})")
_DETACH, _NO_FOLLOW = 2, 8

_DEVICE = "/dev/fuse"
_CONFIGURATION = Path("/etc/fuse.conf")
_FLAGS = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": 256,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}
"""The MS_… flags of mount(2)."""
_POSIXACL = 1 << 16
"""MS_POSIXACL. The kernel then does not apply the umask, which a default ACL replaces (fuse_fill_super_common)."""
_FUSE_OPTIONS = frozenset({"allow_other", "default_permissions"})


class Holder(msgspec.Struct, frozen=True):
    """Another mount of a file system: a process that sees it, the name of that process, and the mount point."""

    process: int
    name: str
    where: str


def mount(where: Path, options: Set[str]) -> int:
    """Mount a FUSE file system. Return the descriptor from which its requests are read. Raises OSError."""
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        mode = os.stat(where).st_mode
        data = [
            f"fd={descriptor}",
            f"rootmode={mode & 0o170000:o}",
            f"user_id={os.geteuid()}",
            f"group_id={os.getegid()}",
        ]
        others = options | ({"allow_other"} if "allow_root" in options else set())  # FUSE itself has no allow_root
        data += sorted(others & _FUSE_OPTIONS)
        refused = {"nosuid", "nodev"} - {f"no{option}" for option in options}
        flags = _POSIXACL
        for option in options | refused:
            flags |= _FLAGS.get(option, 0)
        library = ctypes.CDLL(None, use_errno=True)
        names = (FILE_SYSTEM.encode(), os.fsencode(where), _TYPES[0].encode())
        if library.mount(*names, ctypes.c_ulong(flags), ",".join(data).encode()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_mounted(path: Path) -> bool:
    """Return whether the topmost mount at ``path`` is one of tgdav, served or stale."""
    wanted, top = os.fspath(path), ""
    for where, kind in _mounts():
        if where == wanted:
            top = kind
    return top == _TYPES[0]


def _mounts() -> list[tuple[str, str]]:
    """Return (mount point, type) of all mounts, in the order of mounting."""
    if sys.platform != "linux":
        listed = subprocess.run(["mount"], capture_output=True, text=True, check=False).stdout  # noqa: S607
        found = re.findall(rf"^{FILE_SYSTEM}\S* on (.+) \((\w+)", listed, re.MULTILINE)
        return [(where, _TYPES[0]) for where, kind in found if kind in _TYPES]
    return [(where, kind) for _, where, kind in _read_table(_MOUNT_INFO)]


def _read_table(table: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (device, mount point, type) of each line. The format is in proc(5)."""
    # A mount point may be any bytes but NUL; blanks in it are written as \\040.
    for line in table.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        yield fields[2], _ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields[4]), after.split(" ")[0]


def holders(device: int) -> list[Holder]:
    """Return all mounts of the file system with the number ``device``, in all mount namespaces that can be read."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    seen: set[str] = set()
    found = []
    for process in sorted(
        (each for each in _PROCESSES.iterdir() if each.name.isdigit()), key=lambda each: int(each.name)
    ):
        with suppress(OSError):  # the process has ended, or is another user's
            namespace = os.fspath((process / "ns/mnt").readlink())
            if namespace in seen:  # reading the table of one process for each mount namespace is enough
                continue
            places = [where for number, where, _ in _read_table(process / "mountinfo") if number == wanted]
            seen.add(namespace)
            name = (process / "comm").read_text(errors="replace").strip()
            found += [Holder(int(process.name), name, where) for where in places]
    return found


def write_back(holder: Holder) -> None:
    """Make the kernel write back all dirty pages of a file system. Raises OSError."""
    descriptor = os.open(f"{_PROCESSES}/{holder.process}/root{holder.where}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def is_stale(path: Path) -> bool:
    """Return whether the process that served the mount at ``path`` is gone."""
    try:
        os.statvfs(path)  # the kernel may answer os.stat from its cache
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    return False


def resolved(path: str) -> Path:
    """Return ``path`` as the mount table has it. The last component is not accessed: it may be a stale mount."""
    found = Path(os.path.abspath(path))
    return Path(os.path.realpath(found.parent)) / found.name if found.name else found


def prepare(path: str) -> Path:
    """Return the directory to mount at, after unmounting a stale mount of tgdav there. Raises UsageError."""
    where = resolved(path)
    if is_mounted(where):
        if not is_stale(where):
            raise UsageError(f"{path} is already mounted", hint=f"unmount it first: tgdav unmount {path}")
        unmount(where, lazily=True)  # a stale mount may be busy
    where = Path(os.path.realpath(where))
    if is_mounted(where):
        raise UsageError(f"{path} is already mounted", hint=f"unmount it first: tgdav unmount {path}")
    if not where.is_dir():
        raise UsageError(f"{path} is not a directory", hint="create it first, or give another")
    return where


def require_mounted(path: str) -> Path:
    """Return the mount point at ``path``. Raises UsageError if it is not one of tgdav."""
    for where in (resolved(path), Path(os.path.realpath(path))):
        if is_mounted(where):
            return where
    raise UsageError(f"{path} is not mounted", hint="give the directory at which the drive is mounted")


def unmount(path: Path, *, lazily: bool = False) -> None:
    """Unmount ``path``, with ``lazily`` even while it is in use.

    Blocks during the writeback, which the mount's process must serve. Raises VaultInUse (busy), UsageError (not allowed).
    """
    if sys.platform == "linux" and os.geteuid() == 0:
        number = _system_call(path, lazily=lazily)
    else:
        number = _helper(path, lazily=lazily)
    if number == errno.EBUSY:
        raise VaultInUse(
            f"{path} is busy: a program has a file or directory in it open",
            hint=f"close it ('fuser -vm {path}' names it) and try again",
        )
    if number == errno.EPERM:
        raise UsageError(f"{path} cannot be unmounted by this user", hint="the user who mounted it can, and root")
    if number not in (0, errno.EINVAL, errno.ENOENT):
        raise TgdavError(f"{path} cannot be unmounted: {os.strerror(number)}")


def _system_call(path: Path, *, lazily: bool) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    flags = _NO_FOLLOW | (_DETACH if lazily else 0)
    return ctypes.get_errno() if library.umount2(os.fsencode(path), flags) else 0


def _helper(path: Path, *, lazily: bool) -> int:
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", os.fspath(path)]
    if sys.platform != "linux":
        command = ["umount", *(["-f"] if lazily else []), os.fspath(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed programs
    if done.returncode == 0:
        return 0
    # Neither helper has exit codes for the reasons, so the message must do.
    if "busy" in done.stderr.lower():
        return errno.EBUSY
    return errno.EPERM if is_mounted(path) else 0


def diagnose(where: Path, options: Set[str]) -> str:
    """Return a hint why mounting at ``where`` was refused, as far as can be seen, and what to do."""
    if sys.platform != "linux":
        return "is macFUSE installed and allowed?"
    if not Path(_DEVICE).exists():
        return f"{_DEVICE} is missing: load the kernel module (modprobe fuse), or pass the device to the container"
    if os.geteuid() == 0:
        return "is this process allowed to mount (CAP_SYS_ADMIN)?"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"this user has no access to {_DEVICE}: join the group that owns it (often 'fuse')"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing: install the package fuse3"
    if not os.access(where, os.W_OK):
        return f"this user has no write access to {where}: users other than root need it to mount there"
    if {"allow_other", "allow_root"} & options and not _others_allowed():
        return f"allow_other and allow_root need the line 'user_allow_other' in {_CONFIGURATION}"
    return "see the message of fusermount3 above"


def _others_allowed() -> bool:
    try:
        lines = _CONFIGURATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
