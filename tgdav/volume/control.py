"""The control socket: how other commands of this machine reach the process that owns the vault's state.

A Unix socket of mode 0600 that serves only processes of the same user. Socket paths are limited to about 107 bytes, so it
is bound beside the pointer file when that is short enough (and the file system supports sockets), else in a directory of its
own below one of the short directories; the pointer file contains its path. ``control_messages`` describes the protocol.
Arguments may contain secrets, so they are never logged.
"""

import logging
import os
import selectors
import socket
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import msgspec

from tgdav.clock import Clock
from tgdav.errors import TgdavError, UsageError
from tgdav.threads import Guard, Worker
from tgdav.volume.control_messages import Stream, receive_line, send_line

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, how much is done and how much there is (0: unknown)."""

Command = Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]
"""Gets a request's arguments and a progress callback, returns what JSON can encode. Raises TgdavError."""

StreamCommand = Callable[[Mapping[str, Any], Stream], Mapping[str, Any]]
"""As ``Command``, for a request that sends or receives blocks of bytes before its result."""

Describe = Callable[[Exception], Mapping[str, Any]]
"""Returns an error as the object that is sent: kind, message, hint, exit, and errno if it has one."""

MAX_REQUEST_BYTES = 64 << 10
MAX_CONNECTIONS = 32

_BACKLOG = 128
_TIMEOUT = 30.0
_STOP_TIMEOUT = 5.0
_LAST_REPLY_TIMEOUT = 0.5
_PROGRESS_INTERVAL = 0.1
_DIRECTORY_PREFIX = "tgdav-"
_MAX_POINTER_BYTES = 4096


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    arguments: dict[str, Any] = {}


class ControlServer:
    """Listens from ``start`` to ``stop`` and runs each request in a thread of its connection.

    ``pointer`` is the file that gets the socket's path. The caller must hold the vault's lock: then what an older pointer
    names was left by a crash and is removed. ``short_directories`` are tried in order if the socket cannot be bound in the
    pointer's own directory.
    """

    def __init__(
        self,
        pointer: Path,
        short_directories: Sequence[Path],
        commands: Mapping[str, Command],
        describe: Describe,
        clock: Clock,
        streams: Mapping[str, StreamCommand] = MappingProxyType({}),
    ) -> None:
        self._pointer, self._short_directories = pointer, short_directories
        self._commands, self._streams = commands, streams
        self._describe, self._clock = describe, clock
        self._path: Path | None = None
        self._wake: socket.socket | None = None
        self._acceptor: Worker | None = None
        self._lock = threading.Lock()
        self._accepting, self._conversing = Guard("control"), Guard("control-request")
        self._peers: dict[socket.socket, Worker] = {}

    def start(self) -> Path:
        """Listen and return the socket's path. Raises TgdavError if it cannot be bound in any directory."""
        _remove_stale(self._pointer)
        listener, self._path = _bind([self._pointer.parent / "control.sock"], self._short_directories)
        _write_pointer(self._pointer, self._path)
        self._wake, woken = socket.socketpair()
        self._acceptor = Worker("control", lambda: self._accept(listener, woken), restart=False)
        self._acceptor.start()
        return self._path

    def stop(self) -> None:
        """Accept no more requests, shut the connections down and wait a little for running commands."""
        if self._wake is None or self._acceptor is None:
            return
        self._pointer.unlink(missing_ok=True)
        self._wake.close()
        self._wake = None
        self._acceptor.join()
        with self._lock:
            peers = list(self._peers.items())
        self._cut(
            peers, socket.SHUT_RD, _LAST_REPLY_TIMEOUT
        )  # a command that is nearly done can still send its response
        self._cut(peers, socket.SHUT_RDWR, _STOP_TIMEOUT)
        if self._path is not None:
            _remove(self._path)
        for guard in (self._accepting, self._conversing):
            guard.clear()

    def _cut(self, peers: list[tuple[socket.socket, Worker]], how: int, timeout: float) -> None:
        for peer, _ in peers:
            with suppress(OSError):
                peer.shutdown(how)
        deadline = self._clock.monotonic() + timeout
        for _, thread in peers:
            thread.join(max(0.0, deadline - self._clock.monotonic()))

    def _accept(self, listener: socket.socket, woken: socket.socket) -> None:
        with listener, woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while not any(key.fileobj is woken for key, _ in selector.select()):
                try:
                    peer, _ = listener.accept()
                except OSError as error:  # the peer disconnected, or descriptors ran out
                    log.debug("the control socket could not accept: %s", error)
                    continue
                if not self._accepting.run(lambda peer=peer: self._admit(peer)):  # type: ignore[misc]
                    peer.close()

    def _admit(self, peer: socket.socket) -> None:
        peer.settimeout(_TIMEOUT)
        if peer_user(peer) != os.geteuid():
            log.warning("another user tried the control socket")
            peer.close()
            return
        thread = Worker("control-request", lambda: self._converse(peer), restart=False, guard=self._conversing)
        with self._lock:
            full = len(self._peers) >= MAX_CONNECTIONS
            if not full:
                self._peers[peer] = thread
        if full:
            peer.close()
        else:
            thread.start()

    def _converse(self, peer: socket.socket) -> None:
        try:
            with peer, peer.makefile("rb") as lines:
                while (reply := self._answer(peer, lines)) is not None:
                    send_line(peer, reply)
                    if "error" in reply:
                        return  # after a malformed request the stream may be out of step
        except OSError as error:
            log.debug("a control connection ended: %s", error)
        finally:
            with self._lock:
                self._peers.pop(peer, None)

    def _answer(self, peer: socket.socket, lines: BinaryIO) -> Mapping[str, Any] | None:
        """Run the next request and return its response; None at the end of the stream. Raises ConnectionError."""
        line = receive_line(lines, MAX_REQUEST_BYTES)
        if line is None:
            return None
        try:
            request = _parse(line)
            if (streaming := self._streams.get(request.command)) is not None:
                with _patiently(peer):
                    return {"result": streaming(request.arguments, Stream(peer, lines))}
            command = self._commands.get(request.command)
            if command is None:
                raise UsageError("the running tgdav does not know this command", hint="restart it in this version")
            return {"result": command(request.arguments, _Reporter(peer, self._clock))}
        except ConnectionError:
            raise
        except Exception as error:  # sent to the peer; the server continues
            return {"error": self._describe(error)}


