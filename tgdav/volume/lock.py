"""One process owns a vault's state."""

import fcntl
import os
from pathlib import Path

from tgdav.errors import VaultInUse


class StateLock:
    """Holds the lock file until ``release`` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise VaultInUse(
                "another tgdav process has this vault open", hint="stop it, or use commands that talk to it"
            ) from None

    def release(self) -> None:
        """Let others own the state."""
        os.close(self._descriptor)
