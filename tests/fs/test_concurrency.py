"""Threads on the same names: one winner where there can be one, whole contents, a tree that holds together."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

from tests.fs.behaviours_content import noise
from tests.fs.snapshots import walk
from tgdav.errors import Exists, FileSystemError, NotFound
from tgdav.fs.api import FileSystem, Owner, RenameFlag
from tgdav.metadata.types import Attributes, Kind

THREADS = 8
ROUNDS = 20
OWNER = Owner()
PATIENCE = 120


def race(call: Callable[[int], bool]) -> list[bool]:
    """Run ``call(thread)`` on all threads at once; return their answers, False for a refusal by Exists or NotFound."""
    start = Barrier(THREADS)

    def run(thread: int) -> bool:
        start.wait(PATIENCE)
        try:
            return call(thread)
        except (Exists, NotFound):
            return False

    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(run, thread) for thread in range(THREADS)]]


def put(
    filesystem: FileSystem, name: bytes, data: bytes, check: Callable[[Attributes | None], None] | None = None
) -> bool:
    with filesystem.upload(filesystem.root, name, owner=OWNER) as upload:
        upload.write(data)
        return upload.commit(precondition=check)[1]


def is_new(before: Attributes | None) -> None:
    if before:
        raise Exists


def read(filesystem: FileSystem, name: bytes) -> bytes:
    attributes = filesystem.lookup(filesystem.root, name)
    handle = filesystem.open(attributes.inode)
    try:
        return handle.read(0, 2**20)
    finally:
        handle.close()


def test_one_create_wins(filesystem: FileSystem) -> None:
    for number in range(ROUNDS):
        name = b"%d" % number
        wins = race(lambda _, name=name: bool(filesystem.create(filesystem.root, name, Kind.FILE, 0o644, OWNER)))  # type: ignore[misc]
        assert wins.count(True) == 1


def test_one_upload_of_a_new_file_wins_whole(filesystem: FileSystem) -> None:
    for number in range(ROUNDS):
        name = b"%d" % number

        def upload(thread: int, name: bytes = name) -> bool:
            return put(filesystem, name, noise(1000, b"%d" % thread), is_new)

        wins = race(upload)
        assert wins.count(True) == 1
        assert read(filesystem, name) == noise(1000, b"%d" % wins.index(True))


def test_one_replacement_on_a_tag_wins(filesystem: FileSystem) -> None:
    put(filesystem, b"file", b"start")
    for number in range(ROUNDS):
        tag = filesystem.lookup(filesystem.root, b"file").tag

        def replace(thread: int, tag: bytes | None = tag, number: int = number) -> bool:
            def has_tag(before: Attributes | None) -> None:
                if before is None or before.tag != tag:
                    raise Exists

            return not put(filesystem, b"file", b"%d by %d" % (number, thread), has_tag)

        wins = race(replace)
        assert wins.count(True) == 1
        assert read(filesystem, b"file") == b"%d by %d" % (number, wins.index(True))


def test_unconditional_uploads_leave_one_whole_content(filesystem: FileSystem) -> None:
    contents = [noise(50_000, b"%d" % thread) for thread in range(THREADS)]
    for _ in range(ROUNDS):
        created = race(lambda thread: put(filesystem, b"file", contents[thread]))
        assert read(filesystem, b"file") in contents
        assert created.count(True) <= 1


def test_one_rename_of_a_name_wins(filesystem: FileSystem) -> None:
    for number in range(ROUNDS):
        source = b"from %d" % number
        put(filesystem, source, source)

        def move(thread: int, source: bytes = source) -> bool:
            filesystem.rename(filesystem.root, source, filesystem.root, source + b" to %d" % thread)
            return True

        wins = race(move)
        assert wins.count(True) == 1
        assert read(filesystem, source + b" to %d" % wins.index(True)) == source


def test_one_rename_to_a_free_name_wins(filesystem: FileSystem) -> None:
    root = filesystem.root
    for number in range(ROUNDS):
        target = b"to %d" % number
        for thread in range(THREADS):
            put(filesystem, b"from %d" % thread, b"%d" % thread)

        def move(thread: int, target: bytes = target) -> bool:
            filesystem.rename(root, b"from %d" % thread, root, target, flags=RenameFlag.NO_REPLACE)
            return True

        wins = race(move)
        assert wins.count(True) == 1
        assert read(filesystem, target) == b"%d" % wins.index(True)


def test_one_removal_wins(filesystem: FileSystem) -> None:
    for number in range(ROUNDS):
        name = b"%d" % number
        put(filesystem, name, b"")

        def remove(_thread: int, name: bytes = name) -> bool:
            filesystem.unlink(filesystem.root, name)
            return True

        assert race(remove).count(True) == 1
    assert filesystem.list_directory(filesystem.root) == []


def test_appends_are_all_there(filesystem: FileSystem) -> None:
    put(filesystem, b"file", b"")
    inode = filesystem.lookup(filesystem.root, b"file").inode

    def append(thread: int) -> bool:
        handle = filesystem.open(inode, writable=True)
        for _ in range(ROUNDS):
            handle.write(0, b"%d" % thread * 10, append=True)
        handle.close()
        return True

    race(append)
    data = read(filesystem, b"file")
    pieces = Counter(data[start : start + 10] for start in range(0, len(data), 10))
    assert pieces == {b"%d" % thread * 10: ROUNDS for thread in range(THREADS)}


def test_folders_moved_into_each_other_make_no_cycle(filesystem: FileSystem) -> None:
    root = filesystem.root
    for _ in range(ROUNDS):
        one = filesystem.create(root, b"one", Kind.DIRECTORY, 0o755, OWNER).inode
        two = filesystem.create(root, b"two", Kind.DIRECTORY, 0o755, OWNER).inode

        def move(thread: int, one: int = one, two: int = two) -> bool:
            if thread % 2:
                filesystem.rename(root, b"one", two, b"one")  # type: ignore[arg-type]
            else:
                filesystem.rename(root, b"two", one, b"two")  # type: ignore[arg-type]
            return True

        with suppress(FileSystemError):
            race(move)
        assert len(list(walk(filesystem))) == 3
        for entry in filesystem.list_directory(root):
            filesystem.remove_tree(root, entry.name)


def test_a_random_tumult_leaves_a_tree_that_holds_together(filesystem: FileSystem) -> None:
    def tumult(thread: int) -> bool:
        numbers = random.Random(thread)
        for _ in range(60):
            with suppress(FileSystemError):
                change_something(filesystem, numbers)
        return True

    race(tumult)
    check_tree(filesystem)


def change_something(filesystem: FileSystem, numbers: random.Random) -> None:
    folders = [attributes.inode for _, attributes in list(walk(filesystem))[:20] if attributes.is_directory]
    one, two = numbers.choice(folders), numbers.choice(folders)
    name, other = (b"%d" % numbers.randrange(4) for _ in range(2))
    step = numbers.randrange(8)
    if step == 0:
        filesystem.create(one, name, Kind.DIRECTORY, 0o755, OWNER)
    elif step == 1:
        filesystem.create(one, name, Kind.FILE, 0o644, OWNER)
    elif step == 2:
        filesystem.rename(one, name, two, other, replace_tree=numbers.random() < 0.5)
    elif step == 3:
        filesystem.rename(one, name, two, other, flags=RenameFlag.EXCHANGE)
    elif step == 4:
        filesystem.remove_tree(one, name)
    elif step == 5:
        filesystem.link(filesystem.lookup(one, name).inode, two, other)
    elif step == 6:
        filesystem.copy(filesystem.lookup(one, name).inode, two, other, recursive=False, replace=True)
    else:
        with filesystem.upload(one, name, owner=OWNER) as upload:
            upload.write(noise(500, name))
            upload.commit()


def check_tree(filesystem: FileSystem) -> None:
    """Compare counted links, parents and sizes with what the walk finds."""
    nodes = list(walk(filesystem))
    names = Counter(attributes.inode for _, attributes in nodes)
    for path, attributes in nodes:
        entries = filesystem.list_directory(attributes.inode) if attributes.is_directory else []
        folders = sum(entry.attributes.is_directory for entry in entries)
        now = filesystem.attributes(attributes.inode)
        assert now.nlink == (2 + folders if now.is_directory else names[now.inode])
        assert not now.is_directory or names[now.inode] == 1
        if now.is_directory and path:
            assert filesystem.parent(now.inode) == filesystem.resolve(path[:-1]).inode
        if now.is_file:
            assert now.size in (0, 500)
