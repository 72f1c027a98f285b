"""The trash of a real volume: list, restore, empty; what is open, what has other names, what a snapshot shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs.direct_access import DirectAccess
from tests.support.platform import ManualClock
from tests.support.volumes import new_vault, open_volume
from tgdav.errors import NotFound
from tgdav.fs.api import Owner
from tgdav.fs.trash import TrashItem
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.platform import Platform
from tgdav.volume.volume import Volume

OWNER = Owner(1000, 100)


class Drive:
    """A volume whose clock stands until it is moved, and short calls."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        new_vault(folder)
        self.clock = ManualClock()
        self._open()

    def _open(self) -> None:
        system = Platform.system()
        self.volume: Volume = open_volume(self._folder, platform=Platform(self.clock, system.entropy, system.disk))
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


def test_nothing_is_restored_that_is_not_there(drive: Drive) -> None:
    for wanted in (b"/a", b"0" * 32, b"/", b""):
        with pytest.raises(NotFound):
            drive.fs.trash.restore(wanted)
