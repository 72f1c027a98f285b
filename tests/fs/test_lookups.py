"""The cache of names and nodes never shows anything but what the database shows."""

import random
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.volumes import VolumeSubject
from tgdav.errors import FileSystemError, NotADirectory
from tgdav.failpoints import installed
from tgdav.fs.api import Owner, RenameFlag
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata import queries, tree_cache
from tgdav.metadata.tree_cache import TreeChanges
from tgdav.metadata.types import AttributeChange, Kind, listed

OWNER = Owner()
NAMES = [b"a", b"b", b"c", "\u00e9".encode(), "e\u0301".encode(), b"._junk"]
STEPS = 150


def folders(fs: NamespaceFileSystem) -> list[Inode]:
    found = [fs.root]
    for folder in found:
        found += [entry.attributes.inode for entry in fs.list_directory(folder) if entry.attributes.is_directory]
    return found


def step(fs: NamespaceFileSystem, choose: random.Random) -> None:
    parent, other = choose.choice(folders(fs)), choose.choice(folders(fs))
    name, new = choose.choice(NAMES), choose.choice(NAMES)
    match choose.randrange(9):
        case 0:
            kind = choose.choice([Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY, Kind.SYMLINK])
            fs.create(parent, name, kind, 0o755, OWNER, target=b"t" if kind == Kind.SYMLINK else b"")
        case 1:
            with fs.upload(parent, name, owner=OWNER, normalized=choose.random() < 0.5) as upload:
                upload.write(b"x" * choose.randrange(50_000))
                upload.commit(durable=False)
        case 2:
            fs.remove_tree(parent, name)
        case 3:
            flags = choose.choice([RenameFlag.NONE, RenameFlag.EXCHANGE])
            fs.rename(parent, name, other, new, flags=flags, replace_tree=choose.random() < 0.5)
        case 4:
            fs.copy(fs.lookup(parent, name).inode, other, new, replace=choose.random() < 0.5)
        case 5:
            fs.link(fs.lookup(parent, name).inode, other, new)
        case 6:
            fs.set_attributes(fs.lookup(parent, name).inode, AttributeChange(mtime=choose.randrange(10**9), atime=5))
        case 7:
            handle = fs.open(fs.lookup(parent, name).inode, writable=True)
            handle.write(choose.randrange(1000), b"y" * 100)
            handle.close()
        case 8:
            fs.set_xattr(fs.lookup(parent, name).inode, b"user.x", name)


def assert_exact(fs: NamespaceFileSystem) -> None:
    with fs.database.reading() as connection:
        for folder in folders(fs):
            assert fs.attributes(folder) == queries.attributes(connection, folder)
            for name in NAMES:
                for normalized in (False, True):
                    expected = queries.find_entry(connection, folder, name, normalized=normalized)
                    found = fs._find(folder, name, normalized=normalized)
                    assert found == expected
                if found is not None and found.attributes.is_file:
                    handle = fs.open(found.attributes.inode)
                    assert handle.read(0, 100_000) == fs.content.reader.read(handle._file.manifest, 0, 100_000)
                    handle.close()


@pytest.mark.parametrize("misses", [1, 8])
@pytest.mark.parametrize("seed", range(4))
def test_the_cache_shows_what_the_database_shows(
    seed: int, misses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_cache, "DIRECTORY_MISSES", misses)
    monkeypatch.setattr(tree_cache, "LIMIT", 40 if seed == 0 else 20_000)
    subject = VolumeSubject(tmp_path)
    choose = random.Random(seed)
    done = 0
    for _ in range(STEPS):
        with suppress(FileSystemError):
            step(subject.volume.fs, choose)
            done += 1
        assert_exact(subject.volume.fs)
    assert done > STEPS // 4
    subject.close()


def test_what_is_seen_before_a_change_is_absorbed_is_not_counted_twice(tmp_path: Path) -> None:
    """Between commit and sync another thread may look, and find what the cache is still to hear of."""
    subject = VolumeSubject(tmp_path)
    fs = subject.volume.fs
    inode = fs.create(fs.root, b"a", Kind.FILE, 0o644, OWNER).inode
    fs.journal.cache.apply_changes(TreeChanges(everything=True))
    seen: list[int] = []

    def look(place: str) -> None:
        if place == "writer.before-wal-sync":
            other = threading.Thread(target=lambda: seen.append(fs.attributes(inode).nlink))
            other.start()
            other.join(10)

    with installed(look):
        fs.link(inode, fs.root, b"b", durable=True)
    assert (seen, fs.attributes(inode).nlink) == ([2], 2)
    subject.close()


def test_a_brief_listing_tells_what_a_full_one_does(tmp_path: Path) -> None:
    subject = VolumeSubject(tmp_path)
    fs = subject.volume.fs
    for name in NAMES:
        fs.create(fs.root, name, Kind.FILE, 0o644, OWNER)
    fs.create(fs.root, b"folder", Kind.DIRECTORY, 0o755, OWNER)
    handle = fs.open(fs.lookup(fs.root, b"a").inode, writable=True)
    for size in (0, 3):
        handle.write(0, b"x" * size)
        brief = fs.list_briefly(fs.root)
        assert brief == [listed(entry.name, entry.attributes) for entry in fs.list_directory(fs.root)]
        assert brief[1].size == size
    handle.close()
    assert fs.list_briefly(fs.lookup(fs.root, b"folder").inode) == []
    with pytest.raises(NotADirectory):
        fs.list_briefly(fs.lookup(fs.root, b"b").inode)
    subject.close()
