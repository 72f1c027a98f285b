"""``/.snapshots``, ``/.versions`` and ``/.trash``, by the calls of the file system."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fs.direct_access import OWNER, DirectAccess
from tests.support.volumes import VolumeSubject
from tgdav.errors import FileSystemError, InvalidArgument, IsADirectory, NoAttribute, NotADirectory, NotFound, ReadOnly
from tgdav.fs.api import HISTORY_INODES, FileSystem, RenameFlag
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Attributes, Kind, listed

BIG = 300_000
TODAY = re.compile(rb"\d{4}-\d\d-\d\d\Z")


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[VolumeSubject]:
    made = VolumeSubject(tmp_path)
    yield made
    made.close()


@pytest.fixture
def fs(subject: VolumeSubject) -> NamespaceFileSystem:
    return subject.fs


@pytest.fixture
def access(fs: NamespaceFileSystem) -> DirectAccess:
    return DirectAccess(fs, normalized=True)


def burst_is_over(subject: VolumeSubject) -> None:
    """Let the burst of saves end: the next one makes a version."""
    subject.volume.database.writer.run(lambda t: t.execute("UPDATE nodes SET burst = burst - 10000000000"))


# ---- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_browsed_as_it_was(subject: VolumeSubject, access: DirectAccess) -> None:
    access.mkdir(b"d")
    access.write_file(b"d/f", b"one")
    access.write_file(b"d/big", bytes(range(250)) * (BIG // 250))
    access.symlink(b"target", b"d/link")
    access.link(b"d/f", b"hard")
    access.set_attributes(b"d/f", AttributeChange(mode=0o640, uid=7, gid=8, mtime=5_000_000_001))
    access.set_xattr(b"d/f", b"user.colour", b"red")
    access.set_properties(b"d/f", {b"{ns}p": b"<p/>"})
    before = {path: access.status(path) for path in (b"", b"d", b"d/f", b"d/big", b"d/link", b"hard")}
    subject.volume.snapshots.make("first")
    access.write_file(b"d/f", b"two, longer")
    access.set_xattr(b"d/f", b"user.colour", b"blue")
    access.set_properties(b"d/f", {b"{ns}p": None})
    access.unlink(b"hard")
    access.unlink(b"d/link")
    access.rename(b"d", b"e")
    access.mkdir(b"d")
    access.remove_tree(b"e")
    top = b".snapshots/first"
    assert access.listdir(b".snapshots") == [b"first"]
    assert access.listdir(top) == [b"d", b"hard"]
    assert access.listdir(top + b"/d") == [b"big", b"f", b"link"]
    assert access.read_file(top + b"/d/f") == access.read_file(top + b"/hard") == b"one"
    assert access.read_range(top + b"/d/big", 100_000, 500) == (bytes(range(250)) * 2)
    assert access.readlink(top + b"/d/link") == b"target"
    assert access.get_xattr(top + b"/d/f", b"user.colour") == b"red"
    assert access.list_xattrs(top + b"/d/f") == [b"user.colour"]
    assert access.properties(top + b"/d/f") == {b"{ns}p": b"<p/>"}
    for path, was in before.items():
        shown = access.status(top + b"/" + path if path else top)
        assert shown.identity >= HISTORY_INODES
        same = {"identity": was.identity, "atime": was.atime}
        assert shown.__class__(**{**vars(shown), **same}) == was
    subject.restart()
    assert DirectAccess(subject.fs).read_file(top + b"/d/f") == b"one"


def test_names_are_found_as_in_the_live_tree(subject: VolumeSubject, access: DirectAccess) -> None:
    access.write_file("é".encode(), b"composed")
    subject.volume.snapshots.make("first")
    access.unlink("é".encode())
    assert access.read_file(b".snapshots/first/" + "e\u0301".encode()) == b"composed"
    with pytest.raises(NotFound):
        DirectAccess(subject.fs).read_file(b".snapshots/first/" + "e\u0301".encode())


def test_snapshots_come_and_go(subject: VolumeSubject, access: DirectAccess) -> None:
    assert access.listdir(b".snapshots") == []
    access.write_file(b"f", b"one")
    subject.volume.snapshots.make("a")
    access.write_file(b"f", b"two")
    subject.volume.snapshots.make("b")
    assert access.listdir(b".snapshots") == [b"a", b"b"]
    root = subject.fs.history.snapshot("a")
    node = subject.fs.history.resolve([b"f"], start=root.inode)
    handle = subject.fs.open(node.inode)
    assert handle.read(0, 10) == b"one"
    subject.volume.snapshots.delete("a")
    while subject.volume.snapshots.upkeep():
        pass
    assert access.listdir(b".snapshots") == [b"b"]
    assert handle.read(0, 10) == b"one"
    handle.close()
    for gone in (root.inode, node.inode):
        with pytest.raises(NotFound, match="deleted"):
            subject.fs.attributes(gone)
    with pytest.raises(NotFound, match="no snapshot 'a'"):
        subject.fs.history.snapshot("a")
    assert access.read_file(b".snapshots/b/f") == b"two"


def test_inode_numbers_are_distinct_and_stay(subject: VolumeSubject, access: DirectAccess) -> None:
    access.write_file(b"f", b"one")
    access.write_file(b"g", b"two")
    access.mkdir(b"d")
    subject.volume.snapshots.make("a")
    subject.volume.snapshots.make("b")
    access.unlink(b"g")

    def numbers() -> list[Inode]:
        return [node.inode for _, node in everything(subject.fs)]

    first = numbers()
    assert len(set(first)) == len(first) >= 15
    assert all(HISTORY_INODES <= each < 2**63 for each in first)
    access.write_file(b"h", b"new")
    assert set(first) <= set(numbers())


def everything(fs: NamespaceFileSystem) -> Iterator[tuple[bytes, Attributes]]:
    """Yield (path, attributes) for all of history, each checked in every way that leads to it."""
    waiting = [(name, fs.lookup(fs.root, name)) for name in (b".snapshots", b".versions", b".trash")]
    while waiting:
        path, node = waiting.pop()
        assert fs.attributes(node.inode) == fs.resolve(path.split(b"/")) == node
        yield path, node
        if not node.is_directory:
            with pytest.raises(NotADirectory):
                fs.lookup(node.inode, b"x")
            continue
        briefly = {each.name: each for each in fs.list_briefly(node.inode)}
        for entry in fs.list_directory(node.inode):
            assert fs.lookup(node.inode, entry.name) == entry.attributes
            assert briefly[entry.name] == listed(entry.name, entry.attributes)
            if entry.attributes.is_directory:
                assert fs.parent(entry.attributes.inode) == node.inode
            waiting.append((path + b"/" + entry.name, entry.attributes))
        with pytest.raises(NotFound):
            fs.lookup(node.inode, b"none")
        with pytest.raises(IsADirectory):
            fs.open(node.inode)


# ---- versions --------------------------------------------------------------------------------------------------------


def test_versions_of_a_file(subject: VolumeSubject, access: DirectAccess) -> None:
    access.mkdir(b"d")
    access.write_file(b"d/f", b"one")
    access.set_attributes(b"d/f", AttributeChange(mtime=1_700_000_000_000_000_000))
    burst_is_over(subject)
    access.write_file(b"d/f", b"two!")
    assert access.listdir(b".versions/d") == [b"f"]
    names = access.listdir(b".versions/d/f")
    assert [re.fullmatch(rb"\d-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", name) is not None for name in names] == [True, True]
    first, second = (b".versions/d/f/" + name for name in names)
    assert (names[0][:2], names[1][:2]) == (b"1-", b"2-")
    assert (access.read_file(first), access.read_file(second)) == (b"one", b"two!")
    status = access.status(first)
    assert (status.size, status.mtime, status.kind, status.nlink) == (3, 1_700_000_000_000_000_000, Kind.FILE, 1)
    live = access.status(b"d/f")
    assert (access.status(second).mtime, access.status(second).mode) == (live.mtime, live.mode)
    inode = subject.fs.resolve([b"d", b"f"]).inode
    assert subject.fs.history.version(inode, 1).size == 3
    with pytest.raises(NotFound, match="no version 9"):
        subject.fs.history.version(inode, 9)
    with pytest.raises(NotFound):
        access.status(b".versions/d/f/1-2000-01-01T00-00-00Z")
    access.symlink(b"t", b"d/link")
    assert access.listdir(b".versions/d") == [b"f"]


# ---- trash -----------------------------------------------------------------------------------------------------------


def test_deleted_entries_are_in_the_trash_by_day(subject: VolumeSubject, access: DirectAccess) -> None:
    assert access.listdir(b".trash") == []
    assert access.status(b".trash").mode == 0o700
    access.mkdir(b"d")
    access.write_file(b"d/f", b"one")
    access.set_xattr(b"d/f", b"user.x", b"1")
    access.write_file(b"f", b"two")
    subject.volume.sync()  # what never left the machine may leave no trace
    access.remove_tree(b"d")
    access.unlink(b"f")
    access.write_file(b"f", b"three")
    subject.volume.sync()
    access.unlink(b"f")
    [day] = access.listdir(b".trash")
    assert TODAY.match(day)
    path = b".trash/" + day
    assert access.listdir(path) == [b"d", b"f", b"f (2)"]
    assert access.listdir(path + b"/d") == [b"f"]
    assert access.read_file(path + b"/d/f") == b"one"
    assert access.get_xattr(path + b"/d/f", b"user.x") == b"1"
    assert (access.read_file(path + b"/f"), access.read_file(path + b"/f (2)")) == (b"two", b"three")
    assert access.status(path + b"/f").nlink == 1
    for missing in (b".trash/2000-01-01", b".trash/now", path + b"/g"):
        with pytest.raises(NotFound):
            access.status(missing)
    assert [path for path, _ in everything(subject.fs)]


# ---- not listed, not changed -----------------------------------------------------------------------------------------


def test_the_root_does_not_list_them(subject: VolumeSubject, access: DirectAccess) -> None:
    access.write_file(b"f", b"")
    assert access.listdir(b"") == [b"f"]
    assert [each.name for each in subject.fs.list_briefly(subject.fs.root)] == [b"f"]
    for name in (b".snapshots", b".versions", b".trash"):
        assert access.status(name).kind == Kind.DIRECTORY
        with pytest.raises(NotFound):
            access.status(name + b"/none")
        access.mkdir(b"d" + name)
        with pytest.raises(NotFound):
            access.status(b"d" + name + name)


def _changes(fs: NamespaceFileSystem, directory: Inode, name: bytes, file: Inode) -> dict[str, Callable[[], object]]:
    """Return a call of every method that changes something, on history, from it or into it."""
    live = fs.root
    return {
        "create": lambda: fs.create(directory, b"new", Kind.FILE, 0o644, OWNER),
        "link into": lambda: fs.link(fs.lookup(live, b"live").inode, directory, b"new"),
        "link out of": lambda: fs.link(file, live, b"new"),
        "unlink": lambda: fs.unlink(directory, name),
        "remove_directory": lambda: fs.remove_directory(directory, name),
        "remove_tree": lambda: fs.remove_tree(directory, name),
        "rename out of": lambda: fs.rename(directory, name, live, b"new"),
        "rename into": lambda: fs.rename(live, b"live", directory, b"new"),
        "exchange": lambda: fs.rename(live, b"live", directory, name, flags=RenameFlag.EXCHANGE),
        "copy into": lambda: fs.copy(fs.lookup(live, b"live").inode, directory, b"new"),
        "set_attributes": lambda: fs.set_attributes(file, AttributeChange(mode=0)),
        "truncate": lambda: fs.set_attributes(file, AttributeChange(size=0)),
        "set_xattr": lambda: fs.set_xattr(file, b"user.x", b""),
        "remove_xattr": lambda: fs.remove_xattr(file, b"user.x"),
        "set_properties": lambda: fs.set_properties(file, {b"{n}p": b""}),
        "open to write": lambda: fs.open(file, writable=True),
        "open empty": lambda: fs.open(file, truncate=True),
        "upload": lambda: fs.upload(directory, name, owner=OWNER),
        "write": lambda: fs.open(file).write(0, b"x"),
        "write_nowait": lambda: fs.open(file).write_nowait(0, b"x"),
        "handle truncate": lambda: fs.open(file).truncate(0),
    }


@pytest.mark.parametrize("top", [b".snapshots", b".versions", b".trash"])
def test_every_change_is_refused(subject: VolumeSubject, access: DirectAccess, top: bytes) -> None:
    fs = subject.fs
    access.write_file(b"live", b"1")
    access.write_file(b"gone", b"2")
    access.mkdir(b"d")
    subject.volume.snapshots.make("a")
    subject.volume.sync()
    access.unlink(b"gone")
    seen = list(everything(fs))
    files = [(path, node) for path, node in seen if path.startswith(top) and node.is_file]
    path, node = files[0]
    above = fs.resolve(path.split(b"/")[:-1]).inode
    for what, call in _changes(fs, above, path.split(b"/")[-1], node.inode).items():
        with pytest.raises(ReadOnly, match="history") as caught:
            call()
        assert caught.type is ReadOnly, what
    for what in (fs.unlink, fs.remove_directory, fs.remove_tree):
        with pytest.raises(ReadOnly):
            what(fs.root, top)
    with pytest.raises(ReadOnly):
        fs.rename(fs.root, top, fs.root, b"x")
    with pytest.raises(FileSystemError):
        fs.rename(fs.root, b"live", fs.root, top)
    assert list(everything(fs)) == seen


def test_every_method_that_changes_is_in_the_table() -> None:
    reading = """root lookup resolve attributes list_directory list_briefly parent read_link capacity allocated
        upload_state get_xattr list_xattrs properties sync load_locks save_lock delete_lock open"""
    changing = {name for name in vars(FileSystem) if not name.startswith("_")} - set(reading.split())
    assert changing == {
        *("create", "link", "unlink", "remove_directory", "remove_tree", "rename", "copy"),
        *("set_attributes", "set_xattr", "remove_xattr", "set_properties", "upload"),
    }


# ---- reading and copying ---------------------------------------------------------------------------------------------


def test_calls_that_read(subject: VolumeSubject, access: DirectAccess) -> None:
    fs = subject.fs
    access.write_file(b"f", bytes(BIG))
    access.symlink(b"t", b"l")
    subject.volume.snapshots.make("a")
    file, link = (fs.resolve([b".snapshots", b"a", name]) for name in (b"f", b"l"))
    assert fs.allocated(file) >= BIG
    assert fs.allocated(link) == 0
    assert fs.upload_state(file.inode) == "local"
    subject.volume.sync(wait=True)
    assert fs.upload_state(file.inode) == "stored"
    handle = fs.open(file.inode)
    assert handle.keep_content() == file.tag
    assert handle.is_here()
    with pytest.raises(InvalidArgument):
        handle.read(-1, 1)
    assert handle.read(BIG - 2, 10) == b"\0\0"
    handle.fsync()
    handle.flush()
    assert handle.flush_later()
    assert handle.close_nowait()
    with pytest.raises(FileSystemError):
        handle.read(0, 1)
    for call in (lambda: fs.open(link.inode), lambda: fs.read_link(file.inode)):
        with pytest.raises(InvalidArgument):
            call()
    with pytest.raises(NoAttribute):
        fs.get_xattr(file.inode, b"user.none")
    assert fs.properties([file.inode, link.inode]) == {}
    for unknown in (HISTORY_INODES - 1, HISTORY_INODES + 7, file.inode + 1000, 2**62, 2**63 - 1):
        with pytest.raises(NotFound):
            fs.attributes(Inode(unknown))


def test_copies_out_of_history_move_no_data(subject: VolumeSubject, access: DirectAccess) -> None:
    access.mkdir(b"d")
    access.mkdir(b"d/e")
    access.write_file(b"d/e/f", bytes(range(250)) * (BIG // 250))
    access.set_attributes(b"d/e/f", AttributeChange(mtime=5))
    access.set_xattr(b"d/e/f", b"user.x", b"1")
    access.symlink(b"t", b"d/l")
    subject.volume.snapshots.make("a")
    subject.volume.sync(wait=True)
    access.remove_tree(b"d")
    [day] = access.listdir(b".trash")
    pending = subject.volume.pending()["bytes"]
    for source in (b".snapshots/a/d", b".trash/" + day + b"/d"):
        access.copy(source, b"back", replace=True)
        assert access.listdir(b"back") == [b"e", b"l"]
        assert access.read_file(b"back/e/f") == bytes(range(250)) * (BIG // 250)
        assert (access.status(b"back/e/f").mtime, access.get_xattr(b"back/e/f", b"user.x")) == (5, b"1")
        assert access.readlink(b"back/l") == b"t"
        access.write_file(b"back/e/f", b"new")
    assert subject.volume.pending()["bytes"] - pending < 1000
    [present] = access.listdir(b".versions/back/e/f")
    access.copy(b".versions/back/e/f/" + present, b"one")
    assert access.read_file(b"one") == b"new"
    access.copy(b".versions/back", b"all")
    assert access.listdir(b"all/e/f") == [present]
