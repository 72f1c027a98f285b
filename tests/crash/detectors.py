"""Detectors: small crash tests without chance. Each takes a folder and raises AssertionError when a promise is broken.

The mutation tests run them on mutated programs; the long crash tests are built of the same parts.
"""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash.altered import program
from tests.crash.crashing import CRASHED, Run, Scenario, Sweep, run_to_death
from tests.crash.damaging import KINDS, bench, flip_bits, forget, harm_blobs, name_of, replaced
from tests.crash.machines import CHEAP, Machine, clean, content, folder_of, make_folder, path_of, put, read, tree
from tests.crash.scenarios import answered, empty, sync
from tests.crash.test_store_faults import not_a_segment_before_its_packs
from tests.history.walk import FURNISHING, run
from tests.metadata.tree import Tree
from tests.support.damage import flip_bit
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.platform import CrashAt, FailingDisk, ManualClock, SimulatedCrash
from tests.support.server import Home
from tgdav.content.format.manifest import Extent, Manifest, encode
from tgdav.crdt.ops import ROOT, Group, Place, Snapshot, Write
from tgdav.crypto.passphrase import Argon2Limits, Argon2Parameters, Passphrase, stretch
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import DamageError, Exists, LocalFailure, TgdavError, VaultInUse
from tgdav.failpoints import installed
from tgdav.fs.api import Owner
from tgdav.ids import ChunkId, ContentTag, Incarnation, Inode, MachineId, NodeId, Position, SnapshotId
from tgdav.metadata import as_of
from tgdav.metadata.types import Attributes
from tgdav.replication import pusher
from tgdav.replication.pusher import Unsent
from tgdav.volume.volume import Volume


def power_cut(folder: Path) -> None:
    """Everything done and synced, then the power goes: all of it is there."""
    for seed in range(6):
        _one_power_cut(folder / f"{seed}", seed)


def _one_power_cut(folder: Path, seed: int) -> None:
    (folder / "backing").mkdir(parents=True)
    Machine(folder / "backing", seed=seed)  # the configuration: durable from the start
    with ForgetfulDisk(folder / "backing", folder / "disk", seed) as disk:
        first = Machine(disk.path, seed=seed, life="first")
        assert run_to_death(first, _STEPS) == len(_STEPS) - 1
        disk.power_cut()
        disk.start()
        try:
            with Machine(disk.path, seed=seed, life="second").opened() as volume:
                shown = {path.decode(): read(volume, path.decode()) for path in tree(volume) if path != b"folder"}
                assert shown == _RIGHT, f"seed {seed}: after the power cut: wrong content of {_different(shown)}"
                clean(volume)
        except TgdavError as error:
            raise AssertionError(f"seed {seed}: after the power cut: {type(error).__name__}: {error}") from error


def _different(shown: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*shown, *_RIGHT} if shown.get(name) != _RIGHT.get(name))


def _fsync(run: Run) -> None:
    handle = run.volume.fs.open(run.volume.fs.resolve(path_of("row")).inode, writable=True)
    handle.write(100, b"dirty")
    handle.fsync()


def _die(_run: Run) -> None:
    os._exit(CRASHED)


_STEPS: tuple[Callable[[Run], None], ...] = (
    lambda run: empty(run.machine),
    lambda run: put(run.volume, "stored", content(1, 150_000)),
    sync,
    lambda run: make_folder(run.volume, "folder"),
    lambda run: put(run.volume, "row", content(2, 5000)),
    lambda run: put(run.volume, "folder/large", content(3, 200_000)),
    _fsync,
    _die,
)
_RIGHT = {
    "stored": content(1, 150_000),
    "row": content(2, 5000)[:100] + b"dirty" + content(2, 5000)[105:],
    "folder/large": content(3, 200_000),
}


