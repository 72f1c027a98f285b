"""What is mounted where (Linux: /proc/PID/mountinfo), mounting by mount(2), and unmounting. Needs neither pyfuse3 nor trio."""

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
"""The flags MS_… of mount(2)."""
_LEAVES_UMASK = 1 << 16
"""MS_POSIXACL. FUSE then takes no umask off new modes, as a default ACL replaces the umask (fuse_fill_super_common)."""
_FUSE_WORDS = frozenset({"allow_other", "default_permissions"})


class Holder(msgspec.Struct, frozen=True):
    """Where else a file system is mounted: a process that sees it there, its name, and the mount point."""

    process: int
    name: str
    where: str


def mount(where: Path, words: Set[str]) -> int:
    """Mount a FUSE file system with the options ``words``; return the descriptor to serve it by. Raises OSError."""
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        mode = os.stat(where).st_mode
        data = [
            f"fd={descriptor}",
            f"rootmode={mode & 0o170000:o}",
            f"user_id={os.geteuid()}",
            f"group_id={os.getegid()}",
        ]
        others = words | ({"allow_other"} if "allow_root" in words else set())
        data += sorted(others & _FUSE_WORDS)
        refused = {"nosuid", "nodev"} - {f"no{word}" for word in words}
        flags = _LEAVES_UMASK
        for word in words | refused:
            flags |= _FLAGS.get(word, 0)
        library = ctypes.CDLL(None, use_errno=True)
        names = (FILE_SYSTEM.encode(), os.fsencode(where), _TYPES[0].encode())
        if library.mount(*names, ctypes.c_ulong(flags), ",".join(data).encode()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_mounted(path: Path) -> bool:
    """Return whether a mount of ours, alive or stale, lies on top at ``path``."""
    wanted, top = os.fspath(path), ""
    for where, kind in _mounts():
        if where == wanted:
            top = kind
    return top == _TYPES[0]


def _mounts() -> list[tuple[str, str]]:
    """Return (mount point, type) in the order of mounting."""
    if sys.platform != "linux":
        listed = subprocess.run(["mount"], capture_output=True, text=True, check=False).stdout  # noqa: S607
        found = re.findall(rf"^{FILE_SYSTEM}\S* on (.+) \((\w+)", listed, re.MULTILINE)
        return [(where, _TYPES[0]) for where, kind in found if kind in _TYPES]
    return [(where, kind) for _, where, kind in _listed(_MOUNT_INFO)]


def _listed(table: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (device, mount point, type) of each line; proc(5) gives the format."""
    for line in table.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        words = before.split(" ")
        yield words[2], _ESCAPE.sub(lambda code: chr(int(code[1], 8)), words[4]), after.split(" ")[0]


def holders(device: int) -> list[Holder]:
    """Return where the file system with the number ``device`` is mounted, in all mount namespaces that can be looked at."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    seen: set[str] = set()
    found = []
    for process in sorted(
        (each for each in _PROCESSES.iterdir() if each.name.isdigit()), key=lambda each: int(each.name)
    ):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            namespace = os.fspath((process / "ns/mnt").readlink())
            if namespace in seen:
                continue
            places = [where for number, where, _ in _listed(process / "mountinfo") if number == wanted]
            seen.add(namespace)
            name = (process / "comm").read_text(errors="replace").strip()
            found += [Holder(int(process.name), name, where) for where in places]
    return found


def write_back(holder: Holder) -> None:
    """Have the kernel hand over all that programs wrote to a file system. Raises OSError."""
    descriptor = os.open(f"{_PROCESSES}/{holder.process}/root{holder.where}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def is_stale(path: Path) -> bool:
    """Return whether the process behind the mount at ``path`` is gone."""
    try:
        os.statvfs(path)  # os.stat may be answered from what the kernel kept
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    return False


def resolved(path: str) -> Path:
    """Return ``path`` as the mount table names it. The last part may be a stale mount, so nothing is asked of it."""
    found = Path(os.path.abspath(path))
    return Path(os.path.realpath(found.parent)) / found.name if found.name else found


def prepare(path: str) -> Path:
    """Return where to mount: an existing folder, a stale mount of ours cleared away. Raises UsageError."""
    where = resolved(path)
    if is_mounted(where):
        if not is_stale(where):
            raise UsageError(f"{path} is mounted already", hint=f"unmount it first: tgdav unmount {path}")
        unmount(where, lazily=True)
    where = Path(os.path.realpath(where))
    if is_mounted(where):
        raise UsageError(f"{path} is mounted already", hint=f"unmount it first: tgdav unmount {path}")
    if not where.is_dir():
        raise UsageError(f"{path} is not a folder", hint="make it first, or name another")
    return where


def require_mounted(path: str) -> Path:
    """Return where the mount at ``path`` lies. Raises UsageError when there is none of ours."""
    for where in (resolved(path), Path(os.path.realpath(path))):
        if is_mounted(where):
            return where
    raise UsageError(f"{path} is not mounted", hint="give the folder that was mounted")


def unmount(path: Path, *, lazily: bool = False) -> None:
    """Take the mount at ``path`` away; ``lazily`` even while it is in use.

    Blocks while the kernel writes back, which the mount's process must answer meanwhile. Raises VaultInUse (busy),
    UsageError (not allowed).
    """
    if sys.platform == "linux" and os.geteuid() == 0:
        number = _system_call(path, lazily=lazily)
    else:
        number = _helper(path, lazily=lazily)
    if number == errno.EBUSY:
        raise VaultInUse(
            f"{path} is busy: some program has a file or folder open in it",
            hint=f"close it ('fuser -vm {path}' names it) and try again",
        )
    if number == errno.EPERM:
        raise UsageError(f"{path} cannot be unmounted by this user", hint="ask the user who mounted it")
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
    if "busy" in done.stderr.lower():
        return errno.EBUSY
    return errno.EPERM if is_mounted(path) else 0


def diagnose(where: Path, words: Set[str]) -> str:
    """Return what to do so that ``where`` can be mounted with the options ``words``: it was refused."""
    if sys.platform != "linux":
        return "is macFUSE installed and allowed?"
    if not Path(_DEVICE).exists():
        return f"{_DEVICE} is missing: load the kernel's module (modprobe fuse), or give the container the device"
    if os.geteuid() == 0:
        return "is this process allowed to mount (CAP_SYS_ADMIN)?"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"this user may not use {_DEVICE}: join the group that owns it (often 'fuse')"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing: install the package fuse3"
    if not os.access(where, os.W_OK):
        return f"users mount at folders that they may write to; {where} is none"
    if {"allow_other", "allow_root"} & words and not _others_allowed():
        return f"allow_other and allow_root need the line 'user_allow_other' in {_CONFIGURATION}"
    return "the line above says what fusermount3 refused"


def _others_allowed() -> bool:
    try:
        lines = _CONFIGURATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
