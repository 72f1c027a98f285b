"""Locks between processes: for the state of a vault, and for a Telegram login."""

import fcntl
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from tgdav.errors import LocalFailure, LoginInUse, VaultInUse

_log = logging.getLogger(__name__)


class StateLock:
    """Holds the lock file until ``release`` or the end of the process. Raises VaultInUse, LocalFailure."""

    def __init__(self, path: Path) -> None:
        try:
            descriptor = _locked(path)
        except OSError as error:
            raise LocalFailure(f"the lock file {path} could not be locked: {error.strerror}") from error
        if descriptor is None:
            holder = _holder(path)
            which = f" (process {holder})" if holder else ""
            raise VaultInUse(
                f"another tgdav process{which} has this vault open",
                hint=f"wait until it is ready, then commands are run by it; or stop it{f': kill {holder}' if holder else ''}",
            )
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Release the lock. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class LoginLock:
    """Keeps two processes of this user from using one login: Telegram would end a login that is used twice.

    A login is part of one state, so this matters where a state was copied. The file is named after a hash of the login,
    in a directory that the user's homes share: the first of ``shared`` that belongs to this user alone. Raises LoginInUse.
    """

    def __init__(self, session: str, shared: Sequence[Path] = ()) -> None:
        own = f"tgdav-{os.geteuid()}"
        paths = shared or (Path("/tmp", own), Path("/var/tmp", own))  # noqa: S108 - directories of our own, checked
        directory = next(filter(_is_ours, paths), None)
        name = blake3(session.encode()).hexdigest(8) + ".login"
        self._descriptor: int | None = None
        if directory is None:
            _log.warning("no lock for the Telegram login: the directories for it belong to another user")
            return
        try:
            self._descriptor = _locked(directory / name)
        except OSError as error:
            _log.warning("no lock for the Telegram login in %s: %s", directory, error.strerror)
            return
        if self._descriptor is None:
            raise LoginInUse(
                "another tgdav process uses this Telegram login",
                hint="a copied home needs a login of its own: stop one of the two, and run 'tgdav auth' there",
            )

    def release(self) -> None:
        """Release the lock. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _is_ours(directory: Path) -> bool:
    """Create a directory if it is missing; return whether it belongs to this user and is closed to others from now on.

    In a world-writable directory anyone can create a directory of this name first, or a symbolic link.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            return False
        if stat.S_IMODE(found.st_mode) != 0o700:
            if os.listdir(descriptor) and found.st_mode & 0o022:
                return False  # its files may belong to anyone
            os.fchmod(descriptor, 0o700)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    """Return the id of the process that holds the lock of a file (proc(5): /proc/locks), an empty string if unknown."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return ""
    for line in lines:
        fields = line.split()
        if fields[1:2] == ["FLOCK"] and fields[5].rpartition(":")[2] == str(inode) and int(fields[4]) > 0:
            return fields[4]
    return ""


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock of a file, None when another process does. Raises OSError."""
    # flock, not fcntl locks: those are released when any descriptor of the file is closed in the process.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
