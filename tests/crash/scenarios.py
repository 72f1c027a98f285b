"""What is being done when the crash comes: short scripts that pass through every durable step."""

import errno
import shutil
from unittest import mock

from tests.crash.crashing import Run, Scenario, Step
from tests.crash.machines import PASSPHRASE, Machine, content, folder_of, make_folder, path_of, put
from tests.support.platform import FailingDisk
from tests.support.volumes import copy_folder
from tgdav.crypto.passphrase import Passphrase
from tgdav.errors import AccessError, LocalFailure
from tgdav.fs import trash
from tgdav.fs.api import Owner
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.vault.state_dir import vault_exists
from tgdav.volume.volume import Volume

NEW_PASSPHRASE = "staple battery horse"


def empty(machine: Machine) -> None:
    machine.create()


def furnished(machine: Machine) -> None:
    """A vault with a few files and folders, some in the store, some only staged."""
    machine.create()
    with machine.opened() as volume:
        for folder in ("a", "a/b", "a/b/c", "d"):
            make_folder(volume, folder)
        put(volume, "a/small", content(1, 900), {b"color": b"red"})
        put(volume, "a/b/large", content(2, 200_000))
        volume.sync(wait=True)
        put(volume, "a/b/c/staged", content(3, 90_000))
        put(volume, "d/row", content(4, 10_000))


def _put(path: str, seed: int, size: int) -> Step:
    return lambda run: put(run.volume, path, content(seed, size), {b"seed": b"%d" % seed})


def _folder(path: str) -> Step:
    return lambda run: make_folder(run.volume, path)


def _rename(source: str, target: str) -> Step:
    def step(run: Run) -> None:
        old, new = folder_of(run.volume, source), folder_of(run.volume, target)
        run.volume.fs.rename(*old, *new, replace_tree=True, durable=True)

    return step


def _copy(source: str, target: str) -> Step:
    def step(run: Run) -> None:
        inode = run.volume.fs.resolve(path_of(source)).inode
        run.volume.fs.copy(inode, *folder_of(run.volume, target), replace=True, durable=True)

    return step


def _remove(path: str) -> Step:
    return lambda run: run.volume.fs.remove_tree(*folder_of(run.volume, path), durable=True)


def _undelete(path: str) -> Step:
    def step(run: Run) -> None:
        assert run.volume.fs.trash.restore(b"/" + path.encode()) == b"/" + path.encode()

    return step


def empty_trash(run: Run) -> None:
    """Empty it, in steps of a few entries and rows."""
    with mock.patch.object(trash, "PURGED_AT_ONCE", 2):
        run.volume.fs.trash.empty()


def _write_and_fsync(path: str, pieces: list[tuple[int, bytes]]) -> Step:
    """Write through a handle, fsync, and leave it open, dirty."""

    def step(run: Run) -> None:
        handle = run.volume.fs.open(run.volume.fs.resolve(path_of(path)).inode, writable=True)
        for offset, data in pieces:
            handle.write(offset, data)
        handle.fsync()

    return step


def _write_and_close(path: str, offset: int, data: bytes) -> Step:
    def step(run: Run) -> None:
        handle = run.volume.fs.open(run.volume.fs.resolve(path_of(path)).inode, writable=True)
        handle.write(offset, data)
        handle.close()

    return step


def answered(path: str, seed: int, size: int) -> tuple[Step, Step, Step]:
    """Make a file, write and close it, and change it and its folder, as a mount does that answers before the commit."""

    def make(run: Run) -> None:
        run.volume.fs.create(*folder_of(run.volume, path), Kind.FILE, 0o644, Owner())

    def fill(run: Run) -> None:
        handle = run.volume.fs.open(run.volume.fs.resolve(path_of(path)).inode, writable=True)
        handle.write(0, content(seed, size))
        assert handle.flush_later(), "a small file is left to the writeback thread"
        assert handle.close_nowait()

    def adorn(run: Run) -> None:
        inode = run.volume.fs.resolve(path_of(path)).inode
        run.volume.fs.set_attributes(inode, AttributeChange(mode=0o600, mtime=6_000_000_000))
        run.volume.fs.set_xattr(folder_of(run.volume, path)[0], b"user.last", path.encode())

    return make, fill, adorn


