"""Files of others in place of a directory store's lock file."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.blobs.calls import put
from tests.blobs.conftest import MovedClock, SeededEntropy, directory_store, name_of
from tests.support.volumes import new_vault, open_volume
from tgdav.blobs.directory import DirectoryStore
from tgdav.disk import SystemDisk
from tgdav.errors import StoreRejected
from tgdav.volume import report


def visible(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def a_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def a_second_name(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def a_fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # a socket's path has 107 bytes at most
        made.bind(path.name)


def a_directory(path: Path, victim: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("nowhere"))


PLANTS = [a_link, a_second_name, a_fifo, a_socket, a_directory, a_dangling_link]


class TestUntrustedLockFile:
    """Others who may write to the directory can put anything in place of the lock file."""

    @pytest.fixture
    def victim(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "victim"
        file.write_bytes(b"the user's own")
        return file

    @pytest.mark.parametrize("plant", PLANTS)
    @pytest.mark.timeout(20)
    def test_is_refused_and_neither_written_nor_waited_for(
        self, directory: Path, victim: Path, plant: Callable[[Path, Path], None]
    ) -> None:
        info = put(directory_store(directory), 1, b"data")
        (directory / ".lock").unlink()
        plant(directory / ".lock", victim)
        store = directory_store(directory)
        calls: list[Callable[[], object]] = [
            lambda: put(store, 2),
            lambda: list(store.list()),
            lambda: store.find(name_of(1)),
            lambda: store.read(info.id, 0, 1),
            lambda: store.delete([info.id]),
            lambda: DirectoryStore.create(directory, disk=SystemDisk(), clock=MovedClock(), entropy=SeededEntropy()),
        ]
        for call in calls:
            with pytest.raises(StoreRejected, match=r"\.lock is not a regular file with one name"):
                call()
        assert victim.read_bytes() == b"the user's own"
        assert sorted(path.name for path in victim.parent.iterdir()) == sorted({directory.name, "victim"})
        assert len(visible(directory)) == 1

    def test_status_goes_on_and_names_it(self, tmp_path: Path) -> None:
        new_vault(tmp_path)
        volume = open_volume(tmp_path)
        try:
            (tmp_path / "store" / ".lock").unlink()
            os.mkfifo(tmp_path / "store" / ".lock")
            status = report.status(volume)
            assert not status["store"]["reachable"]
            assert ".lock is not a regular file" in status["last_error"]
            with pytest.raises(StoreRejected):
                volume.check()
        finally:
            volume.close()
