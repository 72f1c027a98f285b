"""A directory store that is cut short at each of its durable steps, by a crash of the program or of the power."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.blobs.calls import content, ids, private_file, put
from tests.blobs.conftest import directory_store, name_of
from tests.support.forgetful_disk import ForgetfulDisk, usable
from tgdav import failpoints
from tgdav.blobs import BytesSource, FileSource
from tgdav.blobs.directory import DirectoryStore
from tgdav.blobs.directory.filenames import temporary_name
from tgdav.ids import BlobId, BlobName


class Crash(BaseException):
    """The program ends here: no handler of ours may run."""


class CrashAt:
    """Crashes at the n-th failpoint that is reached; counts them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.reached: list[str] = []

    def __call__(self, name: str) -> None:
        self.reached.append(name)
        if len(self.reached) == self.at:
            raise Crash(name)


def append_bytes(store: DirectoryStore, _tmp_path: Path) -> None:
    put(store, 1, b"x" * (1 << 20) + b"tail")


def append_file(store: DirectoryStore, tmp_path: Path) -> None:
    store.append(name_of(1), FileSource(private_file(tmp_path, b"data")), "x")


def append_again(store: DirectoryStore, _tmp_path: Path) -> None:
    put(store, 0)


def delete(store: DirectoryStore, _tmp_path: Path) -> None:
    store.delete([BlobId(1), BlobId(2)])


ACTIONS = [append_bytes, append_file, append_again, delete]
Action = Callable[[DirectoryStore, Path], None]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_crash_at_each_step_leaves_whole_blobs_and_a_repeat_succeeds(tmp_path: Path, action: Action) -> None:
    at = 0
    while True:
        at += 1
        directory = tmp_path / str(at)
        directory.mkdir()
        (directory / ".lock").touch()
        put(directory_store(directory), 0)
        handler = CrashAt(at)
        try:
            with failpoints.installed(handler):
                action(directory_store(directory), tmp_path)
        except Crash:
            check_whole(directory_store(directory))
            action(directory_store(directory), tmp_path)
            check_done(directory_store(directory), action)
            check_clean(directory)
        else:
            break
    assert at > (1 if action is append_again else 3)
    assert len(handler.reached) == at - 1


def check_whole(store: DirectoryStore) -> None:
    infos = [*store.list()]
    assert {content(store, info) for info in infos} <= {b"sealed", b"x" * (1 << 20) + b"tail", b"data"}
    assert len({info.name for info in infos}) == len(infos)


def check_done(store: DirectoryStore, action: Action) -> None:
    names: dict[Action, set[BlobName]] = {append_again: {name_of(0)}, delete: set()}
    expected = names[action] if action in names else {name_of(0), name_of(1)}
    assert {info.name for info in store.list()} == expected


def check_clean(directory: Path) -> None:
    """After one more append, nothing of dead writers is left."""
    put(directory_store(directory), 9)
    assert [path.name for path in directory.iterdir() if path.name.startswith(".tmp-")] == []


def test_an_id_shown_before_a_crash_is_not_given_again(directory: Path) -> None:
    with pytest.raises(Crash), failpoints.installed(crash_on("directory.published")):
        put(directory_store(directory), 1)
    shown = ids(directory_store(directory))
    directory_store(directory).delete([BlobId(shown[0])])
    assert put(directory_store(directory), 2).id > shown[0]


def crash_on(name: str) -> Callable[[str], None]:
    def handler(reached: str) -> None:
        if reached == name:
            raise Crash(name)

    return handler


class TestTemporaryFiles:
    def test_of_a_dead_writer_is_no_blob_and_goes_with_the_next_append(self, directory: Path) -> None:
        with pytest.raises(Crash), failpoints.installed(crash_on("directory.temporary-synced")):
            put(directory_store(directory), 1)
        left = [path.name for path in directory.iterdir() if path.name.startswith(".tmp-")]
        store = directory_store(directory)
        assert (len(left), ids(store)) == (1, [])
        put(store, 2)
        assert not (directory / left[0]).exists()

    def test_of_a_living_writer_stays(self, directory: Path) -> None:
        """Another store object starts and appends, and with it cleans, while an append is half-way."""

        def interfere(sent: int) -> None:
            if sent == 1 << 20:
                put(directory_store(directory), 2)

        store = directory_store(directory)
        data = bytes(range(256)) * 8192
        info = store.append(name_of(1), BytesSource(data), "x", progress=interfere)
        assert content(store, info) == data
        assert ids(store) == [1, 2]
        assert info.id == 2

    def test_locked_by_another_stays(self, directory: Path) -> None:
        path = directory / temporary_name(name_of(5), bytes(8))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        put(directory_store(directory), 1)
        assert path.exists()
        os.close(descriptor)
        put(directory_store(directory), 2)
        assert not path.exists()

    @pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/etc/passwd"), os.mkfifo])
    def test_that_is_no_regular_file_stays(self, directory: Path, make: Callable[[Path], None]) -> None:
        path = directory / temporary_name(name_of(5), bytes(8))
        make(path)
        assert put(directory_store(directory), 1).id == 1
        assert os.path.lexists(path)

    def test_of_somebody_else_stays(self, directory: Path) -> None:
        (directory / ".tmp-notes").write_bytes(b"mine")
        put(directory_store(directory), 1)
        assert (directory / ".tmp-notes").read_bytes() == b"mine"


@pytest.mark.skipif(not usable(), reason="no FUSE mounts on this machine")
@pytest.mark.parametrize("seed", range(4))
def test_acknowledged_blobs_survive_power_cuts(tmp_path: Path, seed: int) -> None:
    """Blobs by copy and by link, deletes, and an append cut short; then the power goes, three times over."""
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk", seed=seed) as disk:
        acknowledged: dict[int, bytes] = {}
        highest = 0
        for cut in range(3):
            directory = disk.path / "store"
            directory.mkdir(mode=0o700, exist_ok=True)
            store = directory_store(directory)
            store._directory.create()
            for number in range(10 * cut, 10 * cut + 6):
                info = append_either_way(store, disk.path, number)
                assert info > highest
                acknowledged[info], highest = b"%d" % number, info
            gone = min(acknowledged)
            store.delete([BlobId(gone)])
            del acknowledged[gone]
            with pytest.raises(Crash), failpoints.installed(crash_on("directory.published")):
                put(store, 1000 + cut)
            disk.power_cut()
            disk.start()
            store = directory_store(directory)
            infos = {info.id: info for info in store.list()}
            assert {known: content(store, infos[BlobId(known)]) for known in acknowledged} == acknowledged
            assert gone not in infos
            assert all(content(store, info) == b"sealed" for info in infos.values() if info.id not in acknowledged)
            highest = max(highest, *infos)


def append_either_way(store: DirectoryStore, directory: Path, number: int) -> BlobId:
    if number % 2:
        return put(store, number, b"%d" % number).id
    path = directory / f"staged-{number}"
    path.write_bytes(b"%d" % number)
    path.chmod(0o600)
    return store.append(name_of(number), FileSource(path), "x").id
