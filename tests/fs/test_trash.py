"""The trash of a real volume: list, restore, empty; what is open, what has other names, what a snapshot shows."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fs.direct_access import DirectAccess
from tests.support.platform import ManualClock
from tests.support.volumes import new_vault, open_volume
from tgdav.errors import NotFound, TgdavError
from tgdav.fs.api import Owner
from tgdav.fs.trash import TrashItem
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.platform import Platform
from tgdav.volume.volume import Volume

OWNER = Owner(1000, 100)


class Drive:
    """A volume whose clock stands until it is moved, and short calls."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self._folder, self._sections = folder, sections
        new_vault(folder)
        self.clock = ManualClock()
        self._open()

    def _open(self) -> None:
        system = Platform.system()
        platform = Platform(self.clock, system.entropy, system.disk)
        self.volume: Volume = open_volume(self._folder, platform=platform, **self._sections)
        self.fs = self.volume.fs
        self.access = DirectAccess(self.fs)

    def restart(self) -> None:
        self.volume.close()
        self._open()

    def write(self, path: bytes, data: bytes = b"data") -> Inode:
        self.access.write_file(path.strip(b"/"), data)
        return self.inode(path)

    def read(self, path: bytes) -> bytes:
        return self.access.read_file(path.strip(b"/"))

    def mkdir(self, path: bytes, mode: int = 0o755) -> Inode:
        parent, _, name = path.rpartition(b"/")
        return self.fs.create(self.inode(parent), name, Kind.DIRECTORY, mode, OWNER).inode

    def inode(self, path: bytes) -> Inode:
        return self.fs.resolve([name for name in path.split(b"/") if name]).inode

    def delete(self, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        self.fs.remove_tree(self.inode(parent), name)
        self.clock.advance(1)

    def move(self, path: bytes, to: bytes) -> None:
        (parent, _, name), (above, _, new) = path.rpartition(b"/"), to.rpartition(b"/")
        self.fs.rename(self.inode(parent), name, self.inode(above), new)

    def later(self) -> None:
        """What is made and deleted within a minute does not enter the trash."""
        self.clock.advance(61)

    def items(self) -> list[TrashItem]:
        return self.fs.trash.items()

    def paths(self) -> list[bytes]:
        return [item.path for item in self.items()]

    def blobs(self) -> list[str]:
        return sorted(path.name for path in (self._folder / "store").iterdir())

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with self.volume.database.reading() as connection:
            return connection.all(sql)


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path)
    yield made
    made.volume.close()


def test_what_is_deleted_is_listed_and_comes_back_as_it_was(drive: Drive) -> None:
    inode = drive.write(b"/a.txt", b"twelve bytes")
    drive.fs.set_xattr(inode, b"user.k", b"v")
    drive.fs.set_attributes(inode, AttributeChange(mode=0o640, mtime=1_600_000_000_000_000_000))
    drive.fs.link(inode, drive.fs.root, b"other")
    drive.later()
    drive.delete(b"/a.txt")
    [item] = drive.items()
    assert (item.path, item.bytes, item.deleted) == (b"/a.txt", 12, drive.clock.now_ns() - 10**9)
    assert drive.fs.trash.restore(b"/a.txt") == b"/a.txt"
    assert drive.items() == []
    found = drive.fs.lookup(drive.fs.root, b"a.txt")
    assert (found.inode, found.mode, found.mtime, found.nlink) == (inode, 0o640, 1_600_000_000_000_000_000, 2)
    assert drive.fs.get_xattr(inode, b"user.k") == b"v"
    assert drive.read(b"/a.txt") == b"twelve bytes"


def test_a_directory_comes_back_with_all_below_it(drive: Drive) -> None:
    drive.mkdir(b"/d")
    drive.mkdir(b"/d/e")
    inode = drive.write(b"/d/e/f", b"12345")
    drive.write(b"/d/g", b"1")
    drive.fs.link(inode, drive.inode(b"/d"), b"again")
    drive.later()
    drive.delete(b"/d")
    assert [(item.path, item.bytes) for item in drive.items()] == [(b"/d", 6)]
    assert drive.fs.trash.restore(drive.items()[0].entry.hex().encode()) == b"/d"
    assert drive.read(b"/d/e/f") == b"12345"
    assert drive.fs.attributes(inode).nlink == 2


def test_a_taken_name_gets_another(drive: Drive) -> None:
    for data in (b"first", b"second", b"third"):
        drive.write(b"/a", data)
        drive.later()
        drive.delete(b"/a")
    drive.write(b"/a", b"now")
    assert drive.paths() == [b"/a (restored)"] * 3
    # The newest deleted one of that path.
    assert drive.fs.trash.restore(b"/a") == b"/a (restored)"
    assert drive.read(b"/a (restored)") == b"third"
    assert drive.paths() == [b"/a (restored 2)"] * 2
    assert drive.fs.trash.restore(b"/a") == b"/a (restored 2)"
    assert drive.read(b"/a (restored 2)") == b"second"
    assert drive.read(b"/a") == b"now"