def order_of_steps(folder: Path) -> None:
    """Bytes are synced before the commit that names them, and the log after it, before the answer."""
    machine = Machine(folder)
    machine.create()
    with machine.opened() as volume:
        seen: list[str] = []
        with installed(seen.append):
            put(volume, "large", content(1, 150_000))
        last_append = max(number for number, name in enumerate(seen) if name == "content.after-append")
        synced = [number for number, name in enumerate(seen) if name == "content.after-pack-sync"]
        committed = seen.index("writer.before-commit")
        assert synced
        order = (last_append, synced[-1], committed, seen.index("writer.after-wal-sync"))
        assert list(order) == sorted(order), f"append, sync, commit, sync of the log came at {order} of {seen}"


def failed_syncs(folder: Path) -> None:
    """What did not sync is not acknowledged; after the log failed, nothing is."""
    machine = Machine(folder)
    disk = machine.disk = FailingDisk()
    machine.create()
    volume = machine.open()
    disk.fail("sync", 5, suffix=".pack")
    _refused(lambda: put(volume, "large", content(1, 150_000)), "a pack whose sync failed")
    put(volume, "small", b"small")
    disk.fail("sync", 5, suffix="-wal")
    _refused(lambda: put(volume, "other", b"other"), "a commit whose sync failed")
    _refused(lambda: put(volume, "third", b"third"), "a commit after one whose sync failed")
    assert set(tree(volume)) <= {b"small", b"other"}
    _refused(volume.close, "closing after a sync failed")


def _refused(action: Callable[[], None], what: str) -> None:
    try:
        action()
    except LocalFailure:
        return
    raise AssertionError(f"acknowledged: {what}")


