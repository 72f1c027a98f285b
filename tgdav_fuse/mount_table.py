"""What is mounted where (Linux: /proc/self/mountinfo), and unmounting. Needs neither pyfuse3 nor trio."""

import ctypes
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

from tgdav.errors import TgdavError, UsageError, VaultInUse

FILE_SYSTEM = "tgdav"
_TYPES = (f"fuse.{FILE_SYSTEM}", "fuse", "macfuse", "osxfuse")
_MOUNT_INFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")
_DETACH, _NO_FOLLOW = 2, 8


def is_mounted(path: Path) -> bool:
    """Return whether a mount of ours, alive or stale, lies on top at ``path``."""
    wanted, top = os.fspath(path), ""
    for where, kind in _mounts():
        if where == wanted:
            top = kind
    return top == _TYPES[0]


def _mounts() -> list[tuple[str, str]]:
    """Return (mount point, type) in the order of mounting; proc(5) gives the format."""
    if sys.platform != "linux":
        listed = subprocess.run(["mount"], capture_output=True, text=True, check=False).stdout  # noqa: S607
        found = re.findall(rf"^{FILE_SYSTEM}\S* on (.+) \((\w+)", listed, re.MULTILINE)
        return [(where, _TYPES[0]) for where, kind in found if kind in _TYPES]
    result = []
    for line in _MOUNT_INFO.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        where = _ESCAPE.sub(lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        result.append((where, after.split(" ")[0]))
    return result


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
