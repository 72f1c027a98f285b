"""A full disk of the local state: what is there can be read, and what is not wanted be deleted."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.vaults import put, read, rows
from tests.support.volumes import new_vault, open_volume, places
from tgdav.config import StatePaths
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.errors import NoSpace, NotFound
from tgdav.vault.disk_reserve import NEEDED_BYTES, RESERVE_BYTES, Reserve

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")

MIB = 1024**2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ForgetfulDisk]:
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def base(disk: ForgetfulDisk, tmp_path: Path) -> Path:
    """A vault whose home is on the disk, and its store elsewhere."""
    base = disk.path / "vault"
    base.mkdir()
    new_vault(base)
    (base / "store").rename(base / "moved")
    (tmp_path / "store").mkdir()
    for blob in (base / "moved").iterdir():
        (tmp_path / "store" / blob.name).write_bytes(blob.read_bytes())
    (base / "store").symlink_to(tmp_path / "store")
    return base


@pytest.fixture
def home(base: Path) -> StatePaths:
    return places(base)


def reserve(home: StatePaths) -> Reserve:
    return Reserve(home, SystemDisk(), SystemEntropy())


def test_the_volume_opens_reads_and_deletes_by_the_reserve(disk: ForgetfulDisk, base: Path, home: StatePaths) -> None:
    volume = open_volume(base)
    data = random.randbytes(100_000)
    put(volume, "file", data)
    volume.sync(wait=True)
    volume.reserve.maintain()
    volume.close()
    disk.limit(0)
    volume = open_volume(base)
    assert not (home.state / "reserve").exists()
    assert read(volume, "file") == data
    volume.fs.unlink(volume.fs.root, b"file", durable=True)
    with pytest.raises(NoSpace, match="are reserved"):
        put(volume, "other", random.randbytes(4 * MIB))
    with pytest.raises(NotFound):
        read(volume, "file")
    assert rows(volume, "SELECT count(*) FROM nodes WHERE nlink > 0")
    disk.heal()
    volume.close()


def test_the_cache_gives_way_first(disk: ForgetfulDisk, home: StatePaths) -> None:
    reserve(home).maintain()
    (home.cache / "ab").mkdir(parents=True)
    for number in range(6):
        file = home.cache / "ab" / str(number)
        file.write_bytes(bytes(MIB))
        os.utime(file, (number, number))
    disk.limit(0)
    reserve(home).free_space()
    assert (home.state / "reserve").stat().st_size == RESERVE_BYTES
    assert sorted(path.name for path in (home.cache / "ab").iterdir()) == ["4", "5"]


def test_without_either_one_line_says_which_disk_and_how_much(
    disk: ForgetfulDisk, base: Path, home: StatePaths
) -> None:
    disk.limit(MIB)
    with pytest.raises(NoSpace) as refused:
        open_volume(base)
    assert str(refused.value) == f"the disk that holds {home.state} is full; free {NEEDED_BYTES // MIB - 1} MiB on it"


def test_it_is_given_up_while_running_and_set_aside_again(disk: ForgetfulDisk, home: StatePaths) -> None:
    keeper, file = reserve(home), home.state / "reserve"
    keeper.maintain()
    assert file.stat().st_size == RESERVE_BYTES
    assert file.stat().st_mode & 0o777 == 0o600
    disk.limit(MIB)
    keeper.maintain()
    assert not file.exists()
    keeper.maintain()
    assert not file.exists()
    disk.heal()
    keeper.maintain()
    assert file.exists()
