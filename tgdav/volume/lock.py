"""One process owns a vault's state."""

import fcntl
import os
from pathlib import Path

from tgdav.errors import LocalFailure, VaultInUse


class StateLock:
    """Holds the lock file until ``release`` or the end of the process. Raises VaultInUse, LocalFailure."""

    def __init__(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalFailure(f"the lock file {path} could not be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise LocalFailure(f"the lock file {path} could not be locked: {error.strerror}") from error
            raise VaultInUse(
                "another tgdav process has this vault open", hint="stop it, or use commands that talk to it"
            ) from None
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let others own the state; calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
