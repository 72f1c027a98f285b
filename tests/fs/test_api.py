"""What only the file system's own calls show: conditions, uploads, odd names, many nodes at once, locks."""

import pytest

from tests.fs.direct_access import DirectAccess
from tests.support.waiting import wait_for
from tgdav.errors import Exists, FileSystemError, InvalidArgument, IsADirectory, NotADirectory, NotFound
from tgdav.fs.api import FileSystem, LockRecord, Owner, RenameFlag
from tgdav.ids import Inode
from tgdav.metadata.types import AttributeChange, Attributes, Kind

OWNER = Owner(1000, 100)
NFC, NFD = "é".encode(), "e\u0301".encode()
FAR_FUTURE = 2**62


class RefusedError(Exception):
    """What a test's precondition raises."""


class Seen:
    """A precondition that records its argument, and refuses if it must."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.shown: list[Attributes | None] = []
        self.refuses = refuses

    def __call__(self, before: Attributes | None) -> None:
        self.shown.append(before)
        if self.refuses:
            raise RefusedError


@pytest.fixture
def access(filesystem: FileSystem) -> DirectAccess:
    return DirectAccess(filesystem)


def names(filesystem: FileSystem) -> list[bytes]:
    return [entry.name for entry in filesystem.list_directory(filesystem.root)]


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0b"])
def test_what_is_no_name_is_refused(filesystem: FileSystem, name: bytes) -> None:
    root = filesystem.root
    file = filesystem.create(root, b"file", Kind.FILE, 0o644, OWNER)
    with pytest.raises(InvalidArgument):
        filesystem.create(root, name, Kind.FILE, 0o644, OWNER)
    with pytest.raises(InvalidArgument):
        filesystem.rename(root, b"file", root, name)
    with pytest.raises(InvalidArgument):
        filesystem.link(file.inode, root, name)
    with pytest.raises(InvalidArgument):
        filesystem.copy(file.inode, root, name)
    with pytest.raises(InvalidArgument):
        filesystem.upload(root, name, owner=OWNER)
    assert names(filesystem) == [b"file"]


def test_created_attributes_are_as_asked(filesystem: FileSystem) -> None:
    made = filesystem.create(filesystem.root, b"file", Kind.FILE, 0o640, OWNER)
    assert (made.kind, made.mode, made.uid, made.gid, made.size, made.nlink) == (Kind.FILE, 0o640, 1000, 100, 0, 1)
    assert filesystem.lookup(filesystem.root, b"file") == made == filesystem.attributes(made.inode)


def test_an_unknown_inode_is_not_found(filesystem: FileSystem) -> None:
    with pytest.raises(NotFound):
        filesystem.attributes(Inode(10**9))
    with pytest.raises(NotFound):
        filesystem.create(Inode(10**9), b"name", Kind.FILE, 0o644, OWNER)


def test_parents_are_known(filesystem: FileSystem) -> None:
    one = filesystem.create(filesystem.root, b"one", Kind.DIRECTORY, 0o755, OWNER).inode
    two = filesystem.create(one, b"two", Kind.DIRECTORY, 0o755, OWNER).inode
    assert (filesystem.parent(two), filesystem.parent(one)) == (one, filesystem.root)
    assert filesystem.parent(filesystem.root) == filesystem.root
    filesystem.rename(one, b"two", filesystem.root, b"two")
    assert filesystem.parent(two) == filesystem.root


def test_nothing_is_made_in_a_removed_folder(filesystem: FileSystem) -> None:
    folder = filesystem.create(filesystem.root, b"folder", Kind.DIRECTORY, 0o755, OWNER).inode
    filesystem.remove_directory(filesystem.root, b"folder")
    with pytest.raises(NotFound):
        filesystem.create(folder, b"file", Kind.FILE, 0o644, OWNER)


def test_bytes_win_over_unicode_in_lookups(filesystem: FileSystem) -> None:
    decomposed = filesystem.create(filesystem.root, NFD, Kind.FILE, 0o644, OWNER).inode
    composed = filesystem.create(filesystem.root, NFC, Kind.FILE, 0o644, OWNER).inode
    assert filesystem.lookup(filesystem.root, NFC, normalized=True).inode == composed
    assert filesystem.lookup(filesystem.root, NFD, normalized=True).inode == decomposed


def test_the_earliest_of_unicode_twins_is_found(filesystem: FileSystem) -> None:
    # Three spellings of o with circumflex and dot below; the one looked up is none of the two there.
    twins = ["o\u0323\u0302".encode(), "ọ\u0302".encode(), "ộ".encode()]
    first = filesystem.create(filesystem.root, twins[1], Kind.FILE, 0o644, OWNER).inode
    filesystem.create(filesystem.root, twins[0], Kind.FILE, 0o644, OWNER)
    assert filesystem.lookup(filesystem.root, twins[2], normalized=True).inode == first
    assert filesystem.resolve([twins[2]], normalized=True).inode == first


def test_an_upload_shows_nothing_before_its_commit(filesystem: FileSystem, access: DirectAccess) -> None:
    access.write_file(b"file", b"before")
    for name in (b"file", b"new"):
        upload = filesystem.upload(filesystem.root, name, owner=OWNER)
        upload.write(b"never")
        assert (names(filesystem), access.read_file(b"file")) == ([b"file"], b"before")
        upload.abort()
        upload.abort()
    assert (names(filesystem), access.read_file(b"file")) == ([b"file"], b"before")


def test_leaving_an_upload_aborts_it(filesystem: FileSystem) -> None:
    def leave_early() -> None:
        with filesystem.upload(filesystem.root, b"new", owner=OWNER) as upload:
            upload.write(b"never")
            raise RefusedError

    with pytest.raises(RefusedError):
        leave_early()
    assert names(filesystem) == []


def test_an_upload_takes_parts_and_attributes(filesystem: FileSystem, access: DirectAccess) -> None:
    with filesystem.upload(filesystem.root, b"file", owner=OWNER, mode=0o600) as upload:
        for part in (b"bytes ", bytearray(b"and "), memoryview(b"a view")):
            upload.write(part)
        made, created = upload.commit(
            mtime=10**9, btime=10**8, properties=lambda _: {b"colour": b"blue", b"absent": None}
        )
    assert (created, made.size, made.mode, made.uid, made.mtime, made.btime) == (True, 16, 0o600, 1000, 10**9, 10**8)
    assert access.read_file(b"file") == b"bytes and a view"
    assert access.properties(b"file") == {b"colour": b"blue"}


def test_an_upload_over_a_file_keeps_its_identity(filesystem: FileSystem) -> None:
    before = filesystem.create(filesystem.root, b"file", Kind.FILE, 0o600, OWNER)
    with filesystem.upload(filesystem.root, b"file", owner=Owner(1, 2), mode=0o644) as upload:
        after, created = upload.commit()
    assert (created, after.inode, after.mode, after.uid) == (False, before.inode, 0o600, 1000)
    assert after.btime == before.btime


def test_an_upload_into_a_removed_folder_is_refused(filesystem: FileSystem) -> None:
    folder = filesystem.create(filesystem.root, b"folder", Kind.DIRECTORY, 0o755, OWNER).inode
    with filesystem.upload(folder, b"file", owner=OWNER) as upload:
        upload.write(b"never")
        filesystem.remove_tree(filesystem.root, b"folder")
        with pytest.raises(NotFound):
            upload.commit()


def test_an_upload_over_a_folder_made_meanwhile_is_refused(filesystem: FileSystem) -> None:
    with filesystem.upload(filesystem.root, b"name", owner=OWNER) as upload:
        filesystem.create(filesystem.root, b"name", Kind.DIRECTORY, 0o755, OWNER)
        with pytest.raises(IsADirectory):
            upload.commit()
    with pytest.raises(IsADirectory):
        filesystem.upload(filesystem.root, b"name", owner=OWNER)


def test_an_upload_into_a_file_is_refused(filesystem: FileSystem) -> None:
    file = filesystem.create(filesystem.root, b"file", Kind.FILE, 0o644, OWNER).inode
    with pytest.raises(NotADirectory):
        filesystem.upload(file, b"name", owner=OWNER)


def test_an_open_file_survives_being_replaced_whole(filesystem: FileSystem, access: DirectAccess) -> None:
    access.write_file(b"file", b"before")
    filesystem.create(filesystem.root, b"other", Kind.FILE, 0o644, OWNER)
    handle = filesystem.open(filesystem.lookup(filesystem.root, b"file").inode, writable=True)
    filesystem.remove_tree(filesystem.root, b"file")
    assert handle.read(0, 100) == b"before"
    assert filesystem.attributes(handle.inode).nlink == 0
    handle.close()
    with pytest.raises(NotFound):
        filesystem.attributes(handle.inode)


def test_an_upload_asks_its_precondition(filesystem: FileSystem, access: DirectAccess) -> None:
    for refuses in (True, False):
        seen = Seen(refuses=refuses)
        with filesystem.upload(filesystem.root, b"file", owner=OWNER) as upload:
            upload.write(b"content")
            if refuses:
                with pytest.raises(RefusedError):
                    upload.commit(precondition=seen)
            else:
                upload.commit(precondition=seen)
        assert seen.shown == [None]
    seen = Seen(refuses=True)
    before = filesystem.lookup(filesystem.root, b"file")
    with filesystem.upload(filesystem.root, b"file", owner=OWNER) as upload, pytest.raises(RefusedError):
        upload.commit(precondition=seen)
    assert seen.shown == [before]
    assert access.read_file(b"file") == b"content"


def test_changes_of_trees_ask_their_preconditions(filesystem: FileSystem, access: DirectAccess) -> None:
    root = filesystem.root
    access.write_file(b"one", b"1")
    access.write_file(b"two", b"2")
    one, two = (filesystem.lookup(root, name) for name in (b"one", b"two"))
    seen = Seen(refuses=True)
    with pytest.raises(RefusedError):
        filesystem.rename(root, b"one", root, b"two", replace_tree=True, precondition=seen)
    with pytest.raises(RefusedError):
        filesystem.copy(one.inode, root, b"two", replace=True, precondition=seen)
    with pytest.raises(RefusedError):
        filesystem.copy(one.inode, root, b"three", precondition=seen)
    with pytest.raises(RefusedError):
        filesystem.remove_tree(root, b"one", precondition=seen)
    assert seen.shown == [two, two, None, one]
    assert (access.read_file(b"one"), access.read_file(b"two"), names(filesystem)) == (b"1", b"2", [b"one", b"two"])


def test_a_rename_says_whether_it_replaced(filesystem: FileSystem, access: DirectAccess) -> None:
    root = filesystem.root
    access.write_file(b"one", b"")
    access.write_file(b"two", b"")
    assert filesystem.rename(root, b"one", root, b"two") is True
    assert filesystem.rename(root, b"two", root, b"three", flags=RenameFlag.NO_REPLACE) is False


def test_properties_of_many_nodes_come_at_once(filesystem: FileSystem, access: DirectAccess) -> None:
    inodes = [filesystem.create(filesystem.root, b"%d" % n, Kind.FILE, 0o644, OWNER).inode for n in range(5)]
    for inode in inodes[:2]:
        filesystem.set_properties(inode, {b"number": b"%d" % inode})
    expected = {inode: {b"number": b"%d" % inode} for inode in inodes[:2]}
    assert filesystem.properties([*inodes, Inode(10**9)]) == expected
    assert filesystem.properties([]) == {}


def test_properties_and_attributes_are_set_as_one(filesystem: FileSystem) -> None:
    inode = filesystem.create(filesystem.root, b"folder", Kind.DIRECTORY, 0o755, OWNER).inode
    filesystem.set_properties(inode, {b"a": b"1"}, attributes=AttributeChange(mtime=5, btime=3))
    assert (filesystem.attributes(inode).mtime, filesystem.attributes(inode).btime) == (5, 3)
    with pytest.raises(FileSystemError):
        filesystem.set_properties(inode, {b"a": b"2"}, attributes=AttributeChange(size=0))
    assert filesystem.properties([inode]) == {inode: {b"a": b"1"}}


def test_a_dirty_file_says_so_until_it_is_closed(filesystem: FileSystem, access: DirectAccess) -> None:
    access.write_file(b"file", b"content")
    inode = filesystem.lookup(filesystem.root, b"file").inode
    assert filesystem.attributes(inode).dirty == 0
    handle = filesystem.open(inode, writable=True)
    marks = set()
    for _ in range(3):
        handle.write(0, b"C")
        marks.add((filesystem.attributes(inode).tag, filesystem.attributes(inode).dirty))
    handle.close()
    marks.add((filesystem.attributes(inode).tag, filesystem.attributes(inode).dirty))
    assert len(marks) == 4


def test_capacity_counts(filesystem: FileSystem, access: DirectAccess) -> None:
    before = filesystem.capacity()
    access.write_file(b"file", bytes(100))
    # What took long to count is not counted anew at once.
    after = wait_for(
        lambda: (now := filesystem.capacity()).files != before.files and now, what="the count", deadline=60
    )
    assert after.total >= after.free > 0
    assert after.files == before.files + 1


def test_a_new_file_is_somewhere(filesystem: FileSystem, access: DirectAccess) -> None:
    access.write_file(b"file", b"content")
    inode = filesystem.lookup(filesystem.root, b"file").inode
    assert filesystem.upload_state(inode) in ("local", "uploading", "stored")


def test_locks_are_kept_replaced_and_forgotten(filesystem: FileSystem) -> None:
    one, two = (LockRecord(token, filesystem.root, FAR_FUTURE, b"data") for token in ("one", "two"))
    for record in (one, two):
        filesystem.save_lock(record)
    newer = LockRecord("one", filesystem.root, FAR_FUTURE + 1, b"newer")
    filesystem.save_lock(newer)
    filesystem.delete_lock("two")
    filesystem.delete_lock("unknown")
    assert filesystem.load_locks() == [newer]


def test_expired_locks_are_left_out(filesystem: FileSystem) -> None:
    filesystem.save_lock(LockRecord("old", filesystem.root, 1, b""))
    assert filesystem.load_locks() == []


def test_an_existing_name_is_not_copied_over(filesystem: FileSystem, access: DirectAccess) -> None:
    access.write_file(b"one", b"1")
    with pytest.raises(Exists):
        filesystem.copy(filesystem.lookup(filesystem.root, b"one").inode, filesystem.root, b"one")
