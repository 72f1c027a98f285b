"""From the local disk into the drive."""

import os
import stat
from collections.abc import Iterator

from tgdav.cli.files.access import BLOCK_BYTES, Files, NewAttributes
from tgdav.cli.files.transfer import Transfer, naming
from tgdav.fs.api import Owner

_KINDS = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}


def put(files: Files, local: str, remote: bytes, transfer: Transfer) -> None:
    """Copy what ``local`` names to the path ``remote``, with all below it; directories that exist are merged.

    ``transfer`` records errors of what is below ``local``, too, which do not end the run.
    """
    _Putter(files, transfer).run(local, remote)


def total_bytes(local: str) -> int:
    """Return how many bytes ``put`` will copy, as far as that can be found out."""
    return sum(found.st_size for found in _stats_below(local) if stat.S_ISREG(found.st_mode))


def _stats_below(local: str) -> Iterator[os.stat_result]:
    yield os.lstat(local)
    for above, _, names in os.walk(local):
        for name in names:
            try:
                yield os.lstat(os.path.join(above, name))
            except OSError:
                continue  # the copy itself will report it


def owner() -> Owner:
    """Return the owner of what this process puts into the drive."""
    return Owner(os.geteuid(), os.getegid())


class _Putter:
    def __init__(self, files: Files, transfer: Transfer) -> None:
        self._files, self._transfer, self._owner = files, transfer, owner()
        self._directories: list[tuple[str, bytes, NewAttributes]] = []

    def run(self, local: str, remote: bytes) -> None:
        waiting = [(local, remote)]
        while waiting:
            source, target = waiting.pop()
            with self._transfer.attempt(source):
                found = os.lstat(source)
                with naming(target):
                    self._copy(source, target, found)
                if stat.S_ISDIR(found.st_mode):
                    names = sorted(os.listdir(os.fsencode(source)), reverse=True)
                    waiting += [
                        (os.path.join(source, os.fsdecode(name)), target.rstrip(b"/") + b"/" + name) for name in names
                    ]
        # Last, because what is created in a directory changes its mtime.
        for source, target, new in reversed(self._directories):
            with self._transfer.attempt(source), naming(target):
                self._files.set_attributes(target, new)

    def _copy(self, source: str, target: bytes, found: os.stat_result) -> None:
        new = NewAttributes(self._owner, stat.S_IMODE(found.st_mode), found.st_mtime_ns)
        match stat.S_IFMT(found.st_mode):
            case stat.S_IFDIR:
                self._files.make_directory(target, new)
                self._directories.append((source, target, new))
                self._transfer.directories += 1
            case stat.S_IFREG:
                self._send(source, target)
            case stat.S_IFLNK:
                link = os.readlink(os.fsencode(source))  # noqa: PTH115 - a Path would change the target's spelling
                self._files.make_symlink(target, new, link)
                self._transfer.symlinks += 1
            case other:
                self._transfer.skip(source, _KINDS.get(other, "special file"))

    def _send(self, source: str, target: bytes) -> None:
        with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            new = NewAttributes(self._owner, stat.S_IMODE(found.st_mode), found.st_mtime_ns)
            count = 0

            def blocks() -> Iterator[bytes]:
                nonlocal count
                while block := file.read(BLOCK_BYTES):
                    yield block
                    count += len(block)
                    self._transfer.moved(len(block))

            self._files.write(target, new, blocks())
        self._transfer.copied(count)
