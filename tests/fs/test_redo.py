"""What a file system shows after a kill -9, of changes that it had answered and not committed."""

from pathlib import Path

import pytest

from tests.fs.test_writeback import OWNER, content_of, with_content
from tests.support.volumes import VolumeSubject
from tgdav.db import lazy_batch
from tgdav.fs.files import writeback
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import FILE, AttributeChange


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "VolumeSubject":
    """One that commits nothing by itself."""
    monkeypatch.setattr(lazy_batch, "COMMIT_DELAY_SECONDS", 60)
    monkeypatch.setattr(writeback, "DELAY_SECONDS", 60)
    subject = VolumeSubject(tmp_path)
    subject.fs.create(subject.fs.root, b"first", FILE, 0o644, OWNER)  # with which the log begins
    return subject


def make(fs: NamespaceFileSystem, name: bytes, content: bytes) -> Inode:
    made = fs.create(fs.root, name, FILE, 0o644, OWNER)
    with_content(fs, made.inode, content)
    return made.inode


def whole(fs: NamespaceFileSystem, name: bytes) -> bytes:
    found = fs.lookup(fs.root, name)
    handle = fs.open(found.inode)
    try:
        return handle.read(0, found.size)
    finally:
        handle.close()


@pytest.mark.parametrize("size", [0, 100, 40_000, 1_500_000])
def test_a_closed_file(subject: VolumeSubject, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    make(subject.fs, b"file", content[:size])
    for _ in range(2):
        subject.crash()
        assert whole(subject.fs, b"file") == content[:size]


def test_the_content_that_was_closed_last(subject: VolumeSubject) -> None:
    inode = make(subject.fs, b"file", b"one")
    with_content(subject.fs, inode, b"two")
    handle = subject.fs.open(inode, writable=True)
    handle.write(0, b"not closed")
    subject.crash()
    assert content_of(subject.fs, b"file") == b"two"


def test_attributes_of_a_closed_file(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = make(fs, b"file", b"content")
    fs.set_attributes(inode, AttributeChange(mode=0o600, uid=7))
    fs.set_attributes(inode, AttributeChange(atime=4, mtime=5, ctime=6))
    subject.crash()
    found = subject.fs.lookup(subject.fs.root, b"file")
    assert (found.mode, found.uid, found.atime, found.mtime, found.ctime, found.size) == (0o600, 7, 4, 5, 6, 7)


def test_attributes_before_the_last_close_do_not_come_back(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = make(fs, b"file", b"content")
    fs.set_attributes(inode, AttributeChange(mode=0o600, mtime=5))
    with_content(fs, inode, b"new")
    shown = fs.attributes(inode)
    fs.set_attributes(inode, AttributeChange(mode=0o640))
    subject.crash()
    found = subject.fs.lookup(subject.fs.root, b"file")
    assert (found.mode, found.mtime, found.size) == (0o640, shown.mtime, 3)


def test_mode_and_owner_of_a_file_that_is_open(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = make(fs, b"file", b"content")
    fs.open_files.flush_queued()
    handle = fs.open(inode, writable=True, truncate=True)
    handle.write(0, b"x")
    fs.set_attributes(inode, AttributeChange(mode=0o600, gid=8))
    subject.crash()
    found = subject.fs.lookup(subject.fs.root, b"file")
    assert (found.mode, found.gid) == (0o600, 8)
    assert content_of(subject.fs, b"file") == b"content"


@pytest.mark.parametrize("closes_again", [False, True])
def test_what_was_put_over_a_closed_file_stays(subject: VolumeSubject, closes_again: bool) -> None:
    """Also where the file has its first content again, or is written anew."""
    fs = subject.fs
    inode = make(fs, b"file", b"first")
    fs.open_files.flush_queued()
    with_content(fs, inode, b"closed")
    handle = fs.open(inode, writable=True)
    handle.write(0, b"open")
    with fs.upload(fs.root, b"file", owner=OWNER) as upload:
        upload.write(b"first")
        upload.commit()
    if closes_again:
        with_content(fs, inode, b"again")
    subject.crash()
    assert content_of(subject.fs, b"file") == (b"again" if closes_again else b"first")


def test_a_replacing_that_happens_between_a_close_and_its_note(subject: VolumeSubject) -> None:
    """A content that was closed over another than the one that is there now does not come back."""
    fs = subject.fs
    inode = make(fs, b"file", b"first")
    fs.open_files.flush_queued()
    with_content(fs, inode, b"closed")
    file = fs.open_files.find(inode)
    assert file is not None
    file.records.forget()  # as if the upload below had come before
    with fs.upload(fs.root, b"file", owner=OWNER) as upload:
        upload.write(b"put")
        upload.commit()
    subject.crash()
    assert content_of(subject.fs, b"file") == b"put"


def test_names_that_were_taken_away_and_given(subject: VolumeSubject) -> None:
    fs = subject.fs
    for name in (b"a", b"b", b"c"):
        make(fs, name, name * 3)
    fs.unlink(fs.root, b"a")
    fs.rename(fs.root, b"b", fs.root, b"c")
    fs.link(fs.lookup(fs.root, b"c").inode, fs.root, b"d")
    fs.set_xattr(fs.root, b"user.x", b"y")
    subject.crash()
    fs = subject.fs
    assert [entry.name for entry in fs.list_directory(fs.root)] == [b"c", b"d", b"first"]
    assert (content_of(fs, b"d"), fs.lookup(fs.root, b"d").nlink) == (b"bbb", 2)
    assert fs.get_xattr(fs.root, b"user.x") == b"y"


def test_what_is_recovered_is_flushed_and_released(subject: VolumeSubject) -> None:
    make(subject.fs, b"file", b"content")
    subject.crash()
    assert not subject.fs.open_files
    subject.fs.unlink(subject.fs.root, b"file")
    subject.crash()
    assert [entry.name for entry in subject.fs.list_directory(subject.fs.root)] == [b"first"]
