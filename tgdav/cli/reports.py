"""An error in the words and keys that users and scripts get."""

import logging
import os
from typing import Any

from tgdav.cli.exit_codes import exit_code
from tgdav.errors import ConfigError, TgdavError
from tgdav.wording import printable

log = logging.getLogger(__name__)

UNEXPECTED_HINT = "run the command again with -v, and report it"


def one_line(error: Exception) -> str:
    """Return what happened, why and what to do, in one line without control characters."""
    message, hint = message_of(error), hint_of(error)
    return f"{message}; {hint}" if hint else message


def message_of(error: Exception) -> str:
    """Return what happened and why."""
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
    """Return what to do, empty when the message says it."""
    if isinstance(error, ConfigError):
        return ""
    if isinstance(error, TgdavError):
        return printable(error.hint)
    return "" if isinstance(error, OSError) else UNEXPECTED_HINT


def kind_of(error: Exception) -> str:
    """Return the word by which scripts know the error."""
    return error.kind if isinstance(error, TgdavError) else "failure"


def as_json(error: Exception) -> dict[str, Any]:
    """Return the object that ``--json`` prints."""
    return {"error": {"kind": kind_of(error), "message": one_line(error)}}


def for_control(error: Exception) -> dict[str, Any]:
    """Return the object that travels over the control socket; says in the log what nobody expected."""
    if not isinstance(error, TgdavError | OSError):
        log.error("a command failed: %s", type(error).__name__, exc_info=log.isEnabledFor(logging.INFO))
    return {
        "kind": kind_of(error),
        "message": message_of(error),
        "hint": hint_of(error),
        "exit": int(exit_code(error)),
    }
