"""The store fails, tears, loses answers, is slow, goes away: nothing is lost or stored twice, and the queue drains."""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

import tgdav.volume.open as opening_module
from tests.crash.fleet import Fleet
from tests.crash.machines import (
    CHEAP,
    MINUTES,
    Machine,
    clean,
    content,
    contents,
    folder_of,
    make_folder,
    put,
    read,
    tree,
)
from tests.support.faulty_store import (
    AwayStore,
    FailingStore,
    FaultyStore,
    First,
    LostAnswerStore,
    Seeded,
    SlowStore,
    TearingStore,
    never,
    only,
)
from tests.support.server import Home, wait_for
from tgdav.blobs.interface import BlobStore
from tgdav.clock import SystemClock
from tgdav.errors import StoreUnavailable
from tgdav.platform import Platform
from tgdav.vault.stores import Stores
from tgdav.volume import report
from tgdav.volume.volume import Volume

Wrap = Callable[[BlobStore], FaultyStore]


@contextmanager
def over(machine: Machine, wrap: Wrap, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Volume, FaultyStore]]:
    """The machine's volume over a misbehaving store, without the patience that production has above it."""
    wrapped: list[FaultyStore] = []
    original = opening_module.open_store

    def open_store(*arguments: object, **options: object) -> Stores:
        stores: Stores = original(*arguments, **options)  # type: ignore[arg-type]
        wrapped.append(wrap(stores.counting))
        return msgspec.structs.replace(stores, store=wrapped[0])  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(opening_module, "open_store", open_store)
        volume = machine.open()
    try:
        yield volume, wrapped[0]
    finally:
        calm(wrapped[0])
        volume.close()


def calm(store: BlobStore) -> int:
    """End the storm of a store and of those below it; return how many faults there were."""
    faults = 0
    while isinstance(store, FaultyStore):
        store.schedule = never
        faults += store.faults.total()
        store = store.inner
    return faults


def _machine(folder: Path, seed: int) -> Machine:
    machine = Machine(folder, seed=seed)
    platform = Machine.platform
    machine.platform = lambda: Platform(SystemClock(), platform(machine).entropy, machine.disk)  # type: ignore[method-assign]
    machine.create()
    return machine


def drain(volume: Volume, attempts: int = 400) -> int:
    """Sync until nothing is pending; return how many attempts the store failed."""
    for attempt in range(attempts):
        try:
            volume.sync(wait=False)
        except StoreUnavailable:
            continue
        if not any(volume.pending().values()):
            return attempt
    raise AssertionError(f"the queue does not drain: {volume.pending()}, {report.status(volume)['last_error']}")


def sound(machine: Machine, volume: Volume) -> None:
    """Assert that nothing is stored twice, all is intact, and a machine that joins sees the same."""
    names = [path.name.split("-")[1] for path in machine.blobs()]
    assert len(names) == len(set(names)), "a blob's name is in the store twice"
    assert not [path for path in machine.store.iterdir() if path.name.startswith(".tmp")]
    clean(volume)
    shown = contents(tree(volume))
    joining = Machine(machine.folder, f"joined-{len(names)}-{random.randrange(1 << 30)}")
    joined = joining.join()
    assert not joined.damage, joined.damage
    with joining.opened() as other:
        assert contents(tree(other)) == shown


def work(volume: Volume, choose: random.Random, seed: int, steps: int) -> None:
    """Put, replace, rename, delete, and now and then try to sync."""
    names = ["a", "b", "c", "folder/d", "folder/e"]
    for step in range(steps):
        name = choose.choice(names)
        kind = choose.random()
        parent, last = folder_of(volume, name)
        present = {entry.name for entry in volume.fs.list_directory(parent)}
        if kind < 0.6 or last not in present:
            put(volume, name, content(seed * 1000 + step, choose.choice((0, 700, 20_000, 90_000, 200_000))))
        elif kind < 0.8:
            volume.fs.remove_tree(parent, last, durable=True)
        else:
            volume.fs.rename(parent, last, *folder_of(volume, choose.choice(names)), replace_tree=True, durable=True)
        if choose.random() < 0.3:
            try:
                volume.sync(wait=False)
            except StoreUnavailable:
                continue


STORMS: dict[str, Callable[[int], Wrap]] = {
    "fails": lambda seed: lambda inner: FailingStore(inner, Seeded(seed, 0.4)),
    "tears": lambda seed: lambda inner: TearingStore(inner, Seeded(seed, 0.4)),
    "loses answers": lambda seed: lambda inner: LostAnswerStore(inner, Seeded(seed, 0.4)),
    "all of it": lambda seed: (
        lambda inner: LostAnswerStore(
            TearingStore(FailingStore(inner, Seeded(seed, 0.2)), Seeded(seed + 1, 0.2)), Seeded(seed + 2, 0.2)
        )
    ),
}


