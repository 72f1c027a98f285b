"""kill -9 of the mount's process while programs work: everything acknowledged is there, and nothing is mixed."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuse.acknowledged_worker import PAUSE, promised
from tests.fuse.durable_worker import state_of
from tests.support.mounts import MountedVault
from tests.support.waiting import wait_for

ROUNDS = 4
ROOT = Path(__file__).parents[2]


def work_until_killed(
    vault: MountedVault, words: list[str], notes: Path, promises: int, mark: str = "done", delay: float = 0.0
) -> None:
    """Run a worker until its notes have ``promises`` lines with ``mark``, then kill the mount."""
    with subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_for(
                lambda: worker.poll() is not None or (notes.exists() and notes.read_text().count(mark) >= promises),
                60,
                what="promises",
            )
            assert worker.poll() is None, "the worker ended before the mount"
            time.sleep(delay)
            vault.kill()
        finally:
            worker.kill()
    vault.clear()


def allowed(notes: Path) -> dict[str, set[str]]:
    """Return the allowed states of each file: the last promised one, or one begun since."""
    states: dict[str, set[str]] = {}
    for line in notes.read_text().splitlines():
        word, name, state = line.split()
        if word == "done":
            states[name] = {state}
        else:
            states.setdefault(name, set()).add(state)
    return states


def kill_rounds(vault: MountedVault, rounds: int, seed: int) -> None:
    choose = random.Random(seed)
    for number in range(rounds):
        notes = vault.base / f"notes-{number}"
        with vault:
            for left in vault.path.iterdir():
                left.unlink()
            words = ["tests.fuse.durable_worker", "files", str(vault.path), str(notes), str(seed + number)]
            work_until_killed(vault, words, notes, choose.randrange(3, 40))
        promised = {line.split()[1] for line in notes.read_text().splitlines() if line.startswith("done")}
        with vault:
            for name, states in allowed(notes).items():
                path = vault.path / name
                if name not in promised and not path.exists():
                    continue
                assert state_of(path.read_bytes()) in states, (seed, number, name)
            vault.stop()
    vault.home.run("check", "--read-data")


def test_files(vault: MountedVault) -> None:
    kill_rounds(vault, ROUNDS, seed=7)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite(vault: MountedVault, mode: str) -> None:
    for number in range(2):
        notes = vault.base / f"notes-{number}"
        with vault:
            words = ["tests.fuse.durable_worker", mode, str(vault.path), str(notes), f"{number}"]
            work_until_killed(vault, words, notes, 25)
        promised = {int(line.split()[2]) for line in notes.read_text().splitlines() if line.startswith("done")}
        with vault:
            connection = sqlite3.connect(vault.path / "database")
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = {row[0] for row in connection.execute("SELECT number FROM rows")}
            connection.close()
            assert promised <= found
            assert found == set(range(1, max(found) + 1))
            vault.stop()


def answered_rounds(vault: MountedVault, rounds: int, seed: int) -> int:
    """Kill the mount at a random moment, and check every acknowledged step. Return their number."""
    choose, answers = random.Random(seed), 0
    vault.start()
    for number in range(rounds):
        notes, directory = vault.base / f"notes-{number}", vault.path / f"round-{number}"
        directory.mkdir()
        words = ["tests.fuse.acknowledged_worker", str(directory), str(notes), str(seed + number)]
        work_until_killed(vault, words, notes, choose.randrange(1, 90), "\n\n", choose.random() * PAUSE)
        vault.start()
        tree, in_flight = promised(notes)
        assert list(tree.differences(directory, in_flight)) == [], (seed, number)
        answers += notes.read_text().count("\n\n")
        shutil.rmtree(directory)
    vault.stop()
    return answers


def test_everything_acknowledged(vault: MountedVault) -> None:
    assert answered_rounds(vault, 8, seed=11) > 100
    vault.home.run("check", "--read-data")


def test_truncate_of_an_open_file(vault: MountedVault) -> None:
    with vault:
        path = vault.path / "file"
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(file, bytes(1000))
        os.truncate(path, 10)
        vault.kill()
        with suppress(OSError):
            os.close(file)
    with vault:
        assert (vault.path / "file").stat().st_size == 10
        vault.stop()


@pytest.mark.torture
def test_everything_acknowledged_for_long(vault: MountedVault) -> None:
    rounds, seed = int(os.environ.get("TGDAV_KILL_ROUNDS", "500")), random.randrange(10**6)
    answers = answered_rounds(vault, rounds, seed)
    print(f"\nkill -9 of the mount at any moment: {rounds} kills, {answers} answers, seed {seed}")
    vault.home.run("check", "--read-data")


@pytest.mark.torture
def test_files_for_long(vault: MountedVault) -> None:
    rounds, seed = int(os.environ.get("TGDAV_KILL_ROUNDS", "100")), random.randrange(10**6)
    print(f"kill -9 of the mount: {rounds} rounds, seed {seed}")
    kill_rounds(vault, rounds, seed)
