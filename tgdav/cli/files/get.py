"""From the drive to the local disk. A file appears under its name only when it is complete."""

import errno
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tgdav.cli.files.access import Entry, Files
from tgdav.cli.files.transfer import Transfer, naming
from tgdav.entropy import Entropy
from tgdav.metadata.types import DIRECTORY, SYMLINK, Kind
from tgdav.threads import Worker
from tgdav.wording import shown_path

PREFIX, SUFFIX = ".tgdav-", ".part"
"""The name of a file that is not complete begins and ends so."""
THREADS = 4
"""How many files are fetched at once."""

# As in ``process.await_signal``: a signal that the kernel gives to another thread does not wake up this one.
_SIGNAL_SECONDS = 0.1


class Getter:
    """Copies from ``files``. ``transfer`` records the errors of what is below a path."""

    def __init__(self, files: Files, transfer: Transfer, entropy: Entropy) -> None:
        self._files, self._transfer, self._entropy = files, transfer, entropy

    def get(self, remote: bytes, local: str, version: int | None = None) -> None:
        """Copy what ``remote`` names, or a version of that file, to the path ``local``, with all below it.

        Directories that exist are merged. Raises NotFound and other errors of ``remote`` itself.
        """
        directories: list[tuple[str, Entry]] = []
        left_out: bytes | None = None
        with closing(self._files.walk(remote)) as entries, _Tasks(self._files.cancel) as tasks:
            with naming(remote):
                top = next(entries)
            cut = len(top.path.rstrip(b"/"))
            for entry in chain((top,), entries):
                if left_out is not None and entry.path.startswith(left_out):
                    continue
                target = local + os.fsdecode(entry.path[cut:])
                is_special = target == local and _is_special(target)
                if entry.kind == Kind.FILE:
                    tasks.add(partial(self._fetch, entry, target, version, is_special=is_special))
                    continue
                is_copied = self._copy(entry, target)
                if entry.kind == DIRECTORY and is_copied:
                    directories.append((target, entry))
                elif entry.kind == DIRECTORY:
                    left_out = entry.path + b"/"
        # Last, because what is created in a directory changes its mtime, and its mode may forbid that.
        for target, entry in reversed(directories):
            with self._transfer.attempt(shown_path(entry.path)):
                self._set_attributes(target, entry)

    def _copy(self, entry: Entry, target: str) -> bool:
        """Copy a node that is not a file; return whether that was done."""
        shown = shown_path(entry.path)
        with self._transfer.attempt(shown) as attempt, naming(entry.path):
            match entry.kind:
                case Kind.DIRECTORY:
                    _make_directory(target)
                    self._transfer.directories += 1
                case Kind.SYMLINK:
                    self._make_symlink(target, entry)
                    self._transfer.symlinks += 1
                case _:
                    self._transfer.skip(shown, entry.kind.name.lower().replace("_", " "))
        return not attempt.failed

    def _fetch(
        self, entry: Entry, target: str, version: int | None, stopping: threading.Event, *, is_special: bool
    ) -> None:
        count = 0

        def write(block: bytes) -> None:
            nonlocal count
            if stopping.is_set():
                raise _Stopped
            file.write(block)
            count += len(block)
            self._transfer.moved(len(block))

        opened = _special_file(target) if is_special else _new_file(target, self._beside(target))
        with self._transfer.attempt(shown_path(entry.path)), naming(entry.path), opened as (file, name):
            found = self._files.read(entry.path, write, version)
            file.flush()
            if not is_special:
                self._set_attributes(name, found)
            self._transfer.copied(count)

    def _make_symlink(self, target: str, entry: Entry) -> None:
        _require_replaceable(target)
        name = self._beside(target)
        with _replacing(target, name):
            os.symlink(os.fsdecode(entry.target), name)
            self._set_attributes(name, entry)

    def _beside(self, target: str) -> str:
        """Return a temporary name in the directory of ``target``."""
        return os.path.join(os.path.dirname(target), f"{PREFIX}{self._entropy.bytes(8).hex()}{SUFFIX}")

    def _set_attributes(self, target: str, entry: Entry) -> None:
        if entry.kind != SYMLINK:
            try:
                Path(target).chmod(entry.mode)
            except PermissionError:  # FAT and some network shares
                self._transfer.warn(f"the modes of files cannot be kept in {os.path.dirname(target) or '.'}")
        os.utime(target, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


class _Stopped(Exception):
    """The run ends before this file was complete. It reaches nobody."""


class _Tasks:
    """Runs tasks in ``THREADS`` threads, because the store may be far away. A context manager.

    The first exception of a task, or of the block, ends all others, and is raised; ``cancel`` makes their calls fail. A task is
    called with an event, which is set then.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._stopping = threading.Event()
        self._waiting: queue.Queue[Callable[[threading.Event], None] | None] = queue.Queue(THREADS)
        self._error: BaseException | None = None
        self._unasked = THREADS
        self._ended = [threading.Event() for _ in range(THREADS)]

    def add(self, task: Callable[[threading.Event], None]) -> None:
        """Run ``task`` when a thread is free for it; wait while many others wait. Raises what an earlier task has raised."""
        while not self._has_put(task):
            pass
        if self._error is not None:
            raise self._error

    def _has_put(self, task: Callable[[threading.Event], None] | None) -> bool:
        """Queue a task, or a thread's end; return False if there was no place for a while."""
        try:
            self._waiting.put(task, timeout=_SIGNAL_SECONDS)
        except queue.Full:
            return False
        return True

    def _work(self, ended: threading.Event) -> None:
        try:
            while (task := self._waiting.get()) is not None:
                if not self._stopping.is_set():
                    self._run(task)
        finally:
            ended.set()

    def _run(self, task: Callable[[threading.Event], None]) -> None:
        try:
            task(self._stopping)
        except BaseException as error:  # raised by 'add', or at the end
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        if not self._stopping.is_set():
            self._error = error
            self._stopping.set()
            self._cancel()

    def _finish(self) -> None:
        """Wait until all threads have ended. May be called again after it was interrupted, unlike ``Thread.join``."""
        while self._unasked:
            self._unasked -= self._has_put(None)
        for ended in self._ended:
            while not ended.wait(_SIGNAL_SECONDS):
                pass

    def __enter__(self) -> "_Tasks":
        for ended in self._ended:
            Worker("tgdav-get", partial(self._work, ended), restart=False).start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self._stop(error)
        try:
            self._finish()
        except BaseException as interrupt:  # Ctrl-C while the last files are fetched
            self._stop(interrupt)
            self._finish()
            raise
        if self._error is not None and self._error is not error:  # what the block has raised is then a consequence
            raise self._error


@contextmanager
def _new_file(target: str, name: str) -> Iterator[tuple[BinaryIO, str]]:
    """Yield a new file, and its temporary ``name``; at the end it replaces ``target``. Raises FileExistsError."""
    _require_replaceable(target)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _replacing(target, name), open(os.open(name, flags, 0o600), "wb") as file:
        yield file, name


@contextmanager
def _replacing(target: str, name: str) -> Iterator[None]:
    """Rename ``name`` to ``target`` at the end of the block; remove it if the block ends with an exception."""
    try:
        yield
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _special_file(target: str) -> Iterator[tuple[BinaryIO, str]]:
    """Yield a device or pipe, opened, and its name."""
    with open(target, "wb") as file:
        yield file, target


def _make_directory(target: str) -> None:
    """Create a directory that only this user can enter until its mode is set. Raises FileExistsError for other kinds."""
    try:
        Path(target).mkdir(0o700)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(target).st_mode):  # through a symlink, the tree would end up elsewhere
            raise


def _is_special(target: str) -> bool:
    """Return whether a path names, or leads to, a device or a pipe, which is written to and not replaced."""
    try:
        kind = stat.S_IFMT(os.stat(target).st_mode)
    except OSError:
        return False
    return kind not in (stat.S_IFREG, stat.S_IFDIR)


def _require_replaceable(target: str) -> None:
    """Raise FileExistsError if the name belongs to a directory, a device or a pipe."""
    try:
        kind = stat.S_IFMT(os.lstat(target).st_mode)
    except FileNotFoundError:
        return
    if kind not in (stat.S_IFREG, stat.S_IFLNK):
        what = "a directory" if kind == stat.S_IFDIR else "a device or a pipe"
        raise FileExistsError(errno.EEXIST, f"{what} is in the way", target)
