"""Versions of a real volume: restoring them, open files, a restart, and the limit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs.direct_access import DirectAccess
from tests.support.platform import ManualClock
from tests.support.volumes import new_vault, open_volume
from tgdav.crdt.ops import VersionPolicy
from tgdav.errors import Exists, UsageError
from tgdav.fs.departures import BACKUP_NS, FILL_NS, LIMIT, Departures
from tgdav.ids import EntryId, Inode
from tgdav.metadata.types import AttributeChange
from tgdav.platform import Platform
from tgdav.volume.volume import Volume

MINUTE = 60.0


class Drive:
    """A volume whose clock stands until it is moved, and short calls."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        new_vault(folder)
        self.clock = ManualClock()
        self.open()

    def open(self, **sections: dict[str, object]) -> None:
        system = Platform.system()
        platform = Platform(self.clock, system.entropy, system.disk)
        self.volume: Volume = open_volume(self._folder, platform=platform, **sections)
        self.fs = self.volume.fs
        self.access = DirectAccess(self.fs)

    def save(self, path: bytes, *contents: bytes) -> Inode:
        for content in contents:
            self.clock.advance(MINUTE)
            self.access.write_file(path, content)
        return self.inode(path)

    def inode(self, path: bytes) -> Inode:
        return self.fs.resolve(path.split(b"/")).inode

    def read(self, path: bytes) -> bytes:
        return self.access.read_file(path)

    def versions(self, path: bytes) -> list[tuple[int, int]]:
        """Return (number, bytes) of the versions, the oldest first."""
        found = self.volume.versions.listed(self.inode(path))
        return [(each.number, each.attributes.size) for each in found[::-1]]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path)
    yield made
    assert made.volume.check()["ok"]
    made.volume.close()


def test_a_restored_content_is_a_new_one_with_the_time_of_then(drive: Drive) -> None:
    inode = drive.save(b"file", b"1")
    drive.fs.set_attributes(inode, AttributeChange(mtime=5_000_000_001))
    drive.save(b"file", b"22", b"333")
    heard: list[tuple[object, ...]] = []
    stop = drive.fs.on_change(lambda *what: heard.append(what))
    drive.volume.versions.restore(inode, 1)
    stop()
    assert heard == [(inode, drive.fs.root, b"file")]
    assert drive.read(b"file") == b"1"
    assert drive.fs.attributes(inode).mtime == 5_000_000_001
    assert drive.versions(b"file") == [(1, 1), (2, 2), (3, 3), (4, 1)]
    # What it has already: nothing more.
    drive.volume.versions.restore(inode, 4)
    assert drive.versions(b"file") == [(1, 1), (2, 2), (3, 3), (4, 1)]


def test_versions_of_replaced_files_are_restored_too(drive: Drive) -> None:
    for content in (b"1", b"22", b"333"):
        drive.save(b"new", content)
        drive.fs.rename(drive.fs.root, b"new", drive.fs.root, b"file")
    drive.volume.versions.restore(drive.inode(b"file"), 1, (drive.fs.root, b"copy"))
    drive.volume.versions.restore(drive.inode(b"file"), 2)
    assert (drive.read(b"copy"), drive.read(b"file")) == (b"1", b"22")
    assert drive.versions(b"copy") == [(1, 1)]


def test_nothing_is_replaced_by_a_copy(drive: Drive) -> None:
    inode = drive.save(b"file", b"1", b"22")
    drive.save(b"other", b"333")
    with pytest.raises(Exists):
        drive.volume.versions.restore(inode, 1, (drive.fs.root, b"other"))
    with pytest.raises(UsageError, match="there is no version 3"):
        drive.volume.versions.restore(inode, 3)
    with pytest.raises(UsageError, match="only files"):
        drive.volume.versions.listed(drive.fs.root)
    assert drive.read(b"other") == b"333"


def test_an_open_file_shows_the_restored_content(drive: Drive) -> None:
    """What was written to it and not flushed is the version before."""
    inode = drive.save(b"file", b"1", b"22")
    drive.clock.advance(MINUTE)
    file = drive.access.open(b"file", writable=True)
    file.write(0, b"unflushed")
    drive.volume.versions.restore(inode, 1)
    assert file.read(0, 100) == b"1"
    assert file.status().size == 1
    drive.clock.advance(MINUTE)
    file.write(1, b"+")
    file.close()
    assert drive.read(b"file") == b"1+"
    assert drive.versions(b"file") == [(1, 1), (2, 2), (3, 9), (4, 1), (5, 2)]


def test_a_file_that_is_open_while_it_is_replaced_stays_as_it_is(drive: Drive) -> None:
    """Even when all its contents are pruned."""
    drive.volume.journal.change(lambda change: change.emit(VersionPolicy(0)))
    inode = drive.save(b"file", b"old content")
    file = drive.access.open(b"file")
    for number in range(3):
        drive.save(b"new", b"content %d" % number)
        drive.fs.rename(drive.fs.root, b"new", drive.fs.root, b"file")
    drive.fs.trash.sweep()
    assert file.read(0, 100) == b"old content"
    assert drive.fs.attributes(inode).size == len(b"old content")
    file.close()
    drive.fs.trash.sweep()
    assert drive.versions(b"file") == [(4, 9)]


