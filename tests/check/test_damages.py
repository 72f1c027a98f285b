"""Random damages of a vault with a past: found, named by every path that cannot be read, and repaired where data is here."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.crash.damaging import any_seed
from tests.support.damage import preserved, random_damage
from tests.support.vaults import Vault, content, folder_of, make_folder, name_of, put, rows
from tests.support.volumes import copy_folder
from tgdav.errors import DamageError, StoreError
from tgdav.ids import BlobName, Inode
from tgdav.volume.volume import Volume

TOPS = (b"", b".snapshots", b".versions", b".trash")


def furnish(vault: Vault, volume: Volume) -> None:
    """Contents of every age: present, replaced, renamed over, deleted, moved; in snapshots and not; packs for each step."""
    fs = volume.fs

    def step(snapshot: str = "") -> None:
        if snapshot:
            volume.make_snapshot(snapshot)
        volume.sync(wait=True)
        vault.clock.advance(100)

    make_folder(volume, "directory")
    for number in range(4):
        put(volume, f"directory/kept-{number}", content(number, 40_000 + 9_000 * number))
    put(volume, "small", content(10, 900))
    put(volume, "deleted", content(11, 60_000))
    put(volume, "replaced", content(12, 50_000))
    put(volume, "target", content(13, 45_000))
    step("first")
    put(volume, "replaced", content(14, 52_000))
    put(volume, "directory/kept-0", content(15, 42_000))
    put(volume, "temporary", content(16, 47_000))
    step()
    put(volume, "replaced", content(17, 54_000))
    fs.rename(*folder_of(volume, "temporary"), *folder_of(volume, "target"), durable=True)
    fs.remove_tree(fs.root, b"deleted", durable=True)
    step("second")
    make_folder(volume, "removed")
    put(volume, "removed/within", content(18, 61_000))
    put(volume, "directory/new", content(19, 44_000))
    step()
    fs.remove_tree(fs.root, b"removed", durable=True)
    fs.rename(*folder_of(volume, "directory/kept-1"), *folder_of(volume, "moved"), durable=True)
    step()
    assert volume.replicator.checkpoint()


def walk(volume: Volume) -> Iterator[tuple[str, Inode, int]]:
    """Yield (path, inode, size) of each file that users see, in the present and in history."""
    fs = volume.fs
    for top in TOPS:
        start = fs.resolve([top]).inode if top else fs.root
        waiting = [(f"/{top.decode()}".rstrip("/"), start)]
        while waiting:
            path, directory = waiting.pop()
            entries = fs.list_directory(directory)
            if top == b".versions" and entries and entries[0].attributes.is_file:
                # The last version is the present content, which has a path of its own.
                entries = sorted(entries, key=lambda entry: int(entry.name.split(b"-")[0]))[:-1]
            for entry in entries:
                below = f"{path}/{entry.name.decode()}"
                if entry.attributes.is_directory:
                    waiting.append((below, entry.attributes.inode))
                else:
                    yield below, entry.attributes.inode, entry.attributes.size


def read(volume: Volume, inode: Inode, size: int) -> bytes:
    handle = volume.fs.open(inode)
    try:
        return handle.read(0, size + 1)
    finally:
        handle.close()


@dataclass
class Bench:
    """A vault with a past, and the right bytes of each path."""

    vault: Vault
    volume: Volume
    right: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.right = {path: read(self.volume, inode, size) for path, inode, size in walk(self.volume)}

    @property
    def packs(self) -> list[Path]:
        return [self.vault.blob(row[0]) for row in rows(self.volume, "SELECT name FROM packs WHERE state = 3")]

    def unreadable(self) -> set[str]:
        """Return the paths that cannot be read; every other one gives the right bytes."""
        bad = set()
        for path, inode, size in walk(self.volume):
            try:
                data = read(self.volume, inode, size)
            except (DamageError, StoreError):
                bad.add(path)
            else:
                assert data == self.right[path], path
        return bad

    def damage(self, seed: int, count: int) -> None:
        """Damage packs, one or two at a time; assert that exactly the paths that cannot be read are named."""
        harms = random_damage(self.packs, seed, count, ("flip", "truncate", "extend", "zero", "swap", "delete"))
        for harm in harms:
            with preserved(*harm.paths):
                harm.do()
                self.volume.content.reader.clear()
                found = self.volume.check(read_data=100.0)
                named = {path for each in found["damage"] for path in each["paths"]}
                assert {name_of(path) for path in harm.paths} <= {each["blob"] for each in found["damage"]}, harm
                bad = self.unreadable()
                assert bad <= named, f"seed {seed}: {harm}: {bad - named} are not named"
                assert named <= set(self.right), f"seed {seed}: {harm}: {named - set(self.right)} do not exist"
                if harm.kind == "delete" or (bad and harm.kind == "flip"):
                    assert bad == named, f"seed {seed}: {harm}: {named - bad} can be read"
                self.counts[harm.kind] += 1
                self.counts["paths in history"] += sum(path.startswith(("/.s", "/.v", "/.t")) for path in bad)
                self.counts["present paths"] += sum(not path.startswith(("/.s", "/.v", "/.t")) for path in bad)
        self.volume.content.reader.clear()
        assert self.volume.check(read_data=100.0)["ok"]


def copied(vault: Vault, folder: Path) -> Vault:
    """Return a copy of a vault that nobody has open."""
    copy_folder(vault.folder, folder)
    copy = Vault.__new__(Vault)
    copy.folder, copy.sections, copy.clock = folder, vault.sections, vault.clock
    return copy


def keep_some(volume: Volume, blobs: list[Path], choose: random.Random) -> None:
    """Have the cache hold some of these packs: whole, or some of their chunks, or nothing."""
    volume.content.reader.clear()
    for blob in blobs:
        name, data = BlobName(bytes.fromhex(name_of(blob))), blob.read_bytes()
        kept = choose.choice(("nothing", "pieces", "pieces", "whole"))
        chunks = "SELECT offset, stored FROM chunks WHERE pack = (SELECT no FROM packs WHERE name = ?)"
        for offset, stored in rows(volume, chunks, (name,)) if kept == "pieces" else ():
            if choose.random() < 0.6:
                volume.content.reader.cache.put(name, offset, data[offset : offset + stored])
        if kept == "whole":
            volume.content.reader.cache.put(name, 0, data)


def repair_damages(vault: Vault, folder: Path, seed: int, count: int) -> Counter[str]:
    """Damage and repair copies of a vault; assert that what was readable before with what is here is in the store after.

    Of what it cannot repair, exactly the paths that cannot be read are named.
    """
    choose, counts = random.Random(seed), Counter[str]()
    for number in range(count):
        copy = copied(vault, folder / str(number))
        with copy.opened() as volume:
            bench = Bench(copy, volume)
            packs = bench.packs
            [harm] = random_damage(packs, seed + number, 1, ("flip", "truncate", "zero", "swap", "delete"))
            keep_some(volume, list(harm.paths), choose)
            harm.do()
            text = f"seed {seed}, number {number}: {harm}"
            lost = bench.unreadable()
            found = volume.check(read_data=100.0, repair=True)
            volume.content.reader.clear()
            assert bench.unreadable() == lost, f"{text}: the store does not have what was here"
            named = {path for each in found["damage"] for path in each["paths"]}
            assert lost <= named, f"{text}: {lost - named} are not named"
            if not lost:
                assert found["ok"], f"{text}: {found['damage']}"
                assert volume.check(read_data=100.0, drill=True)["ok"], text
            counts["repaired" if not lost else "lost in part"] += 1
        shutil.rmtree(folder / str(number))
    return counts


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    vault = Vault(tmp_path_factory.mktemp("damages") / "vault")
    with vault.opened() as volume:
        furnish(vault, volume)
    return vault


def test_damages_are_repaired_where_local_data_allows(furnished: Vault, tmp_path: Path) -> None:
    seed = any_seed()
    counts = repair_damages(furnished, tmp_path, seed, 12)
    print(f"\nrepairs: seed {seed}, {dict(counts)}")


@pytest.mark.torture
def test_200_damages_are_repaired_where_local_data_allows(furnished: Vault, tmp_path: Path) -> None:
    seed = any_seed()
    counts = repair_damages(furnished, tmp_path, seed, 200)
    print(f"\nrepairs: seed {seed}, {dict(counts)}")
    assert counts["repaired"] > 50
    assert counts["lost in part"] > 10


@pytest.fixture
def bench(vault: Vault) -> Iterator[Bench]:
    with vault.opened() as volume:
        furnish(vault, volume)
        yield Bench(vault, volume)


def test_every_place_of_history_is_there(bench: Bench) -> None:
    """What the other tests rely on."""
    assert {"/.snapshots/first/deleted", "/.snapshots/second/directory/kept-1", "/.snapshots/first/target"} <= set(
        bench.right
    )
    assert any(path.startswith("/.versions/replaced/1-") for path in bench.right)
    assert any(path.startswith("/.versions/target/1-") for path in bench.right)
    assert any(path.startswith("/.trash/") and path.endswith("/removed/within") for path in bench.right)
    assert "/moved" in bench.right


def test_damages_are_named_by_path_version_snapshot_and_trash(bench: Bench) -> None:
    seed = any_seed()
    bench.damage(seed, 30)
    print(f"\ndamages: seed {seed}, {dict(bench.counts)}")
    assert bench.counts["paths in history"] > 20


@pytest.mark.torture
def test_200_damages(bench: Bench) -> None:
    seed = any_seed()
    bench.damage(seed, 200)
    print(f"\ndamages: seed {seed}, {dict(bench.counts)}")
