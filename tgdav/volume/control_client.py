"""The client of the control socket."""

import os
import socket
from collections.abc import Generator, Iterable, Mapping
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
from tgdav.volume.control import Progress, peer_user, read_pointer
from tgdav.volume.control_messages import (
    MAX_BLOCK_BYTES,
    MAX_REPLY_BYTES,
    receive_block,
    receive_line,
    send_blocks,
    send_line,
)

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
_BY_ERRNO = {error.errno: error for error in FileSystemError.__subclasses__()}


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
        self.close()

    def close(self) -> None:
        """End the connection; a stream that is not complete is discarded by the owner."""
        with suppress(OSError):
            self._lines.close()
        self._connection.close()

    def interrupt(self) -> None:
        """Let the command that another thread runs on this connection fail."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    @property
    def is_open(self) -> bool:
        """Whether the owner still has this connection, on which no command runs, open."""
        try:
            self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # the end, or a reply that nobody asked for

    def call(self, command: str, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Run ``command`` in the owning process and return its result.

        Raises the TgdavError that the owner raised (by its kind), VaultInUse if the owner stopped before it responded.
        """
        self._request(command, arguments)
        return _result_of(self._replies(progress))

    def receive(self, command: str, arguments: Mapping[str, Any]) -> Generator[bytes, None, dict[str, Any]]:
        """Run ``command``, yield the blocks that it sends, and return its result. Raises as ``call``.

        What was yielded is complete only once there is a result. After any error the connection is to be closed.
        """
        self._request(command, arguments)
        return (yield from self._replies(_ignore))

    def send(self, command: str, arguments: Mapping[str, Any], blocks: Iterable[bytes]) -> dict[str, Any]:
        """Run ``command``, send it ``blocks``, and return its result. Raises as ``call``, and what ``blocks`` raises.

        After any error the connection is to be closed; the owner then discards what it received.
        """
        self._request(command, arguments)
        try:
            for block in blocks:
                send_blocks(self._connection, block)
            send_line(self._connection, {"end": {}})
        except ConnectionError:
            pass  # the owner refused the rest, and its reply says why; or it stopped
        return _result_of(self._replies(_ignore))

    def _request(self, command: str, arguments: Mapping[str, Any]) -> None:
        try:
            send_line(self._connection, {"command": command, "arguments": arguments})
        except UnicodeEncodeError:
            raise UsageError("an argument is not UTF-8 text", hint="give one that is") from None
        except ConnectionError:
            raise _stopped() from None

    def _replies(self, progress: Progress) -> Generator[bytes, None, dict[str, Any]]:
        """Yield the blocks of a stream and return the result."""
        while (line := self._receive_line()) is not None:
            reply = _decode(line)
            if "result" in reply:
                return _object(reply["result"])
            if "error" in reply:
                raise _error(_object(reply["error"]))
            if "block" in reply:
                yield self._receive_block(reply["block"])
            else:
                _pass_on(_object(reply.get("progress", {})), progress)
        raise _stopped()

    def _receive_line(self) -> bytes | None:
        try:
            return receive_line(self._lines, MAX_REPLY_BYTES)
        except OSError:
            return None

    def _receive_block(self, length: object) -> bytes:
        if not isinstance(length, int) or not 0 < length <= MAX_BLOCK_BYTES:
            raise _nonsense()
        try:
            return receive_block(self._lines, length)
        except OSError:
            raise _stopped() from None


def _result_of(replies: Generator[bytes, None, dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a command that sends no blocks."""
    try:
        next(replies)
    except StopIteration as end:
        result: dict[str, Any] = end.value
        return result
    raise _nonsense()


def _stopped() -> VaultInUse:
    return VaultInUse("the running tgdav stopped before it responded", hint="try again")


def _nonsense() -> TgdavError:
    return TgdavError("the running tgdav gave an answer that makes no sense", hint="restart it")


def _ignore(_stage: str, _done: int, _total: int) -> None:
    """Report no progress."""


def _decode(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _nonsense() from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _nonsense()
    return value


def _error(found: Mapping[str, Any]) -> TgdavError:
    named = str(found.get("kind"))
    kind = UsageError if named == ConfigError.kind else _ERRORS.get(named, TgdavError)
    if kind is FileSystemError:
        kind = _BY_ERRNO.get(found.get("errno", 0), FileSystemError)
    return kind(str(found.get("message", "")), hint=str(found.get("hint", "")))


def _pass_on(found: Mapping[str, Any], progress: Progress) -> None:
    stage, done, total = found.get("stage"), found.get("done"), found.get("total")
    if isinstance(stage, str) and isinstance(done, int) and isinstance(total, int):
        progress(stage, done, total)
