"""The Python API: the drive of this machine, opened in the calling process (docs/python.md)."""

import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tgdav.cli.invocation import Invocation
from tgdav.cli.secrets import HINT, find_passphrase
from tgdav.cli.session import open_volume, require_vault
from tgdav.crypto.passphrase import Passphrase
from tgdav.errors import AccessError, InvalidArgument
from tgdav.fs.api import FileSystem
from tgdav.metadata.types import Attributes
from tgdav.platform import Platform
from tgdav.volume.report import status
from tgdav.volume.volume import Volume

_log = logging.getLogger(__name__)


def open(  # noqa: A001 - called as tgdav.open, like gzip.open
    home: str | os.PathLike[str] | None = None,
    *,
    passphrase: str | None = None,
    namespace: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> "Drive":
    """Open the drive of the vault in ``home``, and start its uploads in the background.

    ``home`` is TGDAV_HOME; without it, that of ``environment``, else the platform's user directories, as for the commands.
    ``passphrase`` is read as by the commands when it is not given (``environment``, key file), but never asked for.
    ``environment`` defaults to the process's own. The vault must exist (``tgdav init``), and no other process may have it
    open.

    Raises UsageError (no vault, unknown namespace), ConfigError, AccessError (no passphrase, or a wrong one), VaultInUse,
    DamageError, LocalFailure.
    """
    variables = dict(os.environ if environment is None else environment)
    if home is not None:
        variables["TGDAV_HOME"] = os.fspath(home)
    invocation = Invocation(variables, Platform.system(), namespace=namespace)
    require_vault(invocation)
    secret = find_passphrase(invocation) if passphrase is None else Passphrase(passphrase)
    if secret is None:
        raise AccessError("no passphrase was given", hint=f"pass one to tgdav.open; or {HINT}")
    volume = open_volume(invocation, secret)
    for line in invocation.output.take_warnings():
        _log.warning("%s", line)
    volume.start()
    return Drive(volume)


class Drive:
    """An open drive. Thread-safe. A context manager, whose end closes it.

    It holds the lock of the vault's state, as ``tgdav serve`` does, until it is closed or the process ends.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    @property
    def fs(self) -> FileSystem:
        """The file system of the namespace. Its calls work on inodes and names in bytes; see ``tgdav.fs.api``."""
        return self._volume.fs

    @property
    def namespace(self) -> str:
        """The name of the open namespace."""
        return self._volume.namespace_name

    @property
    def read_only(self) -> str | None:
        """Why this machine may not write (another one became the writer), None if it may."""
        return self._volume.read_only_reason

    def resolve(self, path: str) -> Attributes:
        """Return the attributes of the node at ``path``, such as ``/photos/2026``. Symlinks are not followed.

        Raises NotFound, NotADirectory, NameTooLong, InvalidArgument (the path does not begin with a slash).
        """
        if not path.startswith("/"):
            raise InvalidArgument("a path in the drive begins with a slash")
        return self.fs.resolve([os.fsencode(name) for name in path.split("/") if name])

    def status(self) -> dict[str, Any]:
        """Return the object that ``tgdav --json status`` prints."""
        return status(self._volume)

    def sync(self, *, wait: bool = False) -> dict[str, Any]:
        """Upload now what is not in the store yet; with ``wait``, return when nothing is pending any more.

        Returns the object that ``tgdav --json sync`` prints. Raises StoreUnavailable, WriterReplaced, DamageError.
        """
        return self._volume.sync(wait=wait)

    def close(self) -> None:
        """Commit all writes, make them durable, stop background work and release the vault. Idempotent.

        What is not uploaded yet stays in staging; the next process that opens the vault uploads it. When the store does
        not answer, this takes up to about 5 seconds.
        """
        self._volume.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