def test_it_goes_below_its_parents_present_path(drive: Drive) -> None:
    drive.mkdir(b"/d")
    drive.write(b"/d/f")
    drive.later()
    drive.delete(b"/d/f")
    drive.mkdir(b"/elsewhere")
    drive.move(b"/d", b"/elsewhere/renamed")
    assert drive.paths() == [b"/elsewhere/renamed/f"]
    assert drive.fs.trash.restore(b"/d/f".replace(b"/d", b"/elsewhere/renamed")) == b"/elsewhere/renamed/f"


def test_parents_that_are_gone_are_made_anew(drive: Drive) -> None:
    drive.mkdir(b"/x", 0o750)
    drive.mkdir(b"/x/y", 0o700)
    drive.write(b"/x/y/f", b"one")
    drive.write(b"/x/y/g", b"two")
    drive.later()
    for path in (b"/x/y/f", b"/x/y/g", b"/x/y", b"/x"):
        drive.delete(path)
    assert drive.paths() == [b"/x", b"/x/y", b"/x/y/g", b"/x/y/f"]
    assert drive.fs.trash.restore(b"/x/y/f") == b"/x/y/f"
    assert drive.fs.attributes(drive.inode(b"/x/y")).mode == 0o700
    assert drive.fs.attributes(drive.inode(b"/x")).mode == 0o750
    assert drive.fs.trash.restore(b"/x/y/g") == b"/x/y/g"
    assert drive.paths() == [b"/x (restored)", b"/x/y (restored)"]
    assert drive.fs.trash.restore(b"/x/y") == b"/x/y (restored)"


def test_a_parent_whose_name_is_a_file_now_gets_another(drive: Drive) -> None:
    drive.mkdir(b"/x")
    drive.write(b"/x/f")
    drive.later()
    drive.delete(b"/x/f")
    drive.delete(b"/x")
    drive.write(b"/x", b"a file")
    assert drive.fs.trash.restore(b"/x/f") == b"/x (restored)/f"
    assert drive.read(b"/x") == b"a file"


def test_the_path_is_known_when_the_parent_was_purged(drive: Drive) -> None:
    drive.mkdir(b"/x")
    drive.mkdir(b"/x/y")
    drive.write(b"/x/y/f")
    drive.later()
    directory = drive.inode(b"/x/y")
    drive.delete(b"/x")
    drive.clock.advance(100)
    # As a program that has the removed directory open can do.
    drive.fs.unlink(directory, b"f")
    assert drive.fs.trash.empty(drive.clock.now_ns() - 50 * 10**9) == 1
    assert drive.rows("SELECT ino FROM nodes WHERE kind = 2 AND ino > 2") == []
    assert drive.paths() == [b"/x/y/f"]
    drive.restart()
    assert drive.fs.trash.restore(b"/x/y/f") == b"/x/y/f"
    # The names are forgotten as soon as nothing in the trash can need them.
    drive.later()
    drive.delete(b"/x")
    drive.fs.trash.empty()
    assert drive.rows("SELECT count(*) FROM tombstones WHERE name IS NOT NULL") == [(0,)]
    assert drive.rows("SELECT count(*) FROM tombstones") == [(4,)]


def test_a_purged_directory_s_id_is_never_used_again(drive: Drive) -> None:
    def node() -> bytes:
        return drive.fs.lookup(drive.fs.root, b"d").node

    drive.mkdir(b"/d")
    first = node()
    drive.later()
    drive.delete(b"/d")
    drive.fs.trash.empty()
    drive.mkdir(b"/d")
    assert node() != first


def test_emptying_removes_the_rows_and_keeps_what_has_other_names(drive: Drive) -> None:
    drive.mkdir(b"/d")
    kept = drive.write(b"/d/kept", b"kept")
    gone = drive.write(b"/d/gone", b"gone")
    drive.fs.set_xattr(gone, b"user.k", b"v")
    drive.fs.link(kept, drive.fs.root, b"link")
    drive.later()
    drive.delete(b"/d")
    assert drive.fs.trash.empty() == 1
    assert drive.items() == []
    assert drive.fs.attributes(kept).nlink == 1
    assert drive.read(b"/link") == b"kept"
    assert drive.rows("SELECT count(*) FROM nodes WHERE ino > 2") == [(1,)]
    assert drive.rows("SELECT count(*) FROM entries") == [(1,)]
    assert drive.rows("SELECT count(*) FROM fields") == [(0,)]
    assert drive.fs.trash.empty() == 0


