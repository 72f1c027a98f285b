"""From the drive to the local disk. A file appears under its name only when it is complete."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tgdav.cli.files.access import Entry, Files
from tgdav.cli.files.transfer import Transfer, naming
from tgdav.entropy import Entropy
from tgdav.metadata.types import DIRECTORY, SYMLINK, Kind
from tgdav.wording import shown_path

PREFIX, SUFFIX = ".tgdav-", ".part"
"""The name of a file that is not complete begins and ends so."""


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
        with closing(self._files.walk(remote)) as entries:
            with naming(remote):
                top = next(entries)
            cut = len(top.path.rstrip(b"/"))
            for entry in chain((top,), entries):
                if left_out is not None and entry.path.startswith(left_out):
                    continue
                target = local + os.fsdecode(entry.path[cut:])
                is_copied = self._copy(entry, target, version, is_named=target == local)
                if entry.kind == DIRECTORY and is_copied:
                    directories.append((target, entry))
                elif entry.kind == DIRECTORY:
                    left_out = entry.path + b"/"
        # Last, because what is created in a directory changes its mtime, and its mode may forbid that.
        for target, entry in reversed(directories):
            with self._transfer.attempt(shown_path(entry.path)):
                self._set_attributes(target, entry)

    def _copy(self, entry: Entry, target: str, version: int | None, *, is_named: bool) -> bool:
        """Copy one node; return whether that was done. ``is_named``: the user named the target."""
        shown = shown_path(entry.path)
        with self._transfer.attempt(shown) as attempt, naming(entry.path):
            match entry.kind:
                case Kind.DIRECTORY:
                    _make_directory(target)
                    self._transfer.directories += 1
                case Kind.FILE:
                    self._fetch(entry, target, version, is_special=is_named and _is_special(target))
                case Kind.SYMLINK:
                    self._make_symlink(target, entry)
                    self._transfer.symlinks += 1
                case _:
                    self._transfer.skip(shown, entry.kind.name.lower().replace("_", " "))
        return not attempt.failed

    def _fetch(self, entry: Entry, target: str, version: int | None, *, is_special: bool) -> None:
        count = 0

        def write(block: bytes) -> None:
            nonlocal count
            file.write(block)
            count += len(block)
            self._transfer.moved(len(block))

        with _special_file(target) if is_special else _new_file(target, self._beside(target)) as (file, name):
            found = self._files.read(entry.path, write, version)
            file.flush()
            if not is_special:
                self._set_attributes(name, found)
        self._transfer.files += 1
        self._transfer.bytes += count

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
