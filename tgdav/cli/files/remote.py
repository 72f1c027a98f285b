"""The drive through the control socket: the requests of commands, and how the process that has the vault open answers them."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import msgspec

from tgdav.cli.files.access import Entry, NewAttributes, VolumeFiles, Write
from tgdav.errors import TgdavError, UsageError, VaultInUse
from tgdav.fs.api import NOBODY
from tgdav.volume.control import Command, Progress, StreamCommand
from tgdav.volume.control_client import ControlClient
from tgdav.volume.control_messages import Stream

_BATCH_BYTES = 64 << 10

Connect = Callable[[], ControlClient | None]
"""Returns a new connection to the process that has the vault open; None if there is none."""


class _Request(msgspec.Struct, omit_defaults=True):
    """The arguments of each request; bytes travel as base64."""

    path: bytes = b"/"
    depth: int | None = None
    target: bytes = b""
    at: str | None = None
    version: int | None = None
    new: NewAttributes = NewAttributes(NOBODY)


_ENTRY = msgspec.json.Decoder(Entry)


class RemoteFiles:
    """``Files`` of the process that has the vault open. Several calls may run at once, each on a connection of its own.

    ``arguments`` are added to each request, ``at`` is the name of a snapshot.
    """

    def __init__(self, connect: Connect, arguments: Mapping[str, Any], at: str | None = None) -> None:
        self._connect, self._arguments, self._at = connect, arguments, at
        self._lock = threading.Lock()
        self._idle: list[ControlClient] = []
        self._busy: set[ControlClient] = set()

    def close(self) -> None:
        """Close the connections that no call uses."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def cancel(self) -> None:
        """Let the calls of other threads fail."""
        with self._lock:
            for client in self._busy:
                client.interrupt()

    def entry(self, path: bytes) -> Entry:
        """Return what a path names."""
        return _entry(self._call("file-entry", path=path))

    def walk(self, path: bytes, depth: int | None = None) -> Generator[Entry, None, None]:
        """Yield what ``path`` names, and what is below it."""
        arguments = self._encoded(path=path, depth=depth)
        with self._connection() as client, closing(client.receive("file-walk", arguments)) as blocks:
            rest = b""
            for block in blocks:
                *lines, rest = (rest + block).split(b"\n")
                yield from map(_ENTRY.decode, lines)

    def read(self, path: bytes, write: Write, version: int | None = None) -> Entry:
        """Pass the content of a file, or of one of its versions, to ``write``; return the file's entry as of that content."""
        with self._connection() as client:
            blocks = client.receive("file-read", self._encoded(path=path, version=version))
            while True:
                try:
                    block = next(blocks)
                except StopIteration as end:
                    return _entry(end.value)
                write(block)

    def write(self, path: bytes, new: NewAttributes, blocks: Iterable[bytes]) -> None:
        """Make ``blocks`` the content of a file."""
        with self._connection() as client:
            client.send("file-write", self._encoded(path=path, new=new), blocks)

    def make_directory(self, path: bytes, new: NewAttributes) -> None:
        """Create a directory, and those above it that are missing."""
        self._call("file-make-directory", path=path, new=new)

    def make_symlink(self, path: bytes, new: NewAttributes, target: bytes) -> None:
        """Make a path a symlink."""
        self._call("file-make-symlink", path=path, new=new, target=target)

    def set_attributes(self, path: bytes, new: NewAttributes) -> None:
        """Set mode and mtime."""
        self._call("file-set-attributes", path=path, new=new)

    def sync(self) -> Mapping[str, Any]:
        """Make all changes so far survive a power cut; return what is not in the store yet."""
        return self._call("file-sync")

    def _call(self, command: str, **arguments: Any) -> dict[str, Any]:
        with self._connection() as client:
            return client.call(command, self._encoded(**arguments), lambda _stage, _done, _total: None)

    def _encoded(self, **arguments: Any) -> dict[str, Any]:
        return {**msgspec.to_builtins(_Request(at=self._at, **arguments)), **self._arguments}

    @contextmanager
    def _connection(self) -> Iterator[ControlClient]:
        """Yield a connection for one call. It is kept for the next one unless the call fails."""
        client = self._take()
        try:
            yield client
        except BaseException:
            with self._lock:
                self._busy.discard(client)
            client.close()
            raise
        with self._lock:
            self._busy.discard(client)
            self._idle.append(client)

    def _take(self) -> ControlClient:
        with self._lock:
            while self._idle:
                client = self._idle.pop()
                if client.is_open:  # the owner closes those that are idle for long
                    self._busy.add(client)
                    return client
                client.close()
        new = self._connect()
        if new is None:
            raise VaultInUse("the running tgdav stopped", hint="try again")
        with self._lock:
            self._busy.add(new)
        return new


def _entry(found: Mapping[str, Any]) -> Entry:
    try:
        return msgspec.convert(found["entry"], Entry)
    except (KeyError, msgspec.ValidationError):
        raise TgdavError("the running tgdav gave an answer that makes no sense", hint="restart it") from None


# ---- the process that has the vault open ------------------------------------------------------------------------------


def file_commands(files: VolumeFiles) -> dict[str, Command]:
    """Return the commands of ``files`` for the control socket."""

    def command(run: Callable[[_Request], Mapping[str, Any] | None]) -> Command:
        def answer(arguments: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
            return run(_request(arguments)) or {}

        return answer

    return {
        "file-entry": command(lambda request: {"entry": files.as_of(request.at).entry(request.path)}),
        "file-make-directory": command(lambda request: files.make_directory(request.path, request.new)),
        "file-make-symlink": command(lambda request: files.make_symlink(request.path, request.new, request.target)),
        "file-set-attributes": command(lambda request: files.set_attributes(request.path, request.new)),
        "file-sync": command(lambda _request: files.sync()),
    }


def file_streams(files: VolumeFiles) -> dict[str, StreamCommand]:
    """Return the commands of ``files`` that send or receive a stream."""

    def walk(arguments: Mapping[str, Any], stream: Stream) -> Mapping[str, Any]:
        request = _request(arguments)
        lines = bytearray()
        for entry in files.as_of(request.at).walk(request.path, request.depth):
            lines += msgspec.json.encode(entry) + b"\n"
            if len(lines) >= _BATCH_BYTES:
                stream.send(bytes(lines))
                lines.clear()
        stream.send(bytes(lines))
        return {}

    def read(arguments: Mapping[str, Any], stream: Stream) -> Mapping[str, Any]:
        request = _request(arguments)
        return {"entry": files.as_of(request.at).read(request.path, stream.send, request.version)}

    def write(arguments: Mapping[str, Any], stream: Stream) -> Mapping[str, Any]:
        request = _request(arguments)
        files.write(request.path, request.new, stream.receive())
        return {}

    return {"file-walk": walk, "file-read": read, "file-write": write}


def _request(arguments: Mapping[str, Any]) -> _Request:
    try:
        return msgspec.convert(dict(arguments), _Request)
    except msgspec.ValidationError:
        raise UsageError("malformed control request for files") from None