def _create(path: str, kind: Kind, target: bytes = b"") -> Step:
    def step(run: Run) -> None:
        run.volume.fs.create(*folder_of(run.volume, path), kind, 0o644, Owner(), target=target, durable=True)

    return step


def _attributes(path: str) -> Step:
    def step(run: Run) -> None:
        inode = run.volume.fs.resolve(path_of(path)).inode
        run.volume.fs.set_attributes(inode, AttributeChange(mode=0o600, mtime=5_000_000_000), durable=True)
        run.volume.fs.set_properties(inode, {b"one": b"1", b"two": b"2"})

    return step


def _properties(path: str, values: dict[bytes, bytes | None]) -> Step:
    return lambda run: run.volume.fs.set_properties(run.volume.fs.resolve(path_of(path)).inode, values)


def sync(run: Run) -> None:
    run.volume.sync(wait=True)


def flush(run: Run) -> None:
    run.volume.fs.flush_all()


def fold(run: Run) -> None:
    """Fold the whole write-ahead log back into the database."""
    run.volume.database.checkpoint(pages=1)


def checkpoint(run: Run) -> None:
    assert run.volume.replicator.checkpoint()


def trim(run: Run) -> None:
    assert run.volume.replicator.trim()


def collect(run: Run) -> None:
    found = run.volume.gc()
    assert found["packs_repacked"], found
    assert found["packs_deleted"] > found["packs_repacked"], found


def _open(run: Run) -> None:
    assert run.volume


def _snapshot(name: str) -> Step:
    return lambda run: run.volume.make_snapshot(name) and None


def _restore(name: str, path: str = "", to: str | None = None) -> Step:
    def step(run: Run) -> None:
        place = None if to is None else tuple(path_of(to))
        run.volume.restorer.restore(name, tuple(path_of(path)) if path else (), place, lambda *_: None)

    return step


def _delete_snapshot(name: str) -> Step:
    return lambda run: run.volume.snapshots.delete(name)


def upkeep(run: Run) -> None:
    """Sweep and count."""
    while run.volume.snapshots.upkeep():
        pass


def reopen_and_resume(machine: Machine, _finished: int) -> Volume:
    volume = machine.open()
    volume.restorer.resume()
    return volume


def with_a_left_over(machine: Machine) -> None:
    """A process died after it made a staging file and before it named it."""
    furnished(machine)
    (machine.places.state / "staging" / f"{'5' * 32}.pack").write_bytes(content(60, 5000))


def on_a_failing_disk(run: Run) -> None:
    run.machine.disk = FailingDisk()
    assert run.volume


def put_in_vain(run: Run) -> None:
    """An upload whose sync fails; the staging file's other chunks are moved to a new one when it is closed."""
    disk = run.machine.disk
    assert isinstance(disk, FailingDisk)
    disk.fail("sync", errno.EIO, suffix=".pack")
    try:
        put(run.volume, "vain", content(61, 80_000))
    except LocalFailure:
        return
    raise AssertionError("an upload was acknowledged whose sync failed")


def with_a_lost_pack(machine: Machine) -> None:
    """The store has lost the packs, and this machine still has them in its cache."""
    furnished(machine)
    with machine.opened() as volume:
        volume.sync(wait=True)
        with volume.database.reading() as connection:
            packs = {name.hex() for (name,) in connection.all("SELECT name FROM packs WHERE state = 3")}
    for blob in [blob for blob in machine.blobs() if blob.name.split("-")[1] in packs]:
        blob.unlink()


def repair(run: Run) -> None:
    run.volume.content.reader.cache.wait_for_scan()
    found = run.volume.check(read_data=100.0, repair=True)
    assert found["ok"], found["damage"]


def reopen_and_repair(machine: Machine, _finished: int) -> Volume:
    run = Run(machine)
    repair(run)
    return run.volume