@contextmanager
def _patiently(peer: socket.socket) -> Iterator[None]:
    """Wait for blocks without limit: the other end of a stream may be a pager, or a program that computes for an hour.

    A peer that ends closes the socket, and ``ControlServer.stop`` shuts it down.
    """
    peer.settimeout(None)
    try:
        yield
    finally:
        with suppress(OSError):
            peer.settimeout(_TIMEOUT)


class _Reporter:
    """Sends progress to the peer, at most ten times a second. Raises ConnectionError if the peer is gone, to end the command."""

    def __init__(self, peer: socket.socket, clock: Clock) -> None:
        self._peer, self._clock = peer, clock
        self._next = clock.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_INTERVAL
            send_line(self._peer, {"progress": {"stage": stage, "done": done, "total": total}})


def _parse(line: bytes) -> _Request:
    try:
        return msgspec.json.decode(line, type=_Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UsageError("malformed control request") from None


def peer_user(peer: socket.socket) -> int:
    """Return the user id of the process at the other end."""
    if sys.platform == "linux":
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", credentials)
    else:  # struct xucred of macOS and the BSDs begins with its version and the user id; 0 is SOL_LOCAL
        credentials = peer.getsockopt(0, socket.LOCAL_PEERCRED, struct.calcsize("IIh16I"))
        _, user = struct.unpack_from("II", credentials)
    return int(user)


def read_pointer(pointer: Path) -> Path | None:
    """Return the socket's path; None if there is no pointer file, or it cannot be read."""
    try:
        with open(pointer, "rb") as file:
            data = file.read(_MAX_POINTER_BYTES)
    except OSError:
        return None
    path = data.removesuffix(b"\n")
    return Path(os.fsdecode(path)) if path.startswith(b"/") and b"\0" not in path else None


def _write_pointer(pointer: Path, path: Path) -> None:
    """Replace the pointer file atomically, so that no reader sees half a path. It need not survive a power cut."""
    temporary = pointer.with_name(pointer.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(os.fsencode(path) + b"\n")
    os.replace(temporary, pointer)


def _bind(wanted: Sequence[Path], short_directories: Sequence[Path]) -> tuple[socket.socket, Path]:
    reason = ""
    for path in _candidates(wanted, short_directories):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fsencode(path))
            path.chmod(0o600)
            listener.listen(_BACKLOG)
        except OSError as error:  # the path is too long, or the file system has no sockets
            reason = error.strerror or str(error)
            listener.close()
            _remove(path)
        else:
            return listener, path
    raise TgdavError(
        f"the control socket cannot be created ({reason})", hint="set TMPDIR to a directory with a short path"
    )


def _candidates(wanted: Sequence[Path], short_directories: Sequence[Path]) -> Iterator[Path]:
    yield from wanted
    for directory in short_directories:
        with suppress(OSError):
            yield Path(tempfile.mkdtemp(prefix=_DIRECTORY_PREFIX, dir=directory)) / "s"


def _remove_stale(pointer: Path) -> None:
    for path in (read_pointer(pointer), pointer.parent / "control.sock"):
        if path is not None and _is_own_socket(path):
            _remove(path)
    pointer.unlink(missing_ok=True)


def _is_own_socket(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def _remove(path: Path) -> None:
    """Remove a socket, and its directory if it was created for it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent.name.startswith(_DIRECTORY_PREFIX):
            path.parent.rmdir()
