"""The one table from errors to exit codes."""

from enum import IntEnum

from tgdav.errors import (
    AccessError,
    BlobMissing,
    DamageError,
    StoreError,
    TgdavError,
    UsageError,
    VaultInUse,
    WriterReplaced,
)


class ExitCode(IntEnum):
    """What a command's end says to scripts."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    ACCESS = 3
    DAMAGE = 4
    STORE = 5
    IN_USE = 6
    NOT_ALLOWED = 7
    INTERRUPTED = 130


TABLE: dict[type[Exception], ExitCode] = {
    Exception: ExitCode.FAILURE,
    TgdavError: ExitCode.FAILURE,
    UsageError: ExitCode.USAGE,
    AccessError: ExitCode.ACCESS,
    DamageError: ExitCode.DAMAGE,
    BlobMissing: ExitCode.DAMAGE,
    StoreError: ExitCode.STORE,
    VaultInUse: ExitCode.IN_USE,
    WriterReplaced: ExitCode.NOT_ALLOWED,
}


def exit_code(error: Exception) -> ExitCode:
    """Return the exit code of the nearest class of ``error`` that the table knows."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
