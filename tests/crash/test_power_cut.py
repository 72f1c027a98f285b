"""Power cuts while clients write: on a disk that forgets unsynced data, nothing acknowledged is lost."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.fleet import Fleet
from tests.crash.machines import CHEAP
from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.server import Home, wait_for

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")

CLIENTS = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ForgetfulDisk]:
    Home(tmp_path / "backing", config="version: 2\n" + CHEAP)  # the user's own file: durable from the start
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk", random.randrange(1 << 32)) as mounted:
        yield mounted


def cut_rounds(
    disk: ForgetfulDisk, store: Path, *, rounds: int, seed: int, home: Home | None = None, has_control: bool = True
) -> Fleet:
    """Cut the power ``rounds`` times under clients; assert after each that all that was answered is there, whole.

    ``has_control``: whether commands can be run while the server runs.
    """
    home = home or Home(disk.path)
    home.run("init", "--backend", "directory", "--path", str(store))
    choose, fleet = random.Random(seed), Fleet(seed, CLIENTS)
    server = home.server()
    with server:
        fleet.make_folders(server)
        for number in range(rounds):
            fleet.start(server)
            wanted = choose.randint(1, 10 * CLIENTS)
            wait_for(lambda wanted=wanted: fleet.answered() >= wanted, 90, interval=0.001)
            report = disk.power_cut()
            server.kill()
            fleet.join(refusals=True)
            fleet.counts.update(report.as_dict())
            disk.start()
            if number % 3 == 1:
                home.run("check", "--read-data")
            server.start()
            fleet.verify(server)
            if has_control:
                home.run("check", "--read-data")
        server.terminate()
    home.run("check", "--read-data")
    fleet.counts["cuts"] = rounds
    return fleet


def _report(fleet: Fleet, disk: ForgetfulDisk, where: str) -> None:
    print(f"\npower cut: store {where}, seed {fleet.seed}, disk {disk.seed}, {dict(sorted(fleet.counts.items()))}")


def test_home_and_store_on_the_disk_that_forgets(disk: ForgetfulDisk) -> None:
    fleet = cut_rounds(disk, disk.path / "store", rounds=5, seed=random.randrange(1 << 32))
    _report(fleet, disk, "on the disk")
    assert fleet.counts["pages_lost"] > 0
    assert fleet.counts["PUT"] > 50


def test_the_store_elsewhere(disk: ForgetfulDisk, tmp_path: Path) -> None:
    fleet = cut_rounds(disk, tmp_path / "store", rounds=5, seed=random.randrange(1 << 32))
    _report(fleet, disk, "elsewhere")
    assert fleet.counts["pages_lost"] > 0


@pytest.mark.torture
@pytest.mark.parametrize("where", ["disk", "elsewhere"])
def test_thirty_power_cuts(disk: ForgetfulDisk, tmp_path: Path, where: str) -> None:
    store = disk.path / "store" if where == "disk" else tmp_path / "store"
    fleet = cut_rounds(disk, store, rounds=30, seed=random.randrange(1 << 32))
    _report(fleet, disk, where)


def test_the_drive_in_a_stock_wsgidav_application(disk: ForgetfulDisk, tmp_path: Path) -> None:
    """Responses of WsgiDAV's own handlers over our provider are as durable as those of our server."""
    program = (sys.executable, "-m", "tests.support.embedded")
    home = Home(disk.path, program=program)
    fleet = cut_rounds(disk, tmp_path / "store", rounds=2, seed=1, home=home, has_control=False)
    _report(fleet, disk, "elsewhere, embedded")
    assert fleet.counts["pages_lost"] > 0
    assert fleet.counts["PUT"] > 20
