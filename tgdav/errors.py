"""The exceptions of tgdav, classified by what the caller can do about them.

::

    TgdavError                       base class: a message of one line, and a hint
    ├── UsageError                   correct the request (exit code 2)
    │   ├── ConfigError              correct the configuration: file, key, found, allowed
    │   └── NewerFormat              update tgdav
    ├── AccessError                  give the right passphrase, key or login (exit code 3)
    │   └── NotLoggedIn              run 'tgdav auth'
    ├── DamageError                  data failed authentication: check, repair, restore (exit code 4)
    ├── StoreError
    │   ├── StoreUnavailable         wait and retry (exit code 5)
    │   ├── BlobMissing              the store answers, but lacks the blob: damage
    │   └── StoreRejected            the store refuses permanently: a bug here, or a problem of the account
    ├── VaultInUse                   stop the other process that has the vault open (exit code 6)
    │   └── LoginInUse               stop the process with a copy of this state: waiting does not help
    ├── WriterReplaced               another machine is the writer now: read-only here
    ├── WouldBlock                   call again from a thread that may wait
    └── FileSystemError              a POSIX error with its errno; the classes below

Each front end translates this tree exactly once: HTTP status in ``tgdav.webdav.errors``, errno in
``tgdav_fuse.operations``, exit code in ``tgdav.cli.errors``. Messages never contain secrets or plaintext, and
file names only if the caller passed them in the same call.
"""

import errno
from typing import Any, ClassVar


class TgdavError(Exception):
    """Base class of all errors that tgdav raises on purpose."""

    kind: ClassVar[str] = "failure"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(TgdavError):
    """The request is not valid."""

    kind = "usage"


class ConfigError(UsageError):
    """The configuration is not valid.

    ``problems`` contains a mapping for each problem, with the keys ``file``, ``key``, ``found`` and ``allowed``.
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
    """``what`` was made by a later program: ``part`` (its format, an operation in it) has the number ``version``.

    Nothing was changed.
    """

    def __init__(self, what: str, version: int, part: str = "format") -> None:
        super().__init__(
            f"{what} was made by a newer tgdav ({part} {version})", hint="update tgdav here; nothing was changed"
        )


class AccessError(TgdavError):
    """A passphrase, recovery key or login is missing or wrong."""

    kind = "access"


class DamageError(TgdavError):
    """Data failed a check. ``blob`` names what is damaged: a blob's name in hex, or the role of a local file."""

    kind = "damage"

    def __init__(self, message: str, *, blob: str = "", hint: str = "run 'tgdav check --read-data'") -> None:
        super().__init__(message, hint=hint)
        self.blob = blob


class StoreError(TgdavError):
    """The blob store failed."""

    kind = "store"


class StoreUnavailable(StoreError):
    """The store cannot be reached now; a later call may succeed. ``retry_after`` is in seconds."""

    kind = "store-unavailable"

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class BlobMissing(StoreError):
    """The store answered that it does not have this blob."""

    kind = "blob-missing"


class StoreRejected(StoreError):
    """The store refused, and would refuse again."""

    kind = "store-rejected"


class VaultInUse(TgdavError):
    """Another process has the vault's state open, or a mount is busy."""

    kind = "in-use"


class LoginInUse(VaultInUse):
    """A process with a copy of this state uses the same login. It does not end by itself, so waiting does not help."""


class NotLoggedIn(AccessError):
    """There is no login at Telegram yet."""

    def __init__(self) -> None:
        super().__init__("there is no login at Telegram", hint="run 'tgdav auth'")


class WriterReplaced(TgdavError):
    """Another machine became the writer; this one is read-only and keeps its unsent operations."""

    kind = "writer-replaced"


class WouldBlock(TgdavError):
    """The call would have to wait, and the calling thread is nonblocking. Nothing was done."""


class FileSystemError(TgdavError):
    """A POSIX error. ``errno`` is the class's number, the class's docstring the default message."""

    kind = "file-system"
    errno: ClassVar[int] = errno.EIO

    def __init__(self, message: str = "", **extra: Any) -> None:
        super().__init__(message or self.__class__.__doc__ or "", **extra)


class NotFound(FileSystemError):
    """No such file or directory"""

    errno = errno.ENOENT


class Exists(FileSystemError):
    """The name already exists"""

    errno = errno.EEXIST


class NotADirectory(FileSystemError):
    """Not a directory"""

    errno = errno.ENOTDIR


class IsADirectory(FileSystemError):
    """Is a directory"""

    errno = errno.EISDIR


class NotEmpty(FileSystemError):
    """The directory is not empty"""

    errno = errno.ENOTEMPTY


class NameTooLong(FileSystemError):
    """The name is longer than 255 bytes"""

    errno = errno.ENAMETOOLONG


class InvalidArgument(FileSystemError):
    """Invalid argument"""

    errno = errno.EINVAL


class NotPermitted(FileSystemError):
    """Not permitted"""

    errno = errno.EPERM


class AccessDenied(FileSystemError):
    """Access denied"""

    errno = errno.EACCES


class ReadOnly(FileSystemError):
    """The file system is read-only"""

    kind = "read-only"
    errno = errno.EROFS


class NoSpace(FileSystemError):
    """No space left for data that is not yet uploaded"""

    errno = errno.ENOSPC


class FileTooLarge(FileSystemError):
    """The file would be too large"""

    errno = errno.EFBIG


class NoAttribute(FileSystemError):
    """No such extended attribute"""

    errno = errno.ENODATA


class NotSupported(FileSystemError):
    """Not supported by this file system"""

    errno = errno.ENOTSUP


class TooManyLinks(FileSystemError):
    """Too many hard links"""

    errno = errno.EMLINK


class BadHandle(FileSystemError):
    """The handle is closed, or not open for this operation"""

    errno = errno.EBADF


class LocalFailure(FileSystemError):
    """A local disk operation failed; further writes to that file are refused"""

    errno = errno.EIO