def segments_follow_packs(folder: Path) -> None:
    """The log in the store never names a blob that the store does not have."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            not_a_segment_before_its_packs(folder / "machine", patch)
        except DamageError as error:
            raise AssertionError(f"a machine that joins lacks content: {error}") from error


def crashes(folder: Path) -> None:
    """Crashes in a short scenario of two sessions."""

    def again(run: Run) -> None:
        run.close()

    steps = (
        lambda run: put(run.volume, "a", content(1, 90_000)),
        lambda run: make_folder(run.volume, "f"),
        again,
        lambda run: put(run.volume, "b", content(2, 90_000)),
        lambda run: put(run.volume, "c", content(3, 900)),
        sync,
    )
    try:
        sweep = Sweep(Scenario("two sessions", empty, steps), folder, 1)
        names = set(sweep.expected[-1])
    except TgdavError as error:
        raise AssertionError(f"without any crash: {type(error).__name__}: {error}") from error
    assert names == {b"a", b"b", b"c", b"f"}, f"without any crash there are {names}"
    sweep.crash(range(1, sweep.total, 9), joins=lambda number: number % 3 == 0)


def answers(folder: Path) -> None:
    """Crashes right after something was answered before its commit."""
    steps = (*answered("one", 4, 900), *answered("two", 5, 70_000))
    sweep = Sweep(Scenario("answers", empty, steps), folder, 2)
    sweep.crash(range(1, sweep.total, 3), joins=lambda _: False)


def one_of_two_creates(folder: Path) -> None:
    """Of two uploads that both ask for a new name, exactly one makes it."""
    machine = Machine(folder)
    machine.create()
    with machine.opened() as volume:
        made: list[bytes] = []
        both_ready = threading.Barrier(2, timeout=30)

        def create(body: bytes) -> None:
            parent, name = folder_of(volume, "new")
            with volume.fs.upload(parent, name, owner=Owner()) as upload:
                upload.write(body)
                both_ready.wait()
                try:
                    upload.commit(precondition=_must_be_new)
                except Exists:
                    return
                made.append(body)

        threads = [threading.Thread(target=create, args=(body,)) for body in (b"one", b"two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1, f"{len(made)} uploads made the same new name"
        assert read(volume, "new") == made[0]


def _must_be_new(attributes: Attributes | None) -> None:
    if attributes is not None:
        raise Exists


def two_owners(folder: Path) -> None:
    """One process owns the state."""
    machine = Machine(folder)
    machine.create()
    with machine.opened():
        try:
            other = Machine(folder, life="other").open()
        except VaultInUse:
            return
        other.close()
        raise AssertionError("two opened the same state")


def a_body_cut_off(folder: Path, bug: str = "nothing") -> None:
    """A PUT whose body ends early changes no file and creates none."""
    home = Home(folder, config="version: 2\n" + CHEAP)
    home.run("init", "--backend", "directory", "--path", str(folder / "store"))
    home.program = tuple(program(bug))
    with home.server() as server, server.client() as client:
        assert client.request("PUT", "/old", body=b"old" * 1000).status == 201
        for name in ("old", "new"):
            with server.client() as other:
                other.send(other.head("PUT", f"/{name}", {"Content-Length": "100000"}) + b"x" * 50_000)
                other.cut_off()
        assert client.request("PUT", "/after", body=b"after").status == 201
        assert client.request("GET", "/old").body == b"old" * 1000, "an old content was cut"
        assert client.request("GET", "/new").status == 404, "a body cut off made a file"


def damage(folder: Path) -> None:
    """Harm to every kind of blob is noticed, named, and never read."""
    with bench(folder) as each:
        try:
            for kind in KINDS:
                flip_bits(each, kind, seed=5, count=20)
            harm_blobs(each, seed=5, count=40)
        except TgdavError as error:
            raise AssertionError(f"a check or a read of damage failed: {type(error).__name__}: {error}") from error


def rollback(folder: Path) -> None:
    """A store that shows an older state is damaged."""
    with bench(folder) as each:
        shutil.copytree(each.machine.store, folder / "older")
        put(each.volume, "later", content(9, 200_000))
        each.volume.sync(wait=True)
        new = {name_of(path) for path in each.machine.blobs() if not (folder / "older" / path.name).exists()}
        with replaced(each.machine.store, folder / "older"):
            named = {one["blob"] for one in each.volume.check(read_data=100.0)["damage"]}
            assert new <= named, f"of {len(new)} lost blobs {len(new & named)} are named"


def staged_damage(folder: Path) -> None:
    """What was damaged in staging before it was sent is reported, or read right."""
    machine = Machine(folder)
    machine.create()
    with machine.opened() as volume:
        put(volume, "file", content(1, 200_000))
    pack = next((machine.places.state / "staging").glob("*.pack"))
    flip_bit(pack, 8 * 50_000)
    with Machine(folder, life="after").opened() as volume:
        volume._synchronizer.run(wait=False)
        forget(volume)
        try:
            right = read(volume, "file") == content(1, 200_000)
        except DamageError:
            right = False
        assert right or not volume.check(read_data=100.0)["ok"], "a file is lost, and check says nothing"


def garbage(folder: Path) -> None:
    """Nobody needs what a garbage collection deletes: not the versions of files, and not a machine that joins meanwhile."""
    machine = Machine(folder)
    machine.create()
    # Closed without good order, as by a crash: closing would send what is not sent yet.
    volume = machine.open()
    clock = volume.platform.clock
    assert isinstance(clock, ManualClock)
    for path, seed in (("saved", 1), ("dead", 2)):
        put(volume, path, content(seed, 200_000))
    volume.sync(wait=True)
    put(volume, "dead", b"")
    clock.advance(60)
    put(volume, "saved", content(3, 200_000))
    volume.sync(wait=True)
    with installed(CrashAt(1, "gc.forgotten")), suppress(SimulatedCrash):
        volume.gc()
    with installed(CrashAt(1)), suppress(SimulatedCrash, LocalFailure):
        volume.close()
    joined = Machine(folder, "second").join()
    assert not joined.damage, f"a machine that joins misses {joined.damage}"
    with Machine(folder, "second", life="after").opened() as second:
        found = second.check(read_data=100.0)
        assert found["ok"], f"gc deleted what is in use: {found['damage']}"


def versions(folder: Path) -> None:
    """The versions of a file are those of its name, within the limit, and the same on a machine that joins."""
    machine = Machine(folder)
    machine.create()
    with machine.opened() as volume:
        clock = volume.platform.clock
        assert isinstance(clock, ManualClock)
        for size in range(1, 15):
            clock.advance(60)
            put(volume, "new" if size % 2 else "file", content(size, size))
            if size % 2:
                volume.fs.rename(volume.fs.root, b"new", volume.fs.root, b"file")
        before = _sizes_of_versions(volume)
        volume.sync(wait=True)
    assert len(before) == 11, f"a rename or the limit left {len(before)} versions"
    assert before[-2:] == [13, 14], f"the content before the last save is gone: {before}"
    Machine(folder, "second").join()
    with Machine(folder, "second", life="after").opened() as second:
        after = _sizes_of_versions(second)
    assert after == before, f"a machine that joins has other versions: {after}, not {before}"


def snapshots(folder: Path) -> None:
    """A snapshot reads as it was, after every kind of change, a restart, a purge, and on a machine that joins."""
    del folder
    run(
        [
            *FURNISHING,
            ("snapshot", (0, 0, 0, 0), 10, 0),
            ("restart", (0, 0, 0, 0), 10, 0),
            ("remove", (3, 0, 0, 0), 100, 0),
            ("empty", (1, 0, 0, 0), 10, 0),
            ("rewrite", (0, 1, 4, 0), 100, 0),
            ("rename", (2, 0, 4, 0), 10, 0),
            ("restart", (0, 0, 0, 0), 10, 0),
            *(("put", (number, number, number, 1), 10, 0) for number in range(4)),
            ("sync", (0, 0, 0, 0), 10, 0),
        ]
    )


def replaced_names(folder: Path) -> None:
    """An entry that comes to name another node keeps its place in a snapshot."""
    tree = Tree(folder / "state.db")
    try:
        first, second = tree.make(b"first"), tree.make(b"second")
        (entry,) = tree.entries(first)
        _, at = tree.snapshot()
        group = Group(1, 1 << 62, tree.clock.now_ns(), (Place(entry, second, ROOT, b"other"),))
        tree.journal.apply_groups(MachineId(b"2" * 16), Incarnation(2), [group])
        with tree.database.reading() as connection:
            names = [each.name for each in as_of.children(connection, Position(at), Inode(ROOT_INODE))]
        assert names == [b"first", b"second"], f"the snapshot lacks an entry that names another node now: {names}"
    finally:
        tree.close()


def order_of_groups(_folder: Path) -> None:
    """A snapshot is not sent before all groups that it stands on."""
    lost = ChunkId(b"c" * 32)
    manifest = encode(Manifest.from_extents([Extent(5, lost)]))
    write = Write(NodeId(b"n" * 16), 5, ContentTag(bytes(16)), manifest, None, 0)
    held = Unsent(Position(1), Group(1, 1, 1, (write,)), 100)
    later = Unsent(Position(2), Group(2, 2, 2, (Snapshot(SnapshotId(bytes(16)), "s", 0),)), 100)
    ready = pusher.choose_ready([held, later], set(), {lost})
    assert ready == [], "a snapshot was sent before a group that is held back"


def _sizes_of_versions(volume: Volume) -> list[int]:
    found = volume.versions.listed(volume.fs.resolve([b"file"]).inode)
    return [each.attributes.size for each in found[::-1]]


def forged_parameters(_folder: Path) -> None:
    """A header's demand beyond the limits is refused before any work."""
    try:
        stretch(Passphrase("x"), bytes(16), Argon2Parameters(1024, 60, 1), Argon2Limits())
    except DamageError:
        return
    raise AssertionError("an Argon2 run outside the limits was done")


DETECTORS: dict[str, Callable[[Path], None]] = {
    detector.__name__: detector
    for detector in (
        power_cut, order_of_steps, failed_syncs, segments_follow_packs, crashes, answers, one_of_two_creates, two_owners,
        a_body_cut_off, damage, rollback, staged_damage, garbage, versions, snapshots,
        replaced_names, order_of_groups, forged_parameters,
    )
}  # fmt: skip
