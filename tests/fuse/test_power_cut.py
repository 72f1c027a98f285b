"""Power cuts under a mount: on a disk that forgets what was not synced, fsync keeps its promise."""

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.durable_worker import state_of
from tests.fuse.test_kill import ROOT, allowed
from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.mounts import CONFIG, MountedVault
from tests.support.server import Home
from tests.support.volumes import PASSPHRASE
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")

Report = Counter[str]


class CutVault:
    """A vault whose home and store are on the forgetful disk, and its mount."""

    def __init__(self, base: Path, seed: int) -> None:
        Home(base / "backing", config=CONFIG.format(store="../store"))  # the user's own file: durable from the start
        self.disk = ForgetfulDisk(base / "backing", base / "disk", seed)
        self.seed, self.base, self.report = seed, base, Report()
        self.home = Home(self.disk.path, passphrase=PASSPHRASE)
        self.mount = MountedVault(base / "vault", home=self.home)

    def __enter__(self) -> "CutVault":
        self.disk.start()
        self.home.run("init")
        return self

    def __exit__(self, *_: object) -> None:
        self.mount.clear()
        self.disk.close()

    def cut_under(self, kind: str, number: int, promises: int) -> Path:
        """Run a worker until ``promises`` of its syncs have returned, cut the power, restart the disk. Return the notes."""
        notes = self.base / f"notes-{number}"
        words = [sys.executable, "-m", "tests.fuse.durable_worker", kind, str(self.mount.path), str(notes), str(number)]
        with self.mount, subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as worker:
            try:
                wait_for(
                    lambda: (
                        worker.poll() is not None or (notes.exists() and notes.read_text().count("done") >= promises)
                    ),
                    60,
                    what="promises",
                )
                assert worker.poll() is None, "the worker ended before the power"
                self.report.update(self.disk.power_cut().as_dict())
                self.mount.kill()
            finally:
                worker.kill()
        self.disk.start()
        self.report.update(cuts=1, promises=notes.read_text().count("done"))
        return notes


@pytest.fixture
def cut_vault(tmp_path: Path) -> Iterator[CutVault]:
    with CutVault(tmp_path, random.randrange(1 << 32)) as vault:
        yield vault


def file_rounds(vault: CutVault, rounds: int) -> None:
    """Cut the power ``rounds`` times while files change. Each must have the last promised state, or one begun since."""
    choose = random.Random(vault.seed)
    for number in range(rounds):
        notes = vault.cut_under("cuts", number, choose.randrange(5, 60))
        promised = {line.split()[1] for line in notes.read_text().splitlines() if line.startswith("done")}
        with vault.mount:
            for name, states in allowed(notes).items():
                path = vault.mount.path / name
                if name in promised or path.exists():
                    assert state_of(path.read_bytes()) in states, (vault.seed, number, name)
            for left in vault.mount.path.iterdir():
                left.unlink()
            vault.mount.stop()
        vault.home.run("check", "--read-data")
    print(f"\npower cuts under the mount: seed {vault.seed}, {dict(sorted(vault.report.items()))}")
    assert vault.report["pages_lost"] > 0


def database_rounds(vault: CutVault, mode: str, rounds: int) -> None:
    """Cut the power ``rounds`` times while SQLite works. Every row whose insert returned must be there."""
    choose = random.Random(vault.seed)
    for number in range(rounds):
        notes = vault.cut_under(mode, number, choose.randrange(5, 40))
        promised = {int(line.split()[2]) for line in notes.read_text().splitlines() if line.startswith("done")}
        with vault.mount:
            connection = sqlite3.connect(vault.mount.path / "database")
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = {row[0] for row in connection.execute("SELECT number FROM rows")}
            connection.close()
            assert promised <= found == set(range(1, max(found) + 1)), (vault.seed, number)
            vault.mount.stop()
    vault.home.run("check", "--read-data")
    print(f"\npower cuts under SQLite, {mode}: seed {vault.seed}, {dict(sorted(vault.report.items()))}")


def test_files(cut_vault: CutVault) -> None:
    file_rounds(cut_vault, 5)


@pytest.mark.torture
def test_files_for_long(cut_vault: CutVault) -> None:
    file_rounds(cut_vault, int(os.environ.get("TGDAV_CUT_ROUNDS", "50")))


@pytest.mark.torture
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_for_long(cut_vault: CutVault, mode: str) -> None:
    database_rounds(cut_vault, mode, 10)
