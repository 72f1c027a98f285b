"""Errors as users and scripts see them: one line, a JSON object, an exit code. The one table of exit codes."""

import logging
import os
from enum import IntEnum
from typing import Any

from tgdav.errors import (
    AccessDenied,
    AccessError,
    BlobMissing,
    ConfigError,
    DamageError,
    Exists,
    FileSystemError,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    NotPermitted,
    ReadOnly,
    StoreError,
    TgdavError,
    UsageError,
    VaultInUse,
    WriterReplaced,
)
from tgdav.wording import printable

_log = logging.getLogger(__name__)

UNEXPECTED_HINT = "run the command again with -v, and report it"


class ExitCode(IntEnum):
    """The exit codes, which scripts rely on."""

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
    **dict.fromkeys((NotFound, Exists, NotADirectory, IsADirectory, NameTooLong, InvalidArgument), ExitCode.USAGE),
    **dict.fromkeys((ReadOnly, NotPermitted, AccessDenied), ExitCode.NOT_ALLOWED),
}


def exit_code(error: Exception) -> ExitCode:
    """Return the exit code of the most specific class of ``error`` in the table."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def one_line(error: Exception) -> str:
    """Return the message and the hint in one line without control characters."""
    message, hint = message_of(error), hint_of(error)
    return f"{message}; {hint}" if hint else message


def message_of(error: Exception) -> str:
    """Return what happened and why, without control characters."""
    if isinstance(error, ConfigError):
        lines = error.message.split("\n")
        more = f" (and {len(lines) - 1} more: run 'tgdav config check')" if len(lines) > 1 else ""
        return printable(lines[0]) + more
    if isinstance(error, TgdavError):
        return printable(error.message or kind_of(error))
    if isinstance(error, OSError):
        reason = error.strerror or "an input or output error"
        return printable(f"{reason}: {os.fsdecode(error.filename)}" if isinstance(error.filename, str) else reason)
    return f"unexpected failure ({type(error).__name__})"


def hint_of(error: Exception) -> str:
    """Return what to do; empty when the message says it."""
    if isinstance(error, ConfigError):
        return ""
    if isinstance(error, TgdavError):
        return printable(error.hint)
    return "" if isinstance(error, OSError) else UNEXPECTED_HINT


def kind_of(error: Exception) -> str:
    """Return the ``kind`` that identifies the error for scripts."""
    return error.kind if isinstance(error, TgdavError) else "failure"


def as_json(error: Exception) -> dict[str, Any]:
    """Return the object that ``--json`` prints."""
    return {"error": {"kind": kind_of(error), "message": one_line(error)}}


def for_control(error: Exception) -> dict[str, Any]:
    """Return the response for the control socket; log an unexpected error."""
    if not isinstance(error, TgdavError | OSError):
        _log.error("a command failed: %s", type(error).__name__, exc_info=_log.isEnabledFor(logging.INFO))
    number = {"errno": error.errno} if isinstance(error, FileSystemError) else {}
    return {
        "kind": kind_of(error),
        "message": message_of(error),
        "hint": hint_of(error),
        "exit": int(exit_code(error)),
        **number,
    }
