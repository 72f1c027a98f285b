"""A small vault whose store is damaged on purpose, and what must be true of it then."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.machines import Machine, clean, content, make_folder, paths, put, read_inode
from tests.support.damage import Damage, preserved, random_damage
from tgdav.errors import DamageError, StoreError
from tgdav.ids import Inode
from tgdav.volume.volume import Volume

KINDS = ("pack", "segment", "checkpoint", "header")


def furnish(machine: Machine) -> None:
    """Make a vault with every kind of blob: several packs, segments, a checkpoint of two parts, two headers."""
    machine.create()
    with machine.opened() as volume:
        make_folder(volume, "folder")
        put(volume, "folder/small", content(1, 3000), {b"a": b"property"})
        put(volume, "folder/large", content(2, 300_000))
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        put(volume, "second", content(3, 120_000))
        put(volume, "text", b"compressible " * 20_000)
        volume.sync(wait=True)


@dataclass
class Bench:
    """An open volume, the right bytes of its files, and its blobs by kind."""

    machine: Machine
    volume: Volume
    right: dict[bytes, bytes]
    kinds: dict[str, list[Path]]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def blobs(self) -> list[Path]:
        return [path for paths_ in self.kinds.values() for path in paths_]

    def examine(self, harm: str, damaged: set[Path], *, silent: bool = False) -> None:
        """Assert that damage is found, named, and never returned as content; ``silent`` checks only the reads."""
        if not silent:
            found = self.volume.check(read_data=100.0)
            assert not found["ok"], f"{harm} went unnoticed"
            named = {each["blob"] for each in found["damage"]}
            assert {name_of(path) for path in damaged} <= named, f"{harm}: only {named} are named"
        self._read_all(harm, damaged)

    def _read_all(self, harm: str, damaged: set[Path]) -> None:
        forget(self.volume)
        whole = not any(path in self.kinds["pack"] for path in damaged)
        for path, inode, size in files(self.volume):
            data = _read(self.volume, inode, size)
            if isinstance(data, bytes):
                assert data == self.right[path], f"{harm}: wrong bytes of {path!r}"
                self.counts["reads right"] += 1
                continue
            assert not whole, f"{harm}: {path!r} does not read although its pack is whole: {data}"
            assert any(name_of(each) in str(data) + getattr(data, "blob", "") for each in damaged), data
            self.counts["reads refused"] += 1


def _read(volume: Volume, inode: Inode, size: int) -> bytes | Exception:
    try:
        return read_inode(volume, inode, size)
    except (DamageError, StoreError) as error:
        return error


def name_of(blob: Path) -> str:
    """Return the blob's name in hex, which is part of its file name."""
    return blob.name.split("-")[1]


def files(volume: Volume) -> list[tuple[bytes, Inode, int]]:
    return [(path, each.inode, each.size) for path, each in paths(volume) if each.is_file]


def forget(volume: Volume) -> None:
    """Let the volume read everything anew."""
    volume.content.reader.clear()


@contextmanager
def bench(folder: Path, seed: int = 1) -> Iterator[Bench]:
    """A furnished vault, opened."""
    machine = Machine(folder, seed=seed)
    furnish(machine)
    with Machine(folder, seed=seed, life="bench").opened() as volume:
        right = {path: read_inode(volume, inode, size) for path, inode, size in files(volume)}
        clean(volume)
        yield Bench(machine, volume, right, _kinds(machine, volume))


def _kinds(machine: Machine, volume: Volume) -> dict[str, list[Path]]:
    """Sort the store's blobs by their kind in this machine's database."""
    with volume.database.reading() as connection:
        packs = {row[0].hex() for row in connection.all("SELECT name FROM packs")}
        segments = {row[0].hex() for row in connection.all("SELECT name FROM segments")}
        checkpoints = {row[0].hex() for row in connection.all("SELECT name FROM checkpoint_parts")}
    named = {"pack": packs, "segment": segments, "checkpoint": checkpoints}
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in machine.blobs():
        kind = next((kind for kind, names in named.items() if name_of(path) in names), "header")
        found[kind].append(path)
    assert all(found.values()), found
    return found


def flip_bits(each: Bench, kind: str, *, seed: int, count: int) -> None:
    """Flip bits of one kind of blob, one at a time; assert that each is found, and nothing else."""
    for harm in random_damage(each.kinds[kind], seed, count, ("flip",)):
        _do(each, harm, f"seed {seed}: {kind}: {harm}")
    _examine_whole(each)


def harm_blobs(each: Bench, *, seed: int, count: int) -> None:
    """Harm blobs in other ways, one or two at a time; assert that each is found, and nothing else."""
    for harm in random_damage(each.blobs, seed, count, ("truncate", "extend", "swap", "zero", "delete")):
        _do(each, harm, f"seed {seed}: {harm}")
    _examine_whole(each)


def _examine_whole(each: Bench) -> None:
    clean(each.volume)
    each.examine("nothing", set(), silent=True)


def _do(each: Bench, harm: Damage, text: str) -> None:
    with preserved(*harm.paths):
        harm.do()
        each.examine(text, set(harm.paths))
    each.counts[harm.kind] += 1


@contextmanager
def replaced(store: Path, other: Path) -> Iterator[None]:
    """Show ``other``'s blobs in the place of the store's."""
    kept = store.with_name("kept")
    store.rename(kept)
    shutil.copytree(other, store)
    try:
        yield
    finally:
        shutil.rmtree(store)
        kept.rename(store)


def any_seed() -> int:
    return random.randrange(1 << 32)
