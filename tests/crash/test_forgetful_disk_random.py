"""The forgetful disk behaves as an ordinary folder does, for random calls, and keeps all of a tree that was synced."""

import ctypes
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.corpus import digests_below
from tests.support.forgetful_disk import ForgetfulDisk, usable

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")

NOREPLACE, EXCHANGE = 1, 2
Action = Callable[[Path], object]


def renameat2(source: Path, target: Path, flags: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), ctypes.c_uint(flags)):
        raise OSError(ctypes.get_errno(), "renameat2")


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes, offset: int) -> bytes:
    """Write at ``offset`` and return the beginning of the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, data, offset)
        return os.pread(descriptor, 30_000, 0)
    finally:
        os.close(descriptor)


def random_action(choose: random.Random) -> Action:
    """Return a call on two random names, to be done below any root."""
    one, other = (f"{choose.choice(['', 'd1/', 'd2/'])}{choose.randint(0, 5)}" for _ in range(2))
    offset, data = choose.randint(0, 20_000), choose.randbytes(choose.randint(1, 9000))
    actions: list[Action] = [
        *[lambda root: write(root / one, data, offset)] * 4,
        lambda root: os.truncate(root / one, offset),
        lambda root: os.rename(root / one, root / other),
        lambda root: renameat2(root / one, root / other, NOREPLACE),
        lambda root: renameat2(root / one, root / other, EXCHANGE),
        lambda root: os.link(root / one, root / other),
        lambda root: (root / one).unlink(),
        lambda root: (root / one).mkdir(),
        lambda root: (root / "d1").mkdir(),
        lambda root: (root / "d2").mkdir(),
        lambda root: (root / one).rmdir(),
        lambda root: os.rename(root / "d1", root / "d2" / "moved"),
        lambda root: os.symlink(other, root / one),
        lambda root: sync(root / one),
        lambda root: sync(root),
    ]
    return choose.choice(actions)


def outcome(action: Action, root: Path) -> object:
    try:
        return action(root)
    except OSError as error:
        return error.errno


@pytest.mark.parametrize("seed", range(6))
def test_random_calls_do_what_they_do_on_an_ordinary_folder(tmp_path: Path, seed: int) -> None:
    choose, plain = random.Random(seed), tmp_path / "plain"
    plain.mkdir()
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk", seed) as disk:
        for step in range(300):
            action = random_action(choose)
            assert outcome(action, disk.path) == outcome(action, plain), f"seed {seed}, step {step}"
        expected = digests_below(plain, folders=True)
        assert digests_below(disk.path, folders=True) == expected
        if seed % 2:
            for path in [disk.path, *disk.path.rglob("*")]:
                if not path.is_symlink():
                    sync(path)
        report = disk.power_cut()
        if seed % 2:
            assert (report.pages_lost, report.names_lost) == (0, 0)
            assert digests_below(disk.backing, folders=True) == expected
        else:
            assert report.pages_lost + report.names_lost > 0
        assert not disk.backing.with_name("backing.graveyard").exists()