def test_a_file_goes_with_the_last_of_its_names(drive: Drive) -> None:
    inode = drive.write(b"/one")
    drive.fs.link(inode, drive.fs.root, b"two")
    drive.later()
    drive.delete(b"/one")
    drive.delete(b"/two")
    drive.fs.trash.empty()
    assert drive.rows("SELECT count(*) FROM nodes WHERE ino > 2") == [(0,)]


def test_only_what_is_older_is_purged(drive: Drive) -> None:
    for name in (b"/old", b"/new"):
        drive.write(name)
        drive.later()
        drive.delete(name)
        drive.clock.advance(86_400)
    assert drive.fs.trash.empty(drive.clock.now_ns() - 2 * 86_400 * 10**9) == 1
    assert drive.paths() == [b"/new"]


def test_an_open_file_works_until_it_is_closed(drive: Drive) -> None:
    inode = drive.write(b"/f", b"before")
    drive.later()
    handle = drive.fs.open(inode, writable=True)
    drive.delete(b"/f")
    drive.fs.trash.empty()
    assert handle.read(0, 10) == b"before"
    handle.write(0, b"after!")
    assert drive.fs.attributes(inode).size == 6
    handle.fsync()
    assert handle.read(0, 10) == b"after!"
    handle.close()
    drive.fs.trash.sweep()
    assert drive.rows(f"SELECT count(*) FROM nodes WHERE ino = {inode}") == [(0,)]
    assert drive.rows("SELECT count(*) FROM entries") == [(0,)]


def test_what_expired_is_purged(drive: Drive) -> None:
    for name in (b"/old", b"/new"):
        drive.write(name)
        drive.later()
        drive.delete(name)
        drive.clock.advance(20 * 86_400)
        drive.fs.trash.purge_expired()
    assert drive.paths() == [b"/new"]
    drive.restart()
    drive.clock.advance(11 * 86_400)
    drive.fs.trash.purge_expired()
    assert drive.paths() == []


def test_a_clock_that_goes_years_ahead_does_not_empty_the_trash_at_once(drive: Drive) -> None:
    drive.write(b"/f")
    drive.later()
    drive.delete(b"/f")
    drive.fs.trash.purge_expired()
    drive.clock.set_wall(drive.clock.now_ns() + 3 * 365 * 86_400 * 10**9)
    for hour in range(25):
        # The hour before a restart does not count.
        if hour == 10:
            drive.restart()
        with pytest.raises(TgdavError, match=r"109\d days ahead"):
            drive.fs.trash.purge_expired()
        assert drive.paths() == [b"/f"]
        drive.clock.advance(3600)
    drive.fs.trash.purge_expired()
    assert drive.paths() == []


def test_a_clock_that_comes_back_is_believed_again(drive: Drive) -> None:
    drive.write(b"/f")
    drive.later()
    drive.delete(b"/f")
    drive.fs.trash.purge_expired()
    right = drive.clock.now_ns()
    drive.clock.set_wall(right + 3 * 365 * 86_400 * 10**9)
    with pytest.raises(TgdavError):
        drive.fs.trash.purge_expired()
    drive.clock.set_wall(right)
    drive.fs.trash.purge_expired()
    assert drive.paths() == [b"/f"]


def test_without_a_trash_what_is_deleted_is_gone(tmp_path: Path) -> None:
    drive = Drive(tmp_path, trash={"retention_days": 0})
    drive.mkdir(b"/d")
    inode = drive.write(b"/d/f")
    handle = drive.fs.open(inode)
    drive.later()
    drive.delete(b"/d")
    assert drive.items() == []
    assert handle.read(0, 9) == b"data"
    handle.close()
    drive.fs.trash.sweep()
    assert drive.rows("SELECT count(*) FROM nodes WHERE ino > 2") == [(0,)]
    drive.volume.close()


# ---- made and deleted within a minute ------------------------------------------------------------------------------


def test_what_is_made_and_deleted_within_a_minute_leaves_no_trace(drive: Drive) -> None:
    drive.volume.sync()
    before = drive.rows("SELECT count(*), coalesce(max(sequence), 0) FROM log")
    drive.write(b"/tmp", b"")
    drive.mkdir(b"/d")
    drive.write(b"/d/below", b"")
    drive.move(b"/tmp", b"/d/moved")
    drive.clock.advance(30)
    drive.delete(b"/d")
    assert drive.items() == []
    drive.fs.trash.sweep()
    assert drive.rows("SELECT count(*) FROM nodes WHERE ino > 2") == [(0,)]
    blobs = drive.blobs()
    drive.volume.sync()
    assert drive.rows("SELECT count(*) FROM tombstones") == [(0,)]
    assert drive.volume.pending()["operations"] == 0
    assert drive.blobs() == blobs
    assert drive.rows("SELECT count(*) FROM log") == [(1,)]
    drive.restart()
    drive.write(b"/later", b"")
    # The numbers go on where they were.
    [(first,)] = drive.rows("SELECT max(sequence) FROM log")
    assert isinstance(first, int)
    assert first > before[0][1] + 6  # type: ignore[operator]
    drive.volume.sync()
    assert len(drive.blobs()) > len(blobs)


