"""Large files: written in order they become content as they come; whatever else happens to them meanwhile, not a byte differs."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.volumes import VolumeSubject
from tgdav.errors import NoSpace
from tgdav.failpoints import installed
from tgdav.fs.api import FileHandle, Owner
from tgdav.fs.files.sequential_buffer import GAP, WINDOW
from tgdav.fs.filesystem import NamespaceFileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import Kind

MIB = 1024 * 1024
BLOCKS = (10, 4096, 64 * 1024, 100_000, 128 * 1024, MIB)


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[VolumeSubject]:
    made = VolumeSubject(tmp_path)
    yield made
    made.close()


def write(fs: NamespaceFileSystem, name: bytes, content: bytes) -> Inode:
    inode = fs.create(fs.root, name, Kind.FILE, 0o644, Owner(0, 0)).inode
    handle = fs.open(inode, writable=True)
    handle.write(0, content)
    handle.close()
    return inode


def content_of(fs: NamespaceFileSystem, name: bytes) -> bytes:
    handle = fs.open(fs.lookup(fs.root, name).inode)
    try:
        return handle.read(0, 64 * MIB)
    finally:
        handle.close()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def in_order(file: FileHandle, content: bytes, block: int, start: int = 0) -> None:
    for offset in range(start, len(content), block):
        file.write(offset, content[offset : offset + block])


@pytest.mark.parametrize("block", BLOCKS[2:])
@pytest.mark.parametrize("form", [bytes, bytearray, lambda data: memoryview(bytearray(data))])
def test_blocks_of_every_size_and_form(
    subject: VolumeSubject, block: int, form: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    content = noise(1, 9 * MIB + 12_345)
    inode = write(subject.fs, b"file", b"")
    file = subject.fs.open(inode, writable=True)
    for offset in range(0, len(content), block):
        data = form(content[offset : offset + block])
        file.write(offset, data)
        if not isinstance(data, bytes):
            data[:] = bytes(len(data))  # what was written is not what the caller does with its memory later
    file.close()
    assert content_of(subject.fs, b"file") == content


def test_many_small_writes(subject: VolumeSubject) -> None:
    content = noise(2, 3 * MIB)
    inode = write(subject.fs, b"file", b"")
    file = subject.fs.open(inode, writable=True)
    in_order(file, content, 700)
    file.close()
    assert content_of(subject.fs, b"file") == content


def _again(file: FileHandle, copy: bytearray, choose: random.Random) -> None:
    """Write again what is still in the window, or was there."""
    place = max(len(copy) - choose.choice((100, 5000, WINDOW // 2, WINDOW, 3 * WINDOW)), 0)
    data = choose.randbytes(choose.choice((1, 4096, 70_000)))
    file.write(place, data)
    copy[place : place + len(data)] = data


def _skip(file: FileHandle, copy: bytearray, choose: random.Random) -> None:
    copy += bytes(choose.choice((1, GAP, GAP + 1, 300_000)))
    data = choose.randbytes(choose.choice((1, 70_000)))
    file.write(len(copy), data)
    copy += data


def _cut(file: FileHandle, copy: bytearray, choose: random.Random) -> None:
    size = max(len(copy) + choose.choice((-5, -5000, -WINDOW, -2 * WINDOW, 5, GAP, 200_000)), 0)
    file.truncate(size)
    del copy[size:]
    copy += bytes(size - len(copy))


def _look(file: FileHandle, copy: bytearray, choose: random.Random) -> None:
    place = choose.randrange(len(copy) + 1)
    assert file.read(place, 200_000) == copy[place : place + 200_000]


def _sync(file: FileHandle, _copy: bytearray, _choose: random.Random) -> None:
    file.fsync()


@pytest.mark.parametrize("seed", range(12))
def test_writing_in_order_and_anything_between(subject: VolumeSubject, seed: int) -> None:
    """Each deviation falls back to another way of writing; then it goes on at the end, as a copying program would."""
    choose, copy = random.Random(seed), bytearray()
    inode = write(subject.fs, b"file", b"")
    file = subject.fs.open(inode, writable=True)
    deviations = choose.sample([_again, _again, _skip, _cut, _look, _sync], 4)
    for deviate in [*deviations, None]:
        block = choose.choice(BLOCKS[1:])
        for _ in range(choose.randrange(1, 5 * MIB) // block + 1):
            data = choose.randbytes(block)
            file.write(len(copy), data)
            copy += data
        if deviate is not None:
            deviate(file, copy, choose)
        assert subject.fs.attributes(inode).size == len(copy)
    file.close()
    assert content_of(subject.fs, b"file") == copy
    subject.crash()
    assert content_of(subject.fs, b"file") == copy


@pytest.mark.parametrize("block", [4096, MIB])
def test_what_was_synced_midway_survives_a_crash(subject: VolumeSubject, block: int) -> None:
    content = noise(3, 8 * MIB)
    inode = write(subject.fs, b"file", b"")
    file = subject.fs.open(inode, writable=True)
    in_order(file, content[: 5 * MIB], block)
    file.fsync()
    in_order(file, content, block, 5 * MIB)
    assert file.read(4 * MIB, 3 * MIB) == content[4 * MIB : 7 * MIB]
    subject.crash()
    found = content_of(subject.fs, b"file")
    assert len(found) >= 5 * MIB
    assert found == content[: len(found)]


def test_a_crash_midway_leaves_what_was_there_before(subject: VolumeSubject) -> None:
    inode = write(subject.fs, b"file", b"old")
    subject.fs.flush_all()
    file = subject.fs.open(inode, writable=True, truncate=True)
    in_order(file, noise(4, 6 * MIB), MIB)
    subject.crash()
    assert content_of(subject.fs, b"file") in (b"old", b"")


def _full_after(count: int) -> Callable[[str], None]:
    left = [count]

    def reached(step: str) -> None:
        if step == "content.before-append":
            left[0] -= 1
            if left[0] < 0:
                raise NoSpace

    return reached


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_full_disk_midway_is_reported_and_nothing_is_mixed(subject: VolumeSubject, count: int, goes_on: bool) -> None:
    """Also if there is space again at once, and the writer ignores the error."""
    inode = write(subject.fs, b"file", b"old")
    subject.fs.flush_all()
    file = subject.fs.open(inode, writable=True, truncate=True)
    content, refused = noise(5, 16 * MIB), 0
    with installed(_full_after(count)), pytest.raises(NoSpace):
        in_order(file, content, MIB)
    if goes_on:
        for offset in range(8 * MIB, len(content), MIB):
            try:
                file.write(offset, content[offset : offset + MIB])
            except NoSpace:
                refused += 1
        assert refused == 8
    with pytest.raises(NoSpace):
        file.close()
    assert content_of(subject.fs, b"file") in (b"old", b"")
    file = subject.fs.open(inode, writable=True, truncate=True)
    in_order(file, content, MIB)
    file.close()
    assert content_of(subject.fs, b"file") == content