# ---- vaults --------------------------------------------------------------------------------------------------------


def restored(machine: Machine) -> None:
    """The home is an older one than the store: with work that was sent later, and work that never was."""
    furnished(machine)
    with machine.opened() as volume:
        volume.sync(wait=True)
        put(volume, "waiting", content(70, 90_000))
        put(volume, "waiting-row", content(71, 900))
        copy_folder(machine.home, machine.folder / "backup")
        put(volume, "waiting-row", content(72, 1000))
        volume.sync(wait=True)
        put(volume, "a/later", content(73, 150_000))
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        volume.fs.remove_tree(*folder_of(volume, "a/small"), durable=True)
        volume.sync(wait=True)
    shutil.rmtree(machine.home)
    (machine.folder / "backup").rename(machine.home)
    away = machine.folder / "away"
    machine.store.rename(away)
    with machine.opened() as volume:
        put(volume, "d/made meanwhile", content(74, 60_000))
    away.rename(machine.store)


def killed(machine: Machine) -> None:
    """A process was killed just after it answered, before it committed."""
    furnished(machine)
    with machine.opened() as volume:
        run = Run(machine)
        run.use(volume)
        for number in range(3):
            for step in answered(f"d/answered {number}", 80 + number, 40_000 * number + 300):
                step(run)
        copy_folder(machine.home, machine.folder / "backup")
    shutil.rmtree(machine.home)
    (machine.folder / "backup").rename(machine.home)


def nothing(machine: Machine) -> None:
    assert machine.places


def create(run: Run) -> None:
    run.machine.create()


def reopen_or_create(machine: Machine, finished: int) -> Volume:
    """After an interrupted init, either the next start uploads the vault, or init can run again."""
    if not vault_exists(machine.places.state):
        assert not finished, "init said done, and there is no vault"
        machine.create()
    return machine.open()


def stored(machine: Machine) -> None:
    first = Machine(machine.folder, "first", seed=machine.seed + 1)
    furnished(first)
    with first.opened() as volume:
        volume.sync(wait=True)


def checkpointed(machine: Machine) -> None:
    first = Machine(machine.folder, "first", seed=machine.seed + 1)
    furnished(first)
    with first.opened() as volume:
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        put(volume, "after-checkpoint", content(77, 50_000))
        volume.sync(wait=True)


def join(run: Run) -> None:
    run.machine.join()


def reopen_or_join(machine: Machine, finished: int) -> Volume:
    if not vault_exists(machine.places.state):
        assert not finished, "joining said done, and there is no vault"
        assert not machine.join().damage
    return machine.open()


def to_new_passphrase(run: Run) -> None:
    run.volume.change_passphrase(NEW_PASSPHRASE)


def back_to_old_passphrase(run: Run) -> None:
    run.volume.change_passphrase(PASSPHRASE)


def reopen_with_either(machine: Machine, finished: int) -> Volume:
    """One of the two passphrases opens the vault; if no change was in progress, it is the last one."""
    if finished == 3:
        return machine.open()
    volume = _open_with(machine, PASSPHRASE) or _open_with(machine, NEW_PASSPHRASE)
    assert volume is not None, "neither passphrase opens the vault"
    volume.sync(wait=True)
    volume.change_passphrase(PASSPHRASE)
    return volume


def _open_with(machine: Machine, passphrase: str) -> Volume | None:
    try:
        return machine.open(Passphrase(passphrase))
    except AccessError:
        return None