@pytest.mark.parametrize("size", [100, 20_000, 3_000_000])
def test_its_content_is_not_sent_either(drive: Drive, size: int) -> None:
    data = os.urandom(size)
    drive.write(b"/kept", b"kept" * 100)
    drive.volume.sync(wait=True)
    blobs = drive.blobs()
    drive.write(b"/tmp", data)
    drive.write(b"/again", data)
    drive.delete(b"/tmp")
    drive.delete(b"/again")
    drive.volume.sync(wait=True)
    assert drive.blobs() == blobs
    assert drive.volume.pending() == {"bytes": 0, "operations": 0}
    assert drive.rows("SELECT count(*) FROM chunks") == [(1,)]
    assert drive.rows("SELECT count(*) FROM packs") == [(1,)]
    # What else has the content, also in part, keeps it.
    drive.write(b"/tmp", data)
    drive.write(b"/saved", data)
    drive.delete(b"/tmp")
    drive.volume.sync(wait=True)
    assert drive.volume.check(read_data=100)["ok"]
    assert drive.read(b"/saved") == data
    drive.restart()
    assert drive.read(b"/saved") == data


def test_junk_with_the_same_content_keeps_it(drive: Drive) -> None:
    data = os.urandom(5000)
    drive.write(b"/tmp", data)
    drive.write(b"/.DS_Store", data)
    drive.delete(b"/tmp")
    drive.volume.sync(wait=True)
    assert drive.read(b"/.DS_Store") == data


@pytest.mark.parametrize("reason", ["older", "sent", "snapshot", "saved over another"])
def test_what_is_older_or_sent_or_in_a_snapshot_goes_to_the_trash(drive: Drive, reason: str) -> None:
    if reason == "saved over another":
        drive.write(b"/f", b"the text of years")
        drive.later()
        drive.write(b"/new", b"text")
        drive.move(b"/new", b"/f")
    else:
        drive.write(b"/f")
    if reason == "older":
        drive.clock.advance(60)
    elif reason == "sent":
        drive.volume.sync()
    elif reason == "snapshot":
        drive.volume.make_snapshot("one")
    drive.delete(b"/f")
    assert b"/f" in drive.paths()


def test_a_new_directory_is_kept_for_what_was_in_it(drive: Drive) -> None:
    drive.write(b"/old")
    drive.later()
    drive.mkdir(b"/d")
    drive.move(b"/old", b"/d/old")
    drive.delete(b"/d/old")
    drive.delete(b"/d")
    assert drive.paths() == [b"/d", b"/d/old"]
    drive.mkdir(b"/e")
    drive.fs.trash.restore(b"/d/old")
    drive.move(b"/d/old", b"/e/old")
    drive.delete(b"/e")
    assert drive.paths()[0] == b"/e"
    assert drive.fs.trash.restore(b"/e") == b"/e"
    assert drive.read(b"/e/old") == b"data"


def test_other_machines_see_the_same(drive: Drive, tmp_path: Path) -> None:
    drive.mkdir(b"/d")
    drive.write(b"/d/kept")
    drive.write(b"/d/tmp")
    drive.delete(b"/d/tmp")
    drive.write(b"/tmp")
    drive.fs.link(drive.inode(b"/tmp"), drive.fs.root, b"link")
    drive.delete(b"/tmp")
    drive.write(b"/purged", b"12")
    drive.later()
    drive.delete(b"/purged")
    drive.fs.trash.empty()
    assert drive.rows("SELECT count(*) FROM entries WHERE parent = 0") == [(0,)]
    drive.volume.sync(wait=True)
    assert drive.volume.check(drill=True)["ok"]


def test_an_open_temporary_file_works_after_it_was_deleted(drive: Drive) -> None:
    inode = drive.fs.create(drive.fs.root, b"tmp", Kind.FILE, 0o600, OWNER).inode
    handle = drive.fs.open(inode, writable=True)
    drive.delete(b"/tmp")
    handle.write(0, b"x" * 100_000)
    drive.volume.sync()
    drive.fs.trash.sweep()
    handle.write(5, b"y")
    assert handle.read(4, 3) == b"xyx"
    handle.fsync()
    assert drive.fs.attributes(inode).size == 100_000
    handle.close()
    drive.fs.trash.sweep()
    assert drive.rows("SELECT count(*) FROM nodes WHERE ino > 2") == [(0,)]


def test_nothing_is_restored_that_is_not_there(drive: Drive) -> None:
    for wanted in (b"/a", b"0" * 32, b"/", b""):
        with pytest.raises(NotFound):
            drive.fs.trash.restore(wanted)
