"""Attributes that the kernel writes back for a removed file must not fail: the next close would report the error."""

import errno
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from tests.support.volumes import VolumeSubject
from tgdav.clock import SystemClock
from tgdav.fs.api import Owner
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Kind
from tgdav_fuse.attributes import Presentation
from tgdav_fuse.operations import TgdavOperations

pytestmark = pytest.mark.mount_free

TIMES = ("update_mtime", "update_ctime")
FIELDS = (*TIMES, "update_atime", "update_mode", "update_uid", "update_gid", "update_size")
CONTEXT: Any = SimpleNamespace(uid=0, gid=0, umask=0, pid=1)


class ClosedMeanwhile:
    """A file system with an open file without a name, which it closes when attributes are set."""

    def __init__(self, fs: NamespaceFileSystem) -> None:
        self._fs = fs
        self.inode: Inode = fs.create(fs.root, b"file", Kind.FILE, 0o644, Owner()).inode
        self.handle = fs.open(self.inode)
        fs.unlink(fs.root, b"file")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def defer_attributes(self, inode: Inode, change: AttributeChange) -> bool:
        self.handle.close()
        return self._fs.defer_attributes(inode, change)


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[ClosedMeanwhile]:
    subject = VolumeSubject(tmp_path)
    yield ClosedMeanwhile(subject.volume.fs)
    subject.close()


def setattr_(fs: Any, *wanted: str) -> pyfuse3.EntryAttributes:
    """Set attributes as the kernel does."""
    operations = TgdavOperations(fs, SystemClock(), Presentation())
    operations.handles.add(fs.inode, fs.handle, writable=False)
    asked = pyfuse3.EntryAttributes()
    asked.st_mode, asked.st_mtime_ns, asked.st_ctime_ns = 0o600, 1, 2
    fields: Any = SimpleNamespace(**{name: name in wanted for name in FIELDS})

    async def ask() -> pyfuse3.EntryAttributes:
        return await operations.setattr(fs.inode, asked, fields, None, CONTEXT)

    try:
        return trio.run(ask)
    finally:
        operations.workers.stop()


@pytest.mark.parametrize("times", [1, 2])
def test_times_of_a_file_that_is_closed_meanwhile_are_accepted(fs: ClosedMeanwhile, times: int) -> None:
    for _ in range(times):  # the second time it is gone from the beginning
        assert setattr_(fs, *TIMES).st_nlink == 0


@pytest.mark.parametrize("field", ["update_mode", "update_atime", "update_uid"])
def test_requests_of_programs_fail_then(fs: ClosedMeanwhile, field: str) -> None:
    with pytest.raises(pyfuse3.FUSEError) as failure:
        setattr_(fs, *TIMES, field)
    assert failure.value.errno == errno.ENOENT


@pytest.mark.parametrize(("kind", "changes"), [(Kind.FILE, 0), (Kind.FIFO, 1)])
def test_times_of_a_node_that_the_kernel_alone_holds(tmp_path: Path, kind: Kind, changes: int) -> None:
    """The kernel writes back ctime of a regular file after each unlink. Times of other nodes come from programs."""
    subject = VolumeSubject(tmp_path)
    fs = subject.volume.fs
    inode = fs.create(fs.root, b"file", kind, 0o644, Owner()).inode
    fs.unlink(fs.root, b"file")
    asked = pyfuse3.EntryAttributes()
    asked.st_mtime_ns, asked.st_ctime_ns = 1, 2
    operations = TgdavOperations(fs, SystemClock(), Presentation())
    operations.lookup_counts[inode] = 1
    fields: Any = SimpleNamespace(**{name: name in TIMES for name in FIELDS})

    async def ask() -> pyfuse3.EntryAttributes:
        return await operations.setattr(inode, asked, fields, None, CONTEXT)

    try:
        before = groups(subject)
        answer = trio.run(ask)
        assert (answer.st_nlink, stat.S_IFMT(answer.st_mode)) == (
            0,
            stat.S_IFREG if kind == Kind.FILE else stat.S_IFIFO,
        )
        assert groups(subject) == before + changes
    finally:
        operations.workers.stop()
        subject.close()


def groups(subject: VolumeSubject) -> int:
    """Return the number of changes in the log."""
    with subject.volume.database.reading() as connection:
        row = connection.one("SELECT COUNT(*) FROM log")
    assert row is not None
    return int(row[0])