def test_a_replaced_file_that_is_open_and_has_older_versions_stays_as_it_is(drive: Drive) -> None:
    drive.volume.journal.change(lambda change: change.emit(VersionPolicy(2)))
    inode = drive.save(b"file", b"1", b"old content")
    file = drive.access.open(b"file")
    for content in (b"333", b"4444"):
        drive.save(b"new", content)
        drive.fs.rename(drive.fs.root, b"new", drive.fs.root, b"file")
    assert drive.versions(b"file") == [(1, 1), (3, 3), (4, 4)]
    assert file.read(0, 100) == b"old content"
    assert file.status().size == drive.fs.attributes(inode).size == len(b"old content")
    file.close()
    assert drive.fs.attributes(inode, removed=True).size == 0
    drive.save(b"file", b"55555", b"666666")
    assert drive.versions(b"file") == [(1, 1), (5, 5), (6, 6)]


def test_backups_are_known_for_a_while_and_not_after_a_restart(drive: Drive) -> None:
    root = drive.fs.root
    for backup, pause, is_version in ((b"a", 30, True), (b"b", 61, False), (b"c", 10, True)):
        drive.save(b"file", b"old " + backup)
        drive.fs.rename(root, b"file", root, backup)
        drive.clock.advance(pause)
        drive.access.write_file(b"file", b"new " + backup)
        assert (len(drive.versions(b"file")) > 1) == is_version, backup
        if backup == b"c":
            drive.fs.unlink(root, b"c")
        drive.fs.unlink(root, b"file")
    assert b"/c" not in [item.path for item in drive.fs.trash.items()]
    drive.save(b"file", b"old")
    drive.fs.rename(root, b"file", root, b"backup")
    drive.volume.close()
    drive.open()
    drive.access.write_file(b"file", b"new")
    assert drive.versions(b"file") == [(1, 3)]


@pytest.mark.parametrize("way", ["rename", "backup"])
def test_a_file_that_is_deleted_right_after_a_save_is_in_the_trash_with_all_versions(drive: Drive, way: str) -> None:
    """Its inode is new and was never sent, but what it replaced is not."""
    drive.save(b"file", b"1", b"22")
    drive.clock.advance(MINUTE)
    root = drive.fs.root
    if way == "rename":
        drive.access.write_file(b"new", b"333")
        drive.fs.rename(root, b"new", root, b"file")
    else:
        drive.fs.rename(root, b"file", root, b"file~")
        drive.access.write_file(b"file", b"333")
        drive.fs.unlink(root, b"file~")
    drive.clock.advance(1)
    drive.fs.unlink(root, b"file")
    [item] = drive.fs.trash.items()
    drive.fs.trash.sweep()
    drive.fs.trash.restore(item.path)
    assert drive.versions(b"file") == [(1, 1), (2, 2), (3, 3)]


def test_departures() -> None:
    departures = Departures()
    name = (Inode(1), b"file")
    old, new = EntryId(b"o" * 16), EntryId(b"n" * 16)
    assert departures.fill(name, new, 0) is None
    departures.leave(name, old, 1000)
    assert departures.fill((Inode(2), b"file"), new, 1000) is None
    # A clock that was set back, or the entry itself.
    for entry, time in ((new, 999), (new, 1000 + FILL_NS), (old, 1000)):
        departures.leave(name, old, 1000)
        assert departures.fill(name, entry, time) is None
    departures.leave(name, old, 1000)
    assert departures.fill(name, new, 999 + FILL_NS) == old
    assert departures.fill(name, new, 999 + FILL_NS) is None
    filled = 999 + FILL_NS
    assert departures.successor(old, filled + BACKUP_NS - 1) == new
    assert departures.successor(old, filled + BACKUP_NS) is None
    assert departures.successor(new, filled) is None
    for number in range(LIMIT + 10):
        departures.leave((Inode(1), b"%d" % number), old, 0)
    assert departures.fill((Inode(1), b"9"), new, 0) is None
    assert departures.fill((Inode(1), b"10"), new, 0) == old


def test_a_lowered_limit_is_applied_to_all_files_in_steps(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgdav.fs.versions.FILES_A_STEP", 3)
    monkeypatch.setattr("tgdav.metadata.pruning.DOTS_AT_ONCE", 2)
    names = [b"file %d" % number for number in range(7)]
    for name in names:
        drive.save(name, b"1", b"22", b"333", b"4444")
    drive.save(b"new", b"55555")
    drive.fs.rename(drive.fs.root, b"new", drive.fs.root, names[0])
    while drive.volume.versions.upkeep():
        pass
    drive.volume.close()
    drive.open(versioning={"max_versions": 1})
    steps = 0
    while drive.volume.versions.upkeep():
        steps += 1
    assert steps == 3
    assert drive.versions(names[0]) == [(4, 4), (5, 5)]
    for name in names[1:]:
        assert drive.versions(name) == [(3, 3), (4, 4)]
    assert not drive.volume.versions.upkeep()


def test_a_volume_without_versioning_keeps_none(drive: Drive) -> None:
    drive.save(b"file", b"1", b"22")
    drive.volume.close()
    drive.open(versioning={"enabled": False})
    drive.save(b"file", b"333")
    assert drive.versions(b"file") == [(3, 3)]


def test_a_copy_over_a_file_keeps_what_it_replaces(drive: Drive) -> None:
    drive.save(b"file", b"1")
    source = drive.save(b"source", b"22")
    drive.clock.advance(MINUTE)
    drive.fs.copy(source, drive.fs.root, b"file", replace=True)
    assert drive.versions(b"file") == [(1, 1), (2, 2)]
    assert drive.fs.trash.items() == []
