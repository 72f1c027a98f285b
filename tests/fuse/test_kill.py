"""kill -9 of the mount's process while programs work: what fsync promised is there, and nothing is mixed."""

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.durable_worker import state_of
from tests.support.mounts import MountedVault
from tests.support.waiting import wait_for

ROUNDS = 4
ROOT = Path(__file__).parents[2]


def work_until_killed(vault: MountedVault, kind: str, notes: Path, seed: int, promises: int) -> None:
    """Let a worker be promised ``promises`` things, then kill the mount under it."""
    words = [sys.executable, "-m", "tests.fuse.durable_worker", kind, str(vault.path), str(notes), str(seed)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_for(
                lambda: worker.poll() is not None or (notes.exists() and notes.read_text().count("done") >= promises),
                60,
                what="promises",
            )
            assert worker.poll() is None, "the worker ended before the mount"
            vault.kill()
        finally:
            worker.kill()
    vault.clear()


def allowed(notes: Path) -> dict[str, set[str]]:
    """Return the states that each thing may show: the last that was promised, or one begun since."""
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
            work_until_killed(vault, "files", notes, seed + number, choose.randrange(3, 40))
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
            work_until_killed(vault, mode, notes, number, 25)
        promised = {int(line.split()[2]) for line in notes.read_text().splitlines() if line.startswith("done")}
        with vault:
            connection = sqlite3.connect(vault.path / "database")
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = {row[0] for row in connection.execute("SELECT number FROM rows")}
            connection.close()
            assert promised <= found
            assert found == set(range(1, max(found) + 1))
            vault.stop()


@pytest.mark.torture
def test_files_for_long(vault: MountedVault) -> None:
    rounds, seed = int(os.environ.get("TGDAV_KILL_ROUNDS", "100")), random.randrange(10**6)
    print(f"kill -9 of the mount: {rounds} rounds, seed {seed}")
    kill_rounds(vault, rounds, seed)
