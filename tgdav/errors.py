"""One small tree of errors, by what the caller can do about them.

::

    TgdavError                       anything tgdav says no with; one line, with a hint
    ├── UsageError                   ask differently (exit 2)
    │   ├── ConfigError              correct the configuration: file, key, found, allowed
    │   └── NewerFormat              use a newer tgdav
    ├── AccessError                  give the right secret (exit 3)
    ├── DamageError                  bytes are not what was sealed: check, repair, restore (exit 4)
    ├── StoreError
    │   ├── StoreUnavailable         wait, it is tried again (exit 5)
    │   ├── BlobMissing              the store is there, the blob is not: damage
    │   └── StoreRejected            the store refuses for good: an error of ours or of the account
    ├── VaultInUse                   another process owns the vault (exit 6)
    │   └── LoginInUse               and does not merely open or close it: a copied state
    ├── WriterReplaced               another machine writes this namespace now: read only
    └── FileSystemError              a POSIX refusal, with its errno; the classes below

Each front end translates this tree exactly once: HTTP status in ``tgdav.webdav.errors``, errno in
``tgdav_fuse.operations``, exit code in ``tgdav.cli.exit_codes``. Messages never hold secrets, file names or plaintext
unless the caller gave the name in the same call.
"""

import errno
from typing import Any, ClassVar


class TgdavError(Exception):
    """Base of all errors that tgdav raises on purpose."""

    kind: ClassVar[str] = "failure"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(TgdavError):
    """The request itself is wrong."""

    kind = "usage"


class ConfigError(UsageError):
    """A configuration value is refused.

    ``problems`` holds one mapping a finding, with the keys ``file``, ``key``, ``found`` and ``allowed``.
    """

    kind = "configuration"

    def __init__(self, problems: list[dict[str, str]]) -> None:
        self.problems = problems
        super().__init__("\n".join(_describe(problem) for problem in problems))


def _describe(problem: dict[str, str]) -> str:
    if not problem["allowed"]:
        return f"{problem['file']}: {problem['found']}"
    return f"{problem['file']}: {problem['key']}: found {problem['found']}, allowed: {problem['allowed']}"


class NewerFormat(UsageError):
    """``what`` is of a format ``version`` that only later programs know. Nothing is changed then."""

    def __init__(self, what: str, version: int) -> None:
        super().__init__(
            f"{what} was made by a newer tgdav (format {version})", hint="update tgdav here; nothing was changed"
        )


class AccessError(TgdavError):
    """A passphrase, recovery key or login is missing or wrong."""

    kind = "access"


class DamageError(TgdavError):
    """Bytes failed a check. ``blob`` names the damaged thing (hex name, or the local file's role)."""

    kind = "damage"

    def __init__(self, message: str, *, blob: str = "", hint: str = "run 'tgdav check --read-data'") -> None:
        super().__init__(message, hint=hint)
        self.blob = blob


class StoreError(TgdavError):
    """The blob store did not do what was asked."""

    kind = "store"


class StoreUnavailable(StoreError):
    """The store cannot be reached now; the same call may succeed later. ``retry_after`` is in seconds."""

    kind = "store-unavailable"

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class BlobMissing(StoreError):
    """The store answers, and does not have this blob."""

    kind = "blob-missing"


class StoreRejected(StoreError):
    """The store refuses for a reason that repeating does not change."""

    kind = "store-rejected"


class VaultInUse(TgdavError):
    """Another process owns the vault's state directory, or a mount is busy."""

    kind = "in-use"


class LoginInUse(VaultInUse):
    """A process with another state, a copy of this one, uses the same login; waiting for it changes nothing."""


class NotLoggedIn(AccessError):
    """There is no login at Telegram yet."""

    def __init__(self) -> None:
        super().__init__("there is no login at Telegram", hint="run 'tgdav auth'")


class WriterReplaced(TgdavError):
    """Another machine became the writer; this one serves read-only and keeps its unsent operations."""

    kind = "writer-replaced"


class WouldWait(TgdavError):
    """It could be done only by waiting, and the caller cannot wait. Nothing was done."""


class FileSystemError(TgdavError):
    """A refusal in POSIX terms. ``errno`` is the class's number."""

    kind = "file-system"
    errno: ClassVar[int] = errno.EIO

    def __init__(self, message: str = "", **extra: Any) -> None:
        super().__init__(message or self.__class__.__doc__ or "", **extra)


class NotFound(FileSystemError):
    """No such file or folder"""

    errno = errno.ENOENT


class Exists(FileSystemError):
    """The name is taken"""

    errno = errno.EEXIST


class NotADirectory(FileSystemError):
    """Not a folder"""

    errno = errno.ENOTDIR


class IsADirectory(FileSystemError):
    """Is a folder"""

    errno = errno.EISDIR


class NotEmpty(FileSystemError):
    """The folder is not empty"""

    errno = errno.ENOTEMPTY


class NameTooLong(FileSystemError):
    """The name is longer than 255 bytes"""

    errno = errno.ENAMETOOLONG


class InvalidArgument(FileSystemError):
    """The argument makes no sense here"""

    errno = errno.EINVAL


class NotPermitted(FileSystemError):
    """Not permitted"""

    errno = errno.EPERM


class AccessDenied(FileSystemError):
    """Access denied"""

    errno = errno.EACCES


class ReadOnly(FileSystemError):
    """The file system is read-only"""

    errno = errno.EROFS


class NoSpace(FileSystemError):
    """No space is left for data that waits to be stored"""

    errno = errno.ENOSPC


class FileTooLarge(FileSystemError):
    """The file would be too large"""

    errno = errno.EFBIG


class NoAttribute(FileSystemError):
    """No such extended attribute"""

    errno = errno.ENODATA


class NotSupported(FileSystemError):
    """Not possible on this file system"""

    errno = errno.ENOTSUP


class TooManyLinks(FileSystemError):
    """Too many hard links"""

    errno = errno.EMLINK


class BadHandle(FileSystemError):
    """The handle is closed or not open for this"""

    errno = errno.EBADF


class LocalFailure(FileSystemError):
    """A local disk operation failed; nothing more is acknowledged from that file"""

    errno = errno.EIO