def storm(folder: Path, kind: str, seed: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Work in a storm, then drain; return how many faults there were. In the storm the store never shows half a truth."""
    machine, choose = _machine(folder, seed), random.Random(seed)
    with over(machine, STORMS[kind](seed), monkeypatch) as (volume, store):
        make_folder(volume, "folder")
        work(volume, choose, seed, steps)
        shown = contents(tree(volume))
        drain(volume)
        assert contents(tree(volume)) == shown
        faults = calm(store)
        sound(machine, volume)
    return faults


@pytest.mark.parametrize("kind", STORMS)
def test_a_storm(quick_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = 0
    for number in range(5):  # chance may spare one of them
        seed, folder = random.randrange(1 << 20), quick_path / str(number)
        folder.mkdir()
        faults += storm(folder, kind, seed, 60, monkeypatch)
        print(f"\nstore {kind}: seed {seed}, {faults} faults")
        if faults > 10:
            return
    raise AssertionError(f"only {faults} faults")


@pytest.mark.torture
def test_storms_for_a_long_time(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end, rounds, faults = time.monotonic() + MINUTES * 60 / 6, 0, 0
    while time.monotonic() < end:
        seed, kind = random.randrange(1 << 20), random.choice(list(STORMS))
        print(f"\nstore {kind}: seed {seed}", end=", ", flush=True)  # before the storm, which may not come to its end
        found = storm(quick_path / f"{rounds}", kind, seed, 150, monkeypatch)
        print(f"{found} faults")
        rounds, faults = rounds + 1, faults + found
    print(f"\nstorms: {rounds} rounds, {faults} faults")


def test_everything_works_while_the_store_is_away(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _machine(quick_path, 1)
    with over(machine, AwayStore, monkeypatch) as (volume, store):
        assert isinstance(store, AwayStore)
        put(volume, "before", content(1, 200_000))
        drain(volume)
        store.away = True
        put(volume, "while", content(2, 200_000))
        put(volume, "small", b"small")
        with pytest.raises(StoreUnavailable):
            volume.sync(wait=True)
        assert (read(volume, "while"), read(volume, "small")) == (content(2, 200_000), b"small")
        assert volume.pending()["operations"]
        store.away = False
        drain(volume)
        sound(machine, volume)


def test_a_slow_store_holds_nobody_up(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _machine(quick_path, 2)
    with over(machine, lambda inner: SlowStore(inner, only("append")), monkeypatch) as (volume, store):
        assert isinstance(store, SlowStore)
        put(volume, "first", content(1, 200_000))
        syncing = threading.Thread(target=lambda: volume.sync(wait=True))
        syncing.start()
        assert store.waiting.acquire(timeout=20)
        for number in range(20):
            put(volume, f"file-{number}", content(number, 50_000))
        assert read(volume, "file-7") == content(7, 50_000)
        store.gate.set()
        syncing.join(60)
        assert not syncing.is_alive()
        drain(volume)
        sound(machine, volume)


def test_the_log_never_names_what_is_not_stored(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the store holds at any moment, joining it gives a tree that reads whole."""
    not_a_segment_before_its_packs(quick_path / "machine", monkeypatch)


def not_a_segment_before_its_packs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs fail to be appended, one after another, while all else works; each moment is joined."""
    machine = _machine(folder, 3)
    for number in range(3):
        with over(machine, lambda inner: _PackRefuser(inner, First(1, "append")), monkeypatch) as (volume, _):
            put(volume, f"large-{number}", content(number, 150_000))
            put(volume, f"small-{number}", content(number, 50))
            for _ in range(2):
                try:
                    volume.replicator.push()
                    volume.sync(wait=False)
                except StoreUnavailable:
                    pass
                _join_and_read(machine, f"{number}-{len(machine.blobs())}-{random.randrange(1 << 30)}")


class _PackRefuser(FailingStore):
    """Fails appends of large blobs, which only packs are here."""

    def append(self, name, source, label, *, progress=None):  # type: ignore[no-untyped-def]
        if source.size > 100_000:
            return super().append(name, source, label, progress=progress)
        return self.inner.append(name, source, label, progress=progress)


def _join_and_read(machine: Machine, name: str) -> None:
    copy = machine.folder.with_name(machine.folder.name + "-" + name)
    copy.mkdir()
    shutil.copytree(machine.store, copy / "store")
    joining = Machine(copy, "joined")
    assert not joining.join().damage
    with joining.opened() as other:
        tree(other)
        clean(other)


def test_the_stores_folder_goes_away_and_comes_back_while_serving(tmp_path: Path) -> None:
    home = Home(tmp_path, config="version: 2\n" + CHEAP)
    store, away = tmp_path / "store", tmp_path / "away"
    home.run("init", "--backend", "directory", "--path", str(store))
    fleet = Fleet(random.randrange(1 << 32), 8)
    with home.server() as server:
        fleet.make_folders(server)
        store.rename(away)
        fleet.start(server)
        wait_for(lambda: fleet.answered() > 200, 60)
        fleet.finish()
        fleet.verify(server)
        away.rename(store)
        told = home.run("--json", "sync", "--wait").json()
        assert told["pending"] == {"bytes": 0, "operations": 0}
        assert home.run("--json", "check", "--read-data").json()["ok"]
        server.terminate()
