"""The client of the control socket."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tgdav.errors import (
    AccessError,
    BlobMissing,
    ConfigError,
    DamageError,
    FileSystemError,
    ReadOnly,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    TgdavError,
    UsageError,
    VaultInUse,
    WriterReplaced,
)
from tgdav.volume.control import MAX_REPLY_BYTES, Progress, peer_user, read_pointer, receive_line, send_line

_CONNECT_TIMEOUT = 5.0

_KINDS: tuple[type[TgdavError], ...] = (
    UsageError,
    AccessError,
    DamageError,
    StoreError,
    StoreUnavailable,
    BlobMissing,
    StoreRejected,
    VaultInUse,
    WriterReplaced,
    FileSystemError,
    ReadOnly,
)
_ERRORS = {error.kind: error for error in _KINDS}


class ControlClient:
    """A connection to the process that owns the vault; a context manager."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    @classmethod
    def connect(cls, pointer: Path) -> "ControlClient | None":
        """Return a connection to the process that ``pointer`` names; None if there is none or it does not accept.

        Nothing is sent to a socket of another user's process.
        """
        path = read_pointer(pointer)
        if path is None:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_CONNECT_TIMEOUT)
            connection.connect(os.fsencode(path))
            trusted = peer_user(connection) == os.geteuid()
        except OSError:
            trusted = False
        if not trusted:
            connection.close()
            return None
        connection.settimeout(None)
        return cls(connection)

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._lines.close()
        self._connection.close()

    def call(self, command: str, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Run ``command`` in the owning process and return its result.

        Raises the TgdavError that the owner raised (by its kind), VaultInUse if the owner stopped before it responded.
        """
        try:
            send_line(self._connection, {"command": command, "arguments": arguments})
            while (line := receive_line(self._lines, MAX_REPLY_BYTES)) is not None:
                reply = _decode(line)
                if "result" in reply:
                    return reply["result"]
                if "error" in reply:
                    raise _error(reply["error"])
                _pass_on(reply.get("progress", {}), progress)
        except OSError:
            pass
        raise VaultInUse("the running tgdav stopped before it responded", hint="try again")


def _decode(line: bytes) -> dict[str, dict[str, Any]]:
    try:
        return msgspec.json.decode(line, type=dict[str, dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise TgdavError("the running tgdav gave an answer that makes no sense", hint="restart it") from None


def _error(found: Mapping[str, Any]) -> TgdavError:
    named = str(found.get("kind"))
    kind = UsageError if named == ConfigError.kind else _ERRORS.get(named, TgdavError)
    return kind(str(found.get("message", "")), hint=str(found.get("hint", "")))


def _pass_on(found: Mapping[str, Any], progress: Progress) -> None:
    stage, done, total = found.get("stage"), found.get("done"), found.get("total")
    if isinstance(stage, str) and isinstance(done, int) and isinstance(total, int):
        progress(stage, done, total)
