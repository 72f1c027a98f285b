"""Changes that share a commit: seen by everyone at once, kept together by what is durable, lost only from the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.volumes import VolumeSubject
from tests.support.waiting import wait_for
from tgdav.db import lazy_batch
from tgdav.errors import Exists, LocalFailure, NotFound, WouldBlock
from tgdav.fs.api import Owner
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.metadata.types import AttributeChange, Kind

OWNER = Owner(0, 0)


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VolumeSubject]:
    """One whose changes wait until they are asked for."""
    monkeypatch.setattr(lazy_batch, "COMMIT_DELAY_SECONDS", 60)
    made = VolumeSubject(tmp_path)
    yield made
    made.close()


def make(fs: NamespaceFileSystem, name: bytes) -> None:
    fs.create(fs.root, name, Kind.FILE, 0o644, OWNER)


def names(fs: NamespaceFileSystem) -> list[bytes]:
    return [entry.name for entry in fs.list_directory(fs.root)]


def waits(fs: NamespaceFileSystem) -> bool:
    return fs.database.writer._lazy_batch is not None


def test_lookups_are_answered_while_nothing_is_committed(subject: VolumeSubject) -> None:
    fs = subject.fs
    folder = fs.create(fs.root, b"folder", Kind.DIRECTORY, 0o755, OWNER).inode
    made = fs.create(folder, b"file", Kind.FILE, 0o600, OWNER)
    fs.set_attributes(made.inode, AttributeChange(mtime=5))
    assert fs.lookup(folder, b"file").mtime == 5
    with pytest.raises(NotFound):
        fs.lookup(folder, b"other")
    with pytest.raises(Exists):
        fs.create(folder, b"file", Kind.FILE, 0o600, OWNER)
    fs.unlink(folder, b"file")
    with pytest.raises(NotFound):
        fs.attributes(made.inode)
    assert fs.attributes(folder).nlink == 2
    assert waits(fs)


def test_an_unlinked_file_that_is_open_shows_its_attributes_without_the_database(subject: VolumeSubject) -> None:
    fs = subject.fs
    make(fs, b"file")
    fs.link(fs.lookup(fs.root, b"file").inode, fs.root, b"second")
    handle = fs.open(fs.lookup(fs.root, b"file").inode, writable=True)
    fs.unlink(fs.root, b"file")
    assert fs.attributes(handle.inode).nlink == 1
    fs.unlink(fs.root, b"second")
    assert fs.attributes(handle.inode).nlink == 0
    assert waits(fs)
    handle.write(0, b"content")
    handle.flush()
    assert (fs.attributes(handle.inode).size, handle.read(0, 100)) == (7, b"content")
    handle.close()
    with pytest.raises(NotFound):
        fs.attributes(handle.inode)


@pytest.mark.parametrize("how", ["fsync", "sync", "durable", "rename", "listing"])
def test_what_is_promised_takes_along_what_was_done_before(subject: VolumeSubject, how: str) -> None:
    fs = subject.fs
    for name in (b"a", b"b", b"c"):
        make(fs, name)
    fs.unlink(fs.root, b"b")
    match how:
        case "fsync":
            fs.open(fs.lookup(fs.root, b"c").inode, writable=True).fsync()
        case "sync":
            fs.sync()
        case "durable":
            fs.set_xattr(fs.root, b"user.x", b"y", durable=True)
        case "rename":
            fs.rename(fs.root, b"c", fs.root, b"c2")
        case _:
            names(fs)
    subject.crash()
    assert names(subject.fs) == [b"a", b"c2" if how == "rename" else b"c"]


def test_a_second_sync_of_a_file_takes_along_what_was_done_since_the_first(subject: VolumeSubject) -> None:
    fs = subject.fs
    make(fs, b"file")
    handle = fs.open(fs.lookup(fs.root, b"file").inode, writable=True)
    handle.write(0, b"x" * 100_000)
    handle.flush()
    for number in range(2):
        handle.write(50_000, b"y%d" % number)
        make(fs, b"%d" % number)
        handle.fsync()
    subject.crash()
    assert names(subject.fs) == [b"0", b"1", b"file"]


def test_a_kill_loses_nothing(subject: VolumeSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_batch, "MAX_JOBS", 4)
    for number in range(10):
        make(subject.fs, b"%d" % number)
    subject.crash()
    left = names(subject.fs)
    assert left == [b"%d" % number for number in range(10)]
    make(subject.fs, b"after")
    assert names(subject.fs) == [*left, b"after"]


def test_what_is_lost_is_seen_by_nobody_and_ends_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_batch, "COMMIT_DELAY_SECONDS", 60)
    subject = VolumeSubject(tmp_path)
    fs = subject.fs
    make(fs, b"kept")
    fs.sync()
    make(fs, b"lost")
    fs.database.writer.poison("the disk is gone")
    assert names(fs) == [b"kept"]
    with pytest.raises(NotFound):
        fs.lookup(fs.root, b"lost")
    with pytest.raises(LocalFailure):
        subject.close()


def test_what_would_wait_is_refused_before_it_is_done(subject: VolumeSubject) -> None:
    fs = subject.fs
    make(fs, b"file")
    inode = fs.lookup(fs.root, b"file").inode
    fs.call_nowait(lambda: fs.set_attributes(inode, AttributeChange(mode=0o600)))
    fs.call_nowait(lambda: make(fs, b"other"))
    with pytest.raises(WouldBlock):
        fs.call_nowait(lambda: fs.rename(fs.root, b"other", fs.root, b"another"))
    fs.open_files.start()
    handle = fs.open(inode, writable=True)
    handle.write(0, b"content")
    with pytest.raises(WouldBlock):
        fs.call_nowait(lambda: fs.set_attributes(inode, AttributeChange(mode=0o644)))
    assert handle.flush_later()
    assert handle.close_nowait()
    with pytest.raises(WouldBlock):
        fs.call_nowait(lambda: fs.unlink(fs.root, b"other"))
    assert names(fs) == [b"file", b"other"]
    assert fs.attributes(inode).mode == 0o600
    wait_for(lambda: fs.open_files.find(inode) is None, what="the file to be flushed")
    fs.call_nowait(lambda: fs.unlink(fs.root, b"other"))
    assert names(fs) == [b"file"]


def test_a_removed_folder_has_no_parent(subject: VolumeSubject) -> None:
    """A caller that still has the inode, or a handle on it, must not reach the trash."""
    fs = subject.fs
    outer = fs.create(fs.root, b"outer", Kind.DIRECTORY, 0o755, OWNER).inode
    inner = fs.create(outer, b"inner", Kind.DIRECTORY, 0o755, OWNER).inode
    fs.remove_tree(fs.root, b"outer")
    assert fs.parent(inner) == outer
    with pytest.raises(NotFound):
        fs.parent(outer)
