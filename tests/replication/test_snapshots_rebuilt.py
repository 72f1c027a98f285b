"""Snapshots show the same after a restart, and on a machine that has nothing but the store."""

from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.replication.histories import FOLDERS, NAMES, do, furnish
from tests.support.vaults import Vault, content
from tgdav.metadata.types import Attributes
from tgdav.volume.volume import Volume

Shown = dict[bytes, object]


def shown(volume: Volume, top: bytes = b"") -> Shown:
    """Return all that a tree shows, by path below ``top``."""
    fs, found = volume.fs, dict[bytes, object]()
    waiting = [(b"", fs.resolve(top.split(b"/") if top else []))]
    while waiting:
        path, node = waiting.pop()
        found[path] = (_kept(node), fs.properties([node.inode]).get(node.inode), fs.list_xattrs(node.inode))
        if node.is_directory:
            waiting += [(path + b"/" + entry.name, entry.attributes) for entry in fs.list_directory(node.inode)]
        elif node.is_file:
            handle = fs.open(node.inode)
            found[path] = (found[path], handle.read(0, node.size + 1))
            handle.close()
        else:
            found[path] = (found[path], fs.read_link(node.inode))
    return found


def _kept(node: Attributes) -> Attributes:
    return msgspec.structs.replace(node, inode=0, atime=0)


def drawn(chance: Random) -> tuple[object, ...]:
    """Return a random step of ``histories``."""
    path, other = (f"{chance.choice(FOLDERS)}/{chance.choice(NAMES)}" for _ in range(2))
    folder = chance.choice(FOLDERS)
    return chance.choice(
        [
            ("put", path, chance.randrange(6), chance.choice((0, 10, 5000, 40_000))),
            ("put", path, chance.randrange(6), chance.choice((0, 10, 5000, 40_000))),
            ("rename", path, other),
            ("rename", folder, chance.choice(FOLDERS)),
            ("remove", chance.choice((path, path, folder))),
            ("link", path, other),
            ("folder", folder),
            ("symlink", path, b"target"),
            ("attributes", path, chance.randrange(0o10000), chance.randrange(1 << 60)),
            ("property", path, chance.choice((b"p", b"q")), chance.choice((None, content(1, 9)))),
            ("time", chance.randrange(1, 20)),
            ("sync",),
        ]
    )


def check(volume: Volume, taken: dict[str, Shown]) -> None:
    for name, was in taken.items():
        assert shown(volume, b".snapshots/" + name.encode()) == was


@pytest.mark.parametrize("seed", range(3))
def test_snapshots_of_any_history_come_back_equal(tmp_path: Path, seed: int) -> None:
    chance, vault, taken = Random(seed), Vault(tmp_path), dict[str, Shown]()
    with vault.opened() as volume:
        furnish(volume, 10)
        for number in range(60):
            do(volume, drawn(chance))
            if number % 12 == 5:
                name = f"snapshot {number}"
                volume.snapshots.make(name)
                taken[name] = shown(volume)
            if number == 30 + seed:
                do(volume, ("checkpoint",))
            if number % 10 == 0:
                check(volume, taken)
        check(volume, taken)
        volume.snapshots.delete("snapshot 17")
        del taken["snapshot 17"]
        while volume.snapshots.upkeep():
            pass
        check(volume, taken)
        volume.sync(wait=True)
    with vault.opened() as volume:
        check(volume, taken)
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        check(second, taken)
        assert len(second.fs.list_directory(second.fs.resolve([b".snapshots"]).inode)) == len(taken) == 4