SCENARIOS = (
    Scenario("create a vault", nothing, (create,), reopen_or_create),
    Scenario("upload", empty, (
        _open, _put("small", 10, 500), _put("row", 11, 30_000), _put("large", 12, 250_000), _put("small", 13, 700),
        _put("large", 14, 260_000), _put("empty", 15, 0), _put("large", 12, 250_000), sync, _put("row", 16, 31_000),
        _put("large", 17, 120_000), sync,
    )),
    Scenario("trees", furnished, (
        _open, _folder("e"), _rename("a/b", "e/b"), _copy("e", "copy"), _rename("copy/b/large", "d/row"), _remove("a"),
        sync, _copy("e/b", "d/b"), _remove("e"), _create("link", Kind.SYMLINK, b"d/row"), _rename("d", "z"),
        _attributes("z/row"), sync, _folder("e"), _remove("copy"), fold,
    )),
    Scenario("handles", furnished, (
        _open, _create("file", Kind.FILE), _write_and_fsync("file", [(0, content(20, 100_000))]),
        _write_and_fsync("file", [(50, b"x" * 500), (90_000, b"y" * 5000)]), flush,
        _write_and_close("a/b/large", 100_000, b"z" * 3000), sync, _write_and_fsync("a/small", [(10, b"s" * 100)]),
        _write_and_close("a/b/c/staged", 0, content(21, 90_000)), flush, sync,
    )),
    Scenario("overwrites", furnished, (
        _open, _put("a/small", 40, 901), _put("a/b/large", 41, 150_000), _put("a/b/c/staged", 2, 200_000),
        _put("d/row", 42, 0), sync, _put("d/row", 43, 70_000), _remove("a/b/large"), _put("a/b/large", 44, 33_000), sync,
    )),
    Scenario("push and checkpoint", furnished, (
        _open, sync, checkpoint, _put("p", 30, 80_000), _remove("a/b/large"), sync, _put("q", 31, 400), sync, checkpoint,
        _put("a/b/c/staged", 32, 95_000), _properties("d", {b"x": b"y"}), sync,
    )),
    Scenario("trash", furnished, (
        _open, sync, _remove("a/b"), _undelete("a/b"), _remove("a/b"), _put("tmp", 36, 900), _put("tmp2", 37, 90_000),
        _put("kept", 36, 900), _remove("tmp"), _remove("tmp2"), empty_trash, sync, _put("tmp", 38, 90_000), _remove("tmp"),
        _remove("a/small"), sync, checkpoint, empty_trash, sync,
    )),
    Scenario("trim the log", furnished, (
        _open, sync, checkpoint, _put("p", 33, 80_000), sync, checkpoint, _put("q", 34, 400), sync, checkpoint, trim,
        _put("r", 35, 500), sync,
    )),
    # The second snapshot is made so that the restore needs not wait until the last save is no burst any more.
    Scenario("snapshots", furnished, (
        _open, _snapshot("one"), _remove("a/b"), _put("a/small", 90, 70_000), _put("new", 91, 300), _rename("d", "e"),
        _snapshot("two"), _restore("one"), _restore("two", "e", "f/g"), _delete_snapshot("one"), upkeep, sync,
    ), reopen_and_resume),
    Scenario("collect garbage", furnished, (
        _open, sync, _put("dead", 36, 200_000), sync, _put("sparse", 37, 300_000), _put("in use", 38, 60_000), sync,
        _put("dead", 39, 0), _put("sparse", 40, 900), _put(".DS_Store", 42, 5000), _remove(".DS_Store"), sync,
        collect, _put("later", 41, 30_000), sync,
    )),
    Scenario("a file larger than a pack", with_a_left_over, (_open, _put("huge", 50, 1_500_000), _remove("d"), sync)),
    Scenario("a staging file fails", furnished, (
        on_a_failing_disk, _put("good", 62, 80_000), put_in_vain, sync, _put("good", 63, 70_000), sync,
    )),
    Scenario("go on from a backup", restored, (_open, sync, _put("d/afterwards", 75, 70_000), sync)),
    Scenario("answered", killed, (_open, *answered("one", 85, 900), *answered("d/two", 86, 70_000), sync)),
    Scenario("repair", with_a_lost_pack, (repair,), reopen_and_repair),
    Scenario("change the passphrase", furnished, (_open, to_new_passphrase, back_to_old_passphrase), reopen_with_either),
    Scenario("join", stored, (join,), reopen_or_join, home="second"),
    Scenario("join at a checkpoint", checkpointed, (join, sync), reopen_or_join, home="second"),
)  # fmt: skip
