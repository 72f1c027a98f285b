"""Files closed without a sync: visible at once, committed together a moment later, and always before a change that removes
something."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.volumes import VolumeSubject
from tests.support.waiting import wait_for
from tgdav.errors import NoSpace, NotFound
from tgdav.failpoints import installed
from tgdav.fs.api import Owner
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Kind

OWNER = Owner(0, 0)


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[VolumeSubject]:
    made = VolumeSubject(tmp_path)
    made.fs.open_files.start()
    yield made
    made.close()


def write(fs: NamespaceFileSystem, name: bytes, content: bytes) -> Inode:
    """Create a file and close it without a sync."""
    made = fs.create(fs.root, name, Kind.FILE, 0o644, OWNER)
    with_content(fs, made.inode, content)
    return made.inode


def with_content(fs: NamespaceFileSystem, inode: Inode, content: bytes) -> None:
    handle = fs.open(inode, writable=True, truncate=True)
    handle.write(0, content)
    assert handle.flush_later()
    assert handle.close_nowait()


def content_of(fs: NamespaceFileSystem, name: bytes) -> bytes:
    handle = fs.open(fs.lookup(fs.root, name).inode)
    try:
        return handle.read(0, 100)
    finally:
        handle.close()


def test_it_is_seen_at_once(subject: VolumeSubject) -> None:
    write(subject.fs, b"file", b"content")
    assert subject.fs.lookup(subject.fs.root, b"file").size == 7
    assert [entry.attributes.size for entry in subject.fs.list_directory(subject.fs.root)] == [7]
    assert content_of(subject.fs, b"file") == b"content"


def test_it_is_committed_without_being_asked(subject: VolumeSubject) -> None:
    inode = write(subject.fs, b"file", b"content")
    wait_for(lambda: subject.fs.open_files.find(inode) is None, what="the file to be flushed")
    subject.crash()
    assert content_of(subject.fs, b"file") == b"content"


def shown(fs: NamespaceFileSystem) -> dict[bytes, bytes]:
    return {entry.name: content_of(fs, entry.name) for entry in fs.list_directory(fs.root)}


def test_a_rename_comes_after_the_contents_and_is_kept(subject: VolumeSubject) -> None:
    write(subject.fs, b"file", b"old")
    write(subject.fs, b"saved", b"new")
    subject.fs.rename(subject.fs.root, b"saved", subject.fs.root, b"file")
    subject.crash()
    assert shown(subject.fs) == {b"file": b"new"}


@pytest.mark.parametrize("waits", [False, True])
def test_a_removal_comes_after_the_copy(subject: VolumeSubject, waits: bool) -> None:
    write(subject.fs, b"original", b"content")
    write(subject.fs, b"copy", b"content")
    subject.fs.unlink(subject.fs.root, b"original")
    if waits:
        subject.fs.sync()
    with pytest.raises(NotFound):
        subject.fs.lookup(subject.fs.root, b"original")
    subject.crash()
    left = [{b"copy": b"content"}, {b"original": b"content", b"copy": b"content"}]
    assert shown(subject.fs) in left[: 1 if waits else 2]


def test_attributes_set_meanwhile_are_seen_and_committed(subject: VolumeSubject) -> None:
    inode = write(subject.fs, b"file", b"content")
    subject.fs.set_attributes(inode, AttributeChange(mode=0o600, uid=7, mtime=5))
    seen = subject.fs.attributes(inode)
    assert (seen.mode, seen.uid, seen.mtime) == (0o600, 7, 5)
    subject.fs.sync()
    subject.crash()
    found = subject.fs.lookup(subject.fs.root, b"file")
    assert (found.mode, found.uid, found.mtime, found.size) == (0o600, 7, 5, 7)


def test_attributes_of_an_open_file_are_seen_and_committed_soon(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = write(fs, b"file", b"content")
    fs.open_files.flush_queued()
    fs.open(inode, writable=True, truncate=True)
    fs.set_attributes(inode, AttributeChange(mode=0o100600, uid=7, atime=0, mtime=0, ctime=3))
    seen = fs.attributes(inode)
    assert (seen.mode, seen.uid, seen.atime, seen.mtime, seen.ctime) == (0o600, 7, 0, 0, 3)
    wait_for(lambda: not fs.attributes(inode).dirty, what="the attributes to be committed")
    subject.crash()
    found = subject.fs.attributes(inode)
    assert (found.mode, found.uid, found.atime, found.mtime, found.ctime, found.size) == (0o600, 7, 0, 0, 3, 0)


@pytest.mark.parametrize("durable", [False, True])
def test_attributes_that_cannot_wait_survive_the_writes_that_do(subject: VolumeSubject, durable: bool) -> None:
    fs = subject.fs
    inode = write(fs, b"file", b"content")
    fs.open_files.flush_queued()
    handle = fs.open(inode, writable=True)
    handle.write(3, b"TENT")
    fs.set_attributes(inode, AttributeChange(mode=0o600, mtime=5), durable=durable)
    fs.set_properties(inode, {}, attributes=AttributeChange(mtime=0, uid=9))
    seen = fs.attributes(inode)
    assert (seen.mode, seen.uid, seen.mtime, seen.dirty) == (0o600, 9, 0, 1)
    handle.close()
    committed = fs.attributes(inode)
    assert (committed.mode, committed.uid, committed.mtime, committed.dirty) == (0o600, 9, 0, 0)


def _full_disk(step: str) -> None:
    if step == "content.recorded":
        raise NoSpace


def test_attributes_set_before_a_failed_commit_do_not_come_back(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = write(fs, b"file", b"content")
    fs.set_attributes(inode, AttributeChange(mode=0o600))
    fs.open_files.flush_queued()
    handle = fs.open(inode, writable=True, truncate=True)
    handle.write(0, b"rewritten")
    with installed(_full_disk):
        fs.set_attributes(inode, AttributeChange(mode=0o400))
        with pytest.raises(NoSpace):
            handle.flush()
    assert (fs.attributes(inode).mode, content_of(fs, b"file")) == (0o600, b"content")
    fs.set_attributes(inode, AttributeChange(mode=0o640))
    with_content(fs, inode, b"more")
    fs.open_files.flush_queued()
    assert fs.attributes(inode).mode == 0o640
    handle.close()


def test_an_upload_is_not_undone_by_what_was_closed_before(subject: VolumeSubject) -> None:
    inode = write(subject.fs, b"file", b"closed before")
    upload = subject.fs.upload(subject.fs.root, b"file", owner=OWNER)
    upload.write(b"uploaded")
    upload.commit()
    subject.fs.open_files.flush_queued()
    assert subject.fs.open_files.find(inode) is None
    assert content_of(subject.fs, b"file") == b"uploaded"


def test_what_cannot_be_committed_stays(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = write(fs, b"file", b"content")
    fs.open_files.flush_queued()
    file = fs.open(inode)
    with_content(fs, inode, b"rewritten")
    fs.journal.read_only = "another machine is the writer for a while"
    fs.open_files.flush_queued()
    assert file.read(0, 100) == b"rewritten"
    assert fs.attributes(inode).dirty
    fs.journal.read_only = None
    file.close()
    fs.flush_all()
    subject.crash()
    assert content_of(subject.fs, b"file") == b"rewritten"


def test_a_file_opened_again_meanwhile_is_kept(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = write(fs, b"file", b"content")
    fs.set_attributes(inode, AttributeChange(size=3))
    with_content(fs, inode, b"more content")
    fs.open_files.flush_queued()
    handle = fs.open(inode, writable=True)
    handle.write(0, b"M")
    fs.open_files.flush_queued()
    assert fs.attributes(inode).size == 12
    handle.close()
    assert content_of(fs, b"file") == b"More content"


def test_what_cannot_be_closed_at_once_stays_open(subject: VolumeSubject) -> None:
    """The writeback thread does not run, so the close would have to wait and is refused."""
    fs = subject.fs
    fs.open_files.stop()
    handle = fs.open(fs.create(fs.root, b"file", Kind.FILE, 0o644, OWNER).inode, writable=True)
    handle.write(0, b"content")
    assert not handle.close_nowait()
    assert handle.read(0, 10) == b"content"
    handle.close()
    assert handle.close_nowait()
    assert fs.open_files.find(handle.inode) is None
    assert content_of(fs, b"file") == b"content"
