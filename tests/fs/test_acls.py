"""POSIX ACLs in the file system: in step with the mode whatever changes first, inherited, copied, and free for who has none."""

import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.support.volumes import VolumeSubject
from tgdav.errors import InvalidArgument, NoAttribute, NoSpace
from tgdav.fs import acl
from tgdav.fs.api import Owner
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata import queries
from tgdav.metadata.types import AttributeChange, Kind

OWNER = Owner(0, 0)
NOBODY = 2**32 - 1
USER, GROUP, OTHERS, NAMED, MASK = 0x01, 0x04, 0x20, 0x02, 0x10


def value(*, user: int, group: int, others: int, named: int | None = None, mask: int | None = None) -> bytes:
    """Return an ACL; ``named`` is for user 1000."""
    entries = [
        (USER, user, NOBODY),
        (NAMED, named, 1000),
        (GROUP, group, NOBODY),
        (MASK, mask, NOBODY),
        (OTHERS, others, NOBODY),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries if each[1] is not None)


SHARED = value(user=7, named=6, group=5, mask=7, others=0)


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[VolumeSubject]:
    made = VolumeSubject(tmp_path)
    made.fs.open_files.start()
    yield made
    made.close()


@pytest.fixture
def fs(subject: VolumeSubject) -> NamespaceFileSystem:
    return subject.fs


def make(
    fs: NamespaceFileSystem, name: bytes, kind: Kind = Kind.FILE, mode: int = 0o666, parent: Inode | None = None
) -> Inode:
    return fs.create(parent or fs.root, name, kind, mode, OWNER, umask=0o022).inode


@pytest.mark.parametrize(
    ("default", "mode", "made", "access"),
    [
        (SHARED, 0o666, 0o660, value(user=6, named=6, group=5, mask=6, others=0)),
        (SHARED, 0o700, 0o700, value(user=7, named=6, group=5, mask=0, others=0)),
        (SHARED, 0o4777, 0o4770, SHARED),
        (value(user=7, group=5, others=1), 0o666, 0o640, None),
        (value(user=0, group=0, others=0), 0o777, 0, None),
    ],
)
def test_what_is_inherited(default: bytes, mode: int, made: int, access: bytes | None) -> None:
    assert acl.inherited(default, mode) == (made, access)


def test_what_a_mode_makes_of_an_acl() -> None:
    assert acl.with_mode(SHARED, 0o600) == value(user=6, named=6, group=5, mask=0, others=0)
    assert acl.with_mode(value(user=7, group=5, others=0), 0o642) == value(user=6, group=4, others=2)
    assert acl.mode_of(SHARED, 0o2000) == (0o2770, False)
    assert acl.mode_of(value(user=6, group=4, others=0), 0o777) == (0o640, True)


@pytest.mark.parametrize("wrong", [b"", b"\2\0\0\0", b"\2\0\0\0\1", b"\1" + SHARED[1:], SHARED[:-8]])
@pytest.mark.parametrize("name", [acl.ACCESS, acl.DEFAULT])
def test_what_is_no_acl_is_refused(fs: NamespaceFileSystem, name: bytes, wrong: bytes) -> None:
    inode = make(fs, b"folder", Kind.DIRECTORY)
    with pytest.raises(InvalidArgument):
        fs.set_xattr(inode, name, wrong)
    assert fs.list_xattrs(inode) == []


def test_an_acl_and_the_mode_are_one(fs: NamespaceFileSystem) -> None:
    inode = make(fs, b"file")
    fs.set_xattr(inode, acl.ACCESS, SHARED)
    assert fs.attributes(inode).mode == 0o770
    fs.set_attributes(inode, AttributeChange(mode=0o600))
    assert fs.get_xattr(inode, acl.ACCESS) == acl.with_mode(SHARED, 0o600)
    fs.set_xattr(inode, acl.ACCESS, value(user=6, group=4, others=4))
    assert (fs.attributes(inode).mode, fs.list_xattrs(inode)) == (0o644, [])
    fs.set_attributes(inode, AttributeChange(mode=0o2755))
    fs.set_xattr(inode, acl.ACCESS, SHARED, drop_set_group_id=True)
    assert fs.attributes(inode).mode == 0o770


def test_a_mode_that_waits_for_a_files_commit_is_in_the_acl(subject: VolumeSubject) -> None:
    fs = subject.fs
    inode = make(fs, b"file")
    fs.set_xattr(inode, acl.ACCESS, SHARED)
    handle = fs.open(inode, writable=True)
    handle.write(0, b"content")
    assert fs.defer_attributes(inode, AttributeChange(mode=0o600))
    assert fs.get_xattr(inode, acl.ACCESS) == acl.with_mode(SHARED, 0o600)
    handle.close()
    subject.crash()
    assert subject.fs.attributes(inode).mode == 0o600
    assert subject.fs.get_xattr(inode, acl.ACCESS) == acl.with_mode(SHARED, 0o600)


