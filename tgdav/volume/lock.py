"""Locks between processes: one owns a vault's state, one uses a login at Telegram."""

import fcntl
import logging
import os
import stat
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
            raise VaultInUse(
                "another tgdav process has this vault open", hint="stop it, or use commands that talk to it"
            )
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let others own the state; calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class LoginLock:
    """Keeps two processes of this user from using one login, which Telegram would answer by ending it.

    A login is part of one state, so this matters where a state was copied. The file is named after a hash of the login,
    in a folder that the user's homes share. Raises LoginInUse.
    """

    def __init__(self, session: str, shared: Path | None = None) -> None:
        folder = shared or Path("/tmp", f"tgdav-{os.geteuid()}")  # noqa: S108 - a folder of our own, checked
        name = blake3(session.encode()).hexdigest(8) + ".login"
        self._descriptor: int | None = None
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise OSError(0, "it is somebody else's")
            self._descriptor = _locked(folder / name)
        except OSError as error:
            _log.warning("no lock for the Telegram login in %s: %s", folder, error.strerror)
            return
        if self._descriptor is None:
            raise LoginInUse(
                "another tgdav process uses this Telegram login",
                hint="a copied home needs a login of its own: stop one of the two, and run 'tgdav auth' there",
            )

    def release(self) -> None:
        """Let others use the login; calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock of a file, None when another process does. Raises OSError."""
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
