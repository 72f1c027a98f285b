"""Times and numbers that cannot be kept: times are brought to the nearest that can, and no value takes others with it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.volumes import VolumeSubject, new_vault, open_volume
from tgdav.crdt.ops import Attr
from tgdav.errors import InvalidArgument, LocalFailure
from tgdav.fs.api import LockRecord, Owner
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata.change import Change
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.volume import report

OWNER = Owner(0, 0)
EARLIEST, LATEST = -(2**63), 2**63 - 1
YEAR = 365 * 24 * 3600 * 10**9
BEYOND = (
    (LATEST + 1, LATEST),
    (600 * YEAR, LATEST),
    (EARLIEST - 1, EARLIEST),
    (-700 * YEAR, EARLIEST),
    (10**30, LATEST),
)


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[VolumeSubject]:
    made = VolumeSubject(tmp_path)
    yield made
    made.close()


@pytest.fixture
def fs(subject: VolumeSubject) -> NamespaceFileSystem:
    return subject.fs


def made(fs: NamespaceFileSystem, name: bytes = b"file") -> Inode:
    return fs.create(fs.root, name, Kind.FILE, 0o644, OWNER).inode


@pytest.mark.parametrize(("given", "kept"), BEYOND)
@pytest.mark.parametrize("field", ["atime", "mtime", "ctime", "btime"])
def test_a_time_is_brought_to_the_nearest_that_can_be_kept(
    fs: NamespaceFileSystem, field: str, given: int, kept: int
) -> None:
    inode = made(fs)
    fs.set_attributes(inode, AttributeChange(**{field: given}), durable=True)
    assert getattr(fs.attributes(inode), field) == kept


@pytest.mark.parametrize(("given", "kept"), BEYOND)
def test_times_deferred_with_unflushed_writes_are_too(fs: NamespaceFileSystem, given: int, kept: int) -> None:
    inode = made(fs)
    with closing(fs.open(inode, writable=True)) as handle:
        handle.write(0, b"content")
        assert fs.defer_attributes(inode, AttributeChange(mtime=given, atime=given))
        assert fs.attributes(inode).mtime == kept
    found = fs.attributes(inode)
    assert (found.mtime, found.atime, found.dirty) == (kept, kept, 0)


@pytest.mark.parametrize(("given", "kept"), [*BEYOND, (0, 0)])
def test_times_of_an_upload_and_beside_properties_are_too(fs: NamespaceFileSystem, given: int, kept: int) -> None:
    with fs.upload(fs.root, b"file", owner=OWNER) as upload:
        upload.write(b"content")
        node, _ = upload.commit(mtime=given, btime=given)
    assert (node.mtime, node.btime) == (kept, kept)
    fs.set_properties(node.inode, {b"{urn:x}p": b"v"}, attributes=AttributeChange(mtime=given))
    assert fs.attributes(node.inode).mtime == kept


def test_the_end_of_a_lock_is_too(fs: NamespaceFileSystem) -> None:
    fs.save_lock(LockRecord("urn:token", fs.root, 10**30, b""))
    assert [lock.expires for lock in fs.load_locks()] == [LATEST]


def test_an_impossible_time_takes_no_other_change_with_it(subject: VolumeSubject) -> None:
    """The others were answered, and share a transaction with it."""
    fs = subject.fs
    for number in range(5):
        made(fs, b"%d" % number)
    fs.set_attributes(made(fs), AttributeChange(mtime=LATEST + 1))
    for number in range(5, 10):
        made(fs, b"%d" % number)
    fs.sync()
    assert len(fs.list_directory(fs.root)) == 11
    assert subject.volume.database.writer.refusal is None


OPERATIONS: list[Callable[[Change, Inode], object]] = [
    lambda change, inode: change.set_local(inode, atime=LATEST + 1),
    lambda change, inode: change.emit(Attr(change.attributes(inode).node, {"mtime": LATEST + 1})),  # type: ignore[union-attr]
    lambda change, inode: change.emit(Attr(change.attributes(inode).node, {"mtime": 10**30})),  # type: ignore[union-attr]
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_value_that_no_row_can_hold_fails_its_own_change_alone(
    subject: VolumeSubject, operation: Callable[[Change, Inode], object]
) -> None:
    fs = subject.fs
    inode = made(fs)
    with pytest.raises((InvalidArgument, OverflowError)):
        fs.journal.change(lambda change: operation(change, inode), lazy=True)
    made(fs, b"next")
    fs.sync()
    assert [entry.name for entry in fs.list_directory(fs.root)] == [b"file", b"next"]
    assert subject.volume.database.writer.refusal is None


@pytest.mark.parametrize("number", [-1, 2**32, 2**63, 10**30])
def test_no_owner_and_device_number_has_more_than_32_bits(fs: NamespaceFileSystem, number: int) -> None:
    inode = made(fs)
    for change in (AttributeChange(uid=number), AttributeChange(gid=number)):
        with pytest.raises(InvalidArgument):
            fs.set_attributes(inode, change)
    for owner, rdev in ((Owner(number, 0), 0), (Owner(0, number), 0), (OWNER, number)):
        with pytest.raises(InvalidArgument):
            fs.create(fs.root, b"device", Kind.CHARACTER_DEVICE, 0o600, owner, rdev=rdev)
    with fs.upload(fs.root, b"new", owner=Owner(number, 0)) as upload, pytest.raises(InvalidArgument):
        upload.commit()
    assert [entry.name for entry in fs.list_directory(fs.root)] == [b"file"]


def test_status_names_what_stopped_the_writer(tmp_path: Path) -> None:
    new_vault(tmp_path)
    volume = open_volume(tmp_path)
    volume.database.writer.poison("a disk failed")
    assert "a disk failed" in str(report.status(volume)["last_error"])
    with pytest.raises(LocalFailure):
        volume.close()