def test_an_acl_after_a_mode_that_waits_has_the_last_word(fs: NamespaceFileSystem) -> None:
    inode = make(fs, b"file")
    handle = fs.open(inode, writable=True)
    handle.write(0, b"content")
    assert fs.defer_attributes(inode, AttributeChange(mode=0o600))
    fs.set_xattr(inode, acl.ACCESS, SHARED)
    handle.close()
    assert (fs.attributes(inode).mode, fs.get_xattr(inode, acl.ACCESS)) == (0o770, SHARED)


def test_a_default_acl_is_inherited_by_all_that_is_made(subject: VolumeSubject) -> None:
    fs = subject.fs
    folder = make(fs, b"folder", Kind.DIRECTORY, 0o777)
    early = make(fs, b"early", Kind.FILE, parent=folder)
    fs.set_xattr(folder, acl.DEFAULT, SHARED)
    file = make(fs, b"file", parent=folder)
    below = make(fs, b"below", Kind.DIRECTORY, 0o777, folder)
    link = fs.create(folder, b"link", Kind.SYMLINK, 0o777, OWNER, target=b"file").inode
    with fs.upload(folder, b"upload", owner=OWNER) as upload:
        upload.write(b"content")
        uploaded = upload.commit()[0].inode
    subject.crash()
    fs = subject.fs
    shown = {
        inode: (fs.attributes(inode).mode, fs.list_xattrs(inode)) for inode in (early, file, below, link, uploaded)
    }
    assert shown == {
        early: (0o644, []),
        file: (0o660, [acl.ACCESS]),
        below: (0o770, [acl.ACCESS, acl.DEFAULT]),
        link: (0o777, []),
        uploaded: (0o660, [acl.ACCESS]),
    }
    assert fs.get_xattr(below, acl.DEFAULT) == SHARED
    fs.remove_xattr(folder, acl.DEFAULT)
    assert fs.attributes(make(fs, b"late", parent=folder)).mode == 0o644


def test_copies_keep_their_acl_and_inherit_none(fs: NamespaceFileSystem) -> None:
    folder, source = make(fs, b"folder", Kind.DIRECTORY), make(fs, b"source")
    fs.set_xattr(folder, acl.DEFAULT, SHARED)
    plain = fs.copy(source, folder, b"plain")[0]
    assert (plain.mode, fs.list_xattrs(plain.inode)) == (0o644, [])
    fs.set_xattr(source, acl.ACCESS, value(user=6, named=4, group=0, mask=4, others=0))
    copied = fs.copy(source, folder, b"copied")[0]
    assert copied.mode == 0o640
    assert fs.get_xattr(copied.inode, acl.ACCESS) == fs.get_xattr(source, acl.ACCESS)
    with pytest.raises(NoAttribute):
        fs.get_xattr(copied.inode, acl.DEFAULT)


def test_names_have_64_kib_together(fs: NamespaceFileSystem) -> None:
    inode = make(fs, b"file")
    names = [b"user.%03d" % number + b"x" * 247 for number in range(257)]
    for name in names[:256]:
        fs.set_xattr(inode, name, b"value")
    with pytest.raises(NoSpace):
        fs.set_xattr(inode, names[256], b"value")
    fs.set_xattr(inode, names[0], b"other")
    fs.remove_xattr(inode, names[1])
    fs.set_xattr(inode, names[256], b"value")
    assert sum(len(name) + 1 for name in fs.list_xattrs(inode)) == 65_536


def test_who_has_no_acl_does_not_pay_for_it(fs: NamespaceFileSystem) -> None:
    """In a directory where things are made, the database is asked once whether there is a default ACL, and never of new files."""
    folder = make(fs, b"folder", Kind.DIRECTORY)
    below = make(fs, b"below", Kind.DIRECTORY, parent=folder)
    asked = 0

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal asked
        asked += event == "call" and frame.f_code is queries.field.__code__

    sys.setprofile(count)
    try:
        for number in range(10):
            for parent in (folder, below):
                inode = make(fs, b"%d" % number, parent=parent)
                fs.set_attributes(inode, AttributeChange(mode=0o600))
    finally:
        sys.setprofile(None)
    assert asked == 0


def test_an_acl_is_the_same_after_another_start(subject: VolumeSubject) -> None:
    inode = make(subject.fs, b"file")
    content = random.randbytes(100)
    handle = subject.fs.open(inode, writable=True)
    handle.write(0, content)
    handle.close()
    subject.fs.set_xattr(inode, acl.ACCESS, SHARED, durable=True)
    subject.restart()
    assert subject.fs.get_xattr(inode, acl.ACCESS) == SHARED
    subject.fs.set_attributes(inode, AttributeChange(mode=0o640))
    assert subject.fs.get_xattr(inode, acl.ACCESS) == acl.with_mode(SHARED, 0o640)
