"""The directory store alone: its files, changes by others, and disks that are disconnected or full."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.blobs.calls import content, ids, private_file, put
from tests.blobs.conftest import MovedClock, SeededEntropy, directory_store, name_of
from tgdav.blobs import FileSource
from tgdav.blobs.directory import DirectoryStore
from tgdav.disk import SystemDisk
from tgdav.errors import BlobMissing, DamageError, StoreRejected, StoreUnavailable
from tgdav.ids import BlobId


def blob_file(directory: Path, number: int = 1) -> Path:
    return next(path for path in directory.iterdir() if name_of(number).hex() in path.name)


def visible(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


class FailingDisk(SystemDisk):
    """Fails one kind of call, ``times`` times, with an error number."""

    def __init__(self, call: str, number: int, times: int = 1) -> None:
        self._call, self._number, self._times = call, number, times

    def _check(self, call: str) -> None:
        if call == self._call and self._times > 0:
            self._times -= 1
            raise OSError(self._number, os.strerror(self._number))

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._check("write")
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        self._check("sync")
        super().sync(descriptor)

    def sync_directory(self, directory: Path) -> None:
        self._check("sync_directory")
        super().sync_directory(directory)

    def rename(self, source: Path, target: Path) -> None:
        self._check("rename")
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._check("link")
        super().link(source, target)

    def unlink(self, path: Path) -> None:
        self._check("unlink")
        super().unlink(path)


class TestFiles:
    def test_one_file_a_blob_with_exactly_its_bytes(self, directory: Path) -> None:
        info = put(directory_store(directory), 1, b"sealed bytes", "La-bel_")
        assert visible(directory) == [f"{info.id:016d}-{name_of(1).hex()}-La-bel_"]
        assert blob_file(directory).read_bytes() == b"sealed bytes"

    def test_the_longest_label_makes_a_name_of_255_bytes(self, directory: Path) -> None:
        put(directory_store(directory), 1, label="x" * DirectoryStore.traits.max_label_characters)
        assert [len(name) for name in visible(directory)] == [255]

    def test_are_private(self, directory: Path) -> None:
        previous = os.umask(0)
        try:
            put(directory_store(directory), 1)
        finally:
            os.umask(previous)
        modes = {path.name[0]: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.iterdir()]}
        assert modes == {directory.name[0]: 0o700, ".": 0o600, "0": 0o600}

    def test_a_private_file_is_linked(self, directory: Path, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"data")
        directory_store(directory).append(name_of(1), FileSource(path), "x")
        assert path.samefile(blob_file(directory))

    def test_a_file_that_others_may_read_is_copied(self, directory: Path, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"data")
        path.chmod(0o644)
        directory_store(directory).append(name_of(1), FileSource(path), "x")
        assert not path.samefile(blob_file(directory))
        assert stat.S_IMODE(blob_file(directory).stat().st_mode) == 0o600

    def test_a_symbolic_link_is_copied(self, directory: Path, tmp_path: Path) -> None:
        (tmp_path / "symlink").symlink_to(private_file(tmp_path, b"data"))
        directory_store(directory).append(name_of(1), FileSource(tmp_path / "symlink"), "x")
        assert not blob_file(directory).is_symlink()
        assert blob_file(directory).read_bytes() == b"data"

    @pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
    def test_a_file_is_copied_where_no_link_can_be_made(self, directory: Path, tmp_path: Path, number: int) -> None:
        path = private_file(tmp_path, b"data")
        store = directory_store(directory, disk=FailingDisk("link", number))
        info = store.append(name_of(1), FileSource(path), "x")
        assert content(store, info) == b"data"
        assert not path.samefile(blob_file(directory))

    def test_nothing_temporary_stays(self, directory: Path) -> None:
        store = directory_store(directory)
        put(store, 1)
        put(store, 1)
        assert {path.name for path in directory.iterdir()} == {".lock", *visible(directory)}


class TestForeignFiles:
    @pytest.mark.parametrize(
        "name",
        [
            ".hidden",
            "notes.txt",
            "0000000000000007-" + "ab" * 16 + "-x.tmp",
            "0000000000000007-" + "ab" * 16 + "-x.part",
            "0000000000000007-" + "ab" * 16 + "-x.lock",
            "0000000000000007-" + "AB" * 16 + "-x",
            "0000000000000007-" + "ab" * 15 + "-x",
            "7-" + "ab" * 16 + "-x",
            "0000000000000000-" + "ab" * 16 + "-x",
            "0000000000000007-" + "ab" * 16,
            "0000000000000007-" + "ab" * 16 + "-x y",
        ],
    )
    def test_are_no_blobs_and_stay(self, directory: Path, name: str) -> None:
        (directory / name).write_bytes(b"mine")
        store = directory_store(directory)
        info = put(store, 1)
        assert ids(store) == [info.id] == [1]
        store.delete([BlobId(7), info.id])
        assert (directory / name).read_bytes() == b"mine"

    @pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/etc/passwd"), os.mkfifo])
    def test_what_is_no_regular_file_is_no_blob(self, directory: Path, make: Callable[[Path], None]) -> None:
        path = directory / ("0000000000000007-" + "ab" * 16 + "-x")
        make(path)
        store = directory_store(directory)
        assert ids(store) == []
        for call in (lambda: store.read(BlobId(7), 0, 1), lambda: store.size(BlobId(7))):
            with pytest.raises(BlobMissing):
                call()
        store.delete([BlobId(7)])
        assert os.path.lexists(path)


class TestOutsiders:
    def test_a_cut_blob_shows_its_size_and_is_damage_to_read(self, directory: Path) -> None:
        store = directory_store(directory)
        info = put(store, 1, b"sealed")
        os.truncate(blob_file(directory), 3)
        assert store.size(info.id) == 3
        assert [found.size for found in store.list()] == [3]
        assert store.read(info.id, 0, 3) == b"sea"
        with pytest.raises(DamageError):
            store.read(info.id, 0, 6)

    def test_a_grown_blob_shows_its_size(self, directory: Path) -> None:
        store = directory_store(directory)
        info = put(store, 1, b"sealed")
        with blob_file(directory).open("ab") as file:
            file.write(b"more")
        assert store.size(info.id) == 10
        assert store.find(name_of(1)) == next(iter(store.list()))

    def test_a_removed_blob_is_missing_at_once(self, directory: Path) -> None:
        store = directory_store(directory)
        info = put(store, 1)
        assert ids(store) == [info.id]
        blob_file(directory).unlink()
        assert ids(store) == []
        assert store.find(name_of(1)) is None
        with pytest.raises(BlobMissing):
            store.read(info.id, 0, 1)

    def test_a_blob_put_back_is_there_at_once(self, directory: Path, tmp_path: Path) -> None:
        store = directory_store(directory)
        info = put(store, 1)
        path = blob_file(directory)
        path.rename(tmp_path / "aside")
        assert ids(store) == []
        (tmp_path / "aside").rename(path)
        assert content(store, info) == b"sealed"
        assert ids(store) == [info.id]

    def test_a_renumbered_blob_is_found_under_its_new_id(self, directory: Path) -> None:
        store = directory_store(directory)
        put(store, 1)
        path = blob_file(directory)
        path.rename(directory / path.name.replace("0000000000000001", "0000000000000005"))
        assert ids(store) == [5]
        assert put(store, 2).id == 6

    def test_two_files_of_one_name_are_two_blobs_and_the_first_counts(self, directory: Path) -> None:
        store = directory_store(directory)
        first = put(store, 1, b"first")
        copy = blob_file(directory).name.replace("0000000000000001", "0000000000000002")
        (directory / copy).write_bytes(b"spare copy")
        assert ids(store) == [1, 2]
        assert store.find(name_of(1)) == first == put(store, 1)
        store.delete([first.id])
        found = store.find(name_of(1))
        assert found is not None
        assert content(store, found) == b"spare copy"

    def test_two_files_of_one_id_are_one_blob(self, directory: Path) -> None:
        put(directory_store(directory), 1)
        other = f"{1:016d}-{'ff' * 16}-x"
        (directory / other).write_bytes(b"intruder")
        store = directory_store(directory)
        assert [info.name for info in store.list()] == [min(name_of(1), b"\xff" * 16)]

    def test_the_highest_number_leaves_no_more(self, directory: Path) -> None:
        (directory / f"{10**16 - 1}-{'ab' * 16}-x").write_bytes(b"")
        store = directory_store(directory)
        with pytest.raises(StoreRejected):
            put(store, 1)
        assert ids(store) == [10**16 - 1]


class TestScanCache:
    def test_a_settled_directory_is_not_scanned_again(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = MovedClock()
        store = directory_store(directory, clock)
        put(store, 1)
        scans: list[Path] = []
        real = os.listdir

        def listdir(path: Path) -> list[str]:
            scans.append(path)
            return real(path)

        monkeypatch.setattr(os, "listdir", listdir)
        for _ in range(5):
            clock.seconds += 1.0
            assert ids(store) == [1]
        settled = len(scans)
        for _ in range(5):
            clock.seconds += 1.0
            assert ids(store) == [1]
        assert 0 < settled == len(scans)

    def test_a_change_that_leaves_the_time_stamp_is_seen(self, directory: Path) -> None:
        store = directory_store(directory)
        put(store, 1)
        assert ids(store) == [1]
        stamp = directory.stat()
        put(directory_store(directory), 2)
        os.utime(directory, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert ids(store) == [1, 2]

    def test_a_change_after_settling_is_seen(self, directory: Path) -> None:
        clock = MovedClock()
        store = directory_store(directory, clock)
        for _ in range(5):
            clock.seconds += 10.0
            assert ids(store) == []
        put(directory_store(directory), 1)
        assert ids(store) == [1]


class TestLockFile:
    def test_remembers_the_last_id(self, directory: Path) -> None:
        put(directory_store(directory), 1)
        assert (directory / ".lock").read_text() == "0000000000000001\n"

    @pytest.mark.parametrize("damaged", [b"", b"rubbish", b"\0" * 17, b"9" * 40, b"-5\n"])
    def test_damaged_the_listing_counts(self, directory: Path, damaged: bytes) -> None:
        put(directory_store(directory), 1)
        (directory / ".lock").write_bytes(damaged)
        assert put(directory_store(directory), 2).id == 2

    def test_lost_it_is_made_again(self, directory: Path) -> None:
        store = directory_store(directory)
        put(store, 1)
        (directory / ".lock").unlink()
        assert put(store, 2).id == 2
        assert stat.S_IMODE((directory / ".lock").stat().st_mode) == 0o600

    def test_older_than_the_blobs_the_blobs_count(self, directory: Path) -> None:
        store = directory_store(directory)
        put(store, 1)
        put(store, 2)
        (directory / ".lock").write_text("0000000000000001\n")
        assert put(store, 3).id == 3


class TestDiskAway:
    CALLS = [
        lambda store: put(store, 2),
        lambda store: store.read(BlobId(1), 0, 1),
        lambda store: store.size(BlobId(1)),
        lambda store: [*store.list()],
        lambda store: store.find(name_of(1)),
        lambda store: store.delete([BlobId(1)]),
    ]

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("warm", [False, True])
    @pytest.mark.parametrize("how", ["gone", "file", "empty mount point"])
    def test_is_unavailable_and_comes_back(
        self, directory: Path, tmp_path: Path, call: Callable[[DirectoryStore], object], warm: bool, how: str
    ) -> None:
        store = directory_store(directory)
        info = put(directory_store(directory), 1)
        if warm:
            assert content(store, info) == b"sealed"
        directory.rename(tmp_path / "unplugged")
        if how == "file":
            directory.write_bytes(b"")
        elif how == "empty mount point":
            directory.mkdir()
        with pytest.raises(StoreUnavailable, match="store"):
            call(store)
        assert how == "gone" or not directory.is_dir() or [*directory.iterdir()] == []
        if how == "file":
            directory.unlink()
        (tmp_path / "unplugged").rename(directory)
        assert content(store, info) == b"sealed"
        assert put(store, 2).id == 2

    def test_making_a_store_object_needs_no_disk(self, tmp_path: Path) -> None:
        store = directory_store(tmp_path / "nowhere")
        assert store.traits.is_local
        store.close()

    def test_create_makes_private_directorys(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b"
        store = DirectoryStore.create(path, disk=SystemDisk(), clock=MovedClock(), entropy=SeededEntropy())
        assert [stat.S_IMODE(directory.stat().st_mode) for directory in (path, path.parent)] == [0o700] * 2
        assert put(store, 1).id == 1

    def test_create_keeps_what_is_there(self, directory: Path) -> None:
        info = put(directory_store(directory), 1)
        store = DirectoryStore.create(directory, disk=SystemDisk(), clock=MovedClock(), entropy=SeededEntropy())
        assert [*store.list()] == [info]
        assert put(store, 2).id == 2

    def test_create_below_a_file_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreUnavailable):
            DirectoryStore.create(
                tmp_path / "file" / "store", disk=SystemDisk(), clock=MovedClock(), entropy=SeededEntropy()
            )


class TestDiskFaults:
    @pytest.mark.parametrize("call", ["write", "sync", "sync_directory", "rename"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
    def test_a_failed_append_leaves_nothing_and_works_again(self, directory: Path, call: str, number: int) -> None:
        store = directory_store(directory, disk=FailingDisk(call, number))
        with pytest.raises(StoreUnavailable):
            put(store, 1)
        assert {path.name for path in directory.iterdir()} == {".lock"}
        info = put(store, 1)
        assert content(store, info) == b"sealed"

    @pytest.mark.parametrize("call", ["sync", "sync_directory", "link"])
    def test_a_failed_link_leaves_nothing_and_works_again(self, directory: Path, tmp_path: Path, call: str) -> None:
        source = FileSource(private_file(tmp_path, b"data"))
        store = directory_store(directory, disk=FailingDisk(call, errno.ENOSPC))
        with pytest.raises(StoreUnavailable):
            store.append(name_of(1), source, "x")
        assert visible(directory) == []
        assert content(store, store.append(name_of(1), source, "x")) == b"data"

    def test_a_full_disk_is_named_in_plain_words(self, directory: Path) -> None:
        store = directory_store(directory, disk=FailingDisk("write", errno.ENOSPC))
        with pytest.raises(StoreUnavailable, match="is full; make space"):
            put(store, 1)

    def test_a_blob_too_large_for_the_file_system_is_refused(self, directory: Path) -> None:
        store = directory_store(directory, disk=FailingDisk("write", errno.EFBIG))
        with pytest.raises(StoreRejected):
            put(store, 1)

    def test_an_append_answered_from_what_is_there_is_durable_too(self, directory: Path) -> None:
        put(directory_store(directory), 1)
        store = directory_store(directory, disk=FailingDisk("sync_directory", errno.EIO))
        with pytest.raises(StoreUnavailable):
            put(store, 1)
        assert put(store, 1).id == 1

    @pytest.mark.parametrize("call", ["unlink", "sync_directory"])
    def test_a_failed_delete_can_be_repeated(self, directory: Path, call: str) -> None:
        given = [put(directory_store(directory), number).id for number in range(3)]
        store = directory_store(directory, disk=FailingDisk(call, errno.EIO))
        with pytest.raises(StoreUnavailable):
            store.delete(given)
        store.delete(given)
        assert visible(directory) == []

    def test_an_id_is_remembered_before_its_blob_appears(self, directory: Path) -> None:
        store = directory_store(directory, disk=FailingDisk("rename", errno.EIO))
        with pytest.raises(StoreUnavailable):
            put(store, 1)
        assert put(store, 1).id == 2


APPENDING_PROCESS = """
import sys
from pathlib import Path
from tests.blobs.conftest import directory_store, name_of
from tgdav.blobs import BytesSource
store = directory_store(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 15):
    store.append(name_of(number), BytesSource(b"x" * number), "x")
"""


def test_processes_share_a_directory(directory: Path) -> None:
    repository = Path(__file__).parents[2]
    commands = [[sys.executable, "-c", APPENDING_PROCESS, str(directory), str(first)] for first in (0, 100, 100)]
    processes = [subprocess.Popen(command, cwd=repository) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    infos = [*directory_store(directory).list()]
    numbers = [*range(15), *range(100, 115)]
    assert {(info.name, info.size) for info in infos} == {(name_of(number), number) for number in numbers}
    assert [info.id for info in infos] == [*range(1, 31)]
