"""Random operations on one file, and of several processes on many files, with the content checked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounts import MountedVault

OPERATIONS = 100_000
SEEDS = (1, 2, 3)
ROOT = Path(__file__).parents[2]


def exercise(path: Path, operations: int, seed: int) -> "subprocess.Popen[str]":
    """Start the exerciser."""
    words = [sys.executable, "-m", "tests.fuse.exerciser", str(path), str(operations), str(seed)]
    return subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def require_right(process: "subprocess.Popen[str]") -> None:
    said, _ = process.communicate(timeout=None)
    assert process.returncode == 0, said


@pytest.mark.parametrize("seed", SEEDS)
def test_one_file(directory: Path, seed: int) -> None:
    require_right(exercise(directory / "file", OPERATIONS // len(SEEDS), seed))


def test_several_processes_leave_a_clean_vault(vault: MountedVault) -> None:
    with vault:
        for running in [exercise(vault.path / str(seed), 2000, seed) for seed in range(4)]:
            require_right(running)
        vault.stop()
    vault.home.run("check", "--read-data")


@pytest.mark.torture
def test_one_file_for_long(directory: Path) -> None:
    operations = int(os.environ.get("TGDAV_EXERCISER_OPERATIONS", "1000000"))
    print(f"exerciser: {operations} operations in {len(SEEDS)} seeds")
    for seed in SEEDS:
        require_right(exercise(directory / str(seed), operations // len(SEEDS), seed + 100))
