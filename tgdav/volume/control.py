"""The control socket: how other commands of this machine reach the process that owns the vault's state.

A Unix socket of mode 0600 that answers only processes of the same user. Socket paths end at about 107 bytes, so it is
bound beside the note when that is short enough (and the file system can hold a socket), else in a folder of its own
below one of the short folders; the note says where. One JSON object a line (UTF-8, ended by a newline)::

    request   {"command": NAME, "arguments": {…}}
    replies   {"progress": {"stage": TEXT, "done": N, "total": N}}     any number of them
              {"result": {…}}  or  {"error": {"kind", "message", "hint", "exit"}}

Several requests may follow each other on a connection. Arguments may hold secrets: nothing of them is ever logged.
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
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tgdav.clock import Clock
from tgdav.errors import TgdavError, UsageError
from tgdav.threads import Guard, Worker

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, how much is done and how much there is (0: unknown)."""

Command = Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]
"""Takes a request's arguments and a progress callback, returns what JSON can hold. Raises TgdavError."""

Describe = Callable[[Exception], Mapping[str, Any]]
"""Turns an error into the object that travels: kind, message, hint, exit."""

MAX_REQUEST_BYTES = 64 << 10
MAX_REPLY_BYTES = 64 << 20
MAX_CONNECTIONS = 32

_BACKLOG = 128
_TIMEOUT = 30.0
_STOP_TIMEOUT = 5.0
_LAST_REPLY_TIMEOUT = 0.5
_PROGRESS_INTERVAL = 0.1
_FOLDER_PREFIX = "tgdav-"
_MAX_NOTE_BYTES = 4096


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    arguments: dict[str, Any] = {}


class ControlServer:
    """Listens from ``start`` to ``stop`` and runs each request in a thread of its connection.

    ``note`` is written with the socket's path; who starts a server must hold the vault's lock, so that whatever an
    older note names is left from a crash and is removed. ``short_folders`` are tried in order when the note's own
    folder cannot hold the socket.
    """

    def __init__(
        self,
        note: Path,
        short_folders: Sequence[Path],
        commands: Mapping[str, Command],
        describe: Describe,
        clock: Clock,
    ) -> None:
        self._note, self._short_folders = note, short_folders
        self._commands, self._describe, self._clock = commands, describe, clock
        self._path: Path | None = None
        self._wake: socket.socket | None = None
        self._acceptor: Worker | None = None
        self._lock = threading.Lock()
        self._accepting, self._conversing = Guard("control"), Guard("control-request")
        self._peers: dict[socket.socket, Worker] = {}

    def start(self) -> Path:
        """Listen and return the socket's path. Raises TgdavError when no folder can hold it."""
        _remove_left_over(self._note)
        listener, self._path = _bind([self._note.parent / "control.sock"], self._short_folders)
        _write_note(self._note, self._path)
        self._wake, woken = socket.socketpair()
        self._acceptor = Worker("control", lambda: self._accept(listener, woken), restart=False)
        self._acceptor.start()
        return self._path

    def stop(self) -> None:
        """Take no more requests, cut the connections and wait a little for what still runs."""
        if self._wake is None or self._acceptor is None:
            return
        self._note.unlink(missing_ok=True)
        self._wake.close()
        self._wake = None
        self._acceptor.join()
        with self._lock:
            peers = list(self._peers.items())
        self._cut(peers, socket.SHUT_RD, _LAST_REPLY_TIMEOUT)  # what is nearly done may still answer
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
                except OSError as error:  # the peer is gone again, or descriptors ran out for the moment
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
                        return  # who sent nonsense may send more of it
        except OSError as error:
            log.debug("a control connection ended: %s", error)
        finally:
            with self._lock:
                self._peers.pop(peer, None)

    def _answer(self, peer: socket.socket, lines: BinaryIO) -> Mapping[str, Any] | None:
        """Run the next request and return its last reply; None when the peer has no more. Raises ConnectionError."""
        line = receive_line(lines, MAX_REQUEST_BYTES)
        if line is None:
            return None
        try:
            request = _parse(line)
            command = self._commands.get(request.command)
            if command is None:
                raise UsageError("the running tgdav does not know this command", hint="restart it in this version")
            return {"result": command(request.arguments, _Reporter(peer, self._clock))}
        except ConnectionError:
            raise
        except Exception as error:  # whatever it is, the peer hears of it and the server goes on
            return {"error": self._describe(error)}


class _Reporter:
    """Sends progress to the peer, at most ten times a second; a peer that is gone ends the work (ConnectionError)."""

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
        raise UsageError("the control socket got something that is no request") from None


def receive_line(lines: BinaryIO, limit: int) -> bytes | None:
    """Return the next line without its end; None at the end of the stream. Raises ConnectionError when it is cut off
    or longer than ``limit`` bytes, TimeoutError.
    """
    line = lines.readline(limit + 1)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise ConnectionAbortedError("a control message was too long or cut off")
    return line[:-1]


def send_line(peer: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message. Raises ConnectionError when the peer is gone or does not read."""
    try:
        peer.sendall(msgspec.json.encode(message) + b"\n")
    except OSError as error:
        raise ConnectionAbortedError("the peer of the control socket is gone") from error


def peer_user(peer: socket.socket) -> int:
    """Return the user id of the process at the other end."""
    if sys.platform == "linux":
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", credentials)
    else:  # struct xucred of macOS and the BSDs begins with its version and the user id; 0 is SOL_LOCAL
        credentials = peer.getsockopt(0, socket.LOCAL_PEERCRED, struct.calcsize("IIh16I"))
        _, user = struct.unpack_from("II", credentials)
    return int(user)


def read_note(note: Path) -> Path | None:
    """Return the socket's path; None when there is no note, or none that can be read."""
    try:
        with open(note, "rb") as file:
            data = file.read(_MAX_NOTE_BYTES)
    except OSError:
        return None
    path = data.removesuffix(b"\n")
    return Path(os.fsdecode(path)) if path.startswith(b"/") and b"\0" not in path else None


def _write_note(note: Path, path: Path) -> None:
    """Write the note whole, so that nobody reads half a path. It need not survive a power cut."""
    draft = note.with_name(note.name + ".tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(os.fsencode(path) + b"\n")
    os.replace(draft, note)


def _bind(wanted: Sequence[Path], short_folders: Sequence[Path]) -> tuple[socket.socket, Path]:
    reason = ""
    for path in _candidates(wanted, short_folders):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fsencode(path))
            path.chmod(0o600)
            listener.listen(_BACKLOG)
        except OSError as error:  # too long a path, or a file system without sockets
            reason = error.strerror or str(error)
            listener.close()
            _remove(path)
        else:
            return listener, path
    raise TgdavError(f"the control socket cannot be made ({reason})", hint="set TMPDIR to a folder with a short path")


def _candidates(wanted: Sequence[Path], short_folders: Sequence[Path]) -> Iterator[Path]:
    yield from wanted
    for folder in short_folders:
        with suppress(OSError):
            yield Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=folder)) / "s"


def _remove_left_over(note: Path) -> None:
    for path in (read_note(note), note.parent / "control.sock"):
        if path is not None and _is_own_socket(path):
            _remove(path)
    note.unlink(missing_ok=True)


def _is_own_socket(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def _remove(path: Path) -> None:
    """Remove a socket and the folder that was made for it alone."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent.name.startswith(_FOLDER_PREFIX):
            path.parent.rmdir()
