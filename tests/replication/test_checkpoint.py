"""A state that is rebuilt from a checkpoint, what changed since, and segments, is the state that it was made from."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.replication.histories import do, furnish, steps
from tests.support.platform import CrashAt, FailingDisk, SimulatedCrash
from tests.support.vaults import Vault, assert_same, content, folder_of, make_folder, put, read, rows, state
from tgdav.crdt.ops import Purge
from tgdav.errors import NoSpace, StoreUnavailable
from tgdav.failpoints import installed
from tgdav.replication.format import checkpoint as checkpoint_format
from tgdav.volume.volume import Volume


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_format, "BATCH_ROWS", 5)


def checkpoint(volume: Volume) -> tuple[int, int | None, int]:
    """Sync and write one; return (number, base, bytes) of the newest."""
    volume.sync(wait=True)
    assert volume.replicator.checkpoint()
    return rows(volume, "SELECT number, base, bytes FROM checkpoints WHERE state = 1 ORDER BY number DESC")[0]


@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a history takes a second: shrinking it would take many minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(before=st.lists(steps, max_size=12), between=st.lists(steps, max_size=25), after=st.lists(steps, max_size=12))
def test_any_history_comes_back_equal(before: list, between: list, after: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        vault = Vault(Path(folder))
        with vault.opened() as volume:
            furnish(volume, 40)
            for step in before:
                do(volume, step)
            checkpoint(volume)
            for step in between:
                do(volume, step)
            checkpoint(volume)
            for step in after:
                do(volume, step)
            volume.sync(wait=True)
            joined = vault.join("second")
            assert not joined.damage
            with vault.opened("second") as second:
                assert_same(volume, second)
                found = second.check(read_data=100.0)
                assert found["ok"], found["damage"]


def test_what_changed_is_small_and_whole(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    assert checkpoint(volume)[:2] == (1, None)
    put(volume, "b/d/file-030", b"changed")
    volume.fs.unlink(*folder_of(volume, "b/d/file-031"))
    put(volume, "b/d/new", b"new")
    number, base, _ = checkpoint(volume)
    assert (number, base) == (2, 1)
    put(volume, "b/d/newer", b"newer")
    number, base, _ = checkpoint(volume)
    assert (number, base) == (3, 1), "each builds on the full one, not on the last"
    put(volume, "b/d/newest", b"newest")
    volume.sync(wait=True)
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert_same(volume, second)
        assert read(second, "b/d/file-030") == b"changed"


def test_much_change_makes_a_full_one(volume: Volume) -> None:
    furnish(volume, 10)
    checkpoint(volume)
    for number in range(60):
        put(volume, f"a/{number}", b"x")
    files = {path.name for path in (volume.paths.state / "outbox").iterdir()}
    assert checkpoint(volume)[:2] == (2, None)
    assert not {path.name for path in (volume.paths.state / "outbox").iterdir()} - files, "nothing is left of the try"
    put(volume, "one more", b"x")
    assert checkpoint(volume)[:2] == (3, 2)


def test_a_joined_machine_goes_on_where_the_checkpoint_ended(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    make_folder(volume, "a/sub")
    put(volume, "a/linked", b"linked")
    volume.fs.link(volume.fs.resolve([b"a", b"linked"]).inode, *folder_of(volume, "a/sub/again"))
    checkpoint(volume)
    positions = rows(volume, "SELECT max(position) FROM segments")
    stamps = rows(volume, "SELECT max(stamp) FROM entries")[0][0]
    vault.clock.set_wall(1_700_000_000_000_000_000)  # the other machine's clock is far behind
    vault.join("second")
    with vault.opened("second") as second:
        before = rows(second, "SELECT max(ino) FROM nodes")[0][0]
        put(second, "a/sub/new", b"new")
        assert rows(second, "SELECT min(position) FROM log WHERE segment IS NULL")[0][0] > positions[0][0]
        assert rows(second, "SELECT stamp FROM entries WHERE name = ?", (b"new",))[0][0] > stamps
        assert rows(second, "SELECT ino FROM entries WHERE name = ?", (b"new",))[0][0] > before
        assert second.fs.resolve([b"a", b"linked"]).nlink == 2
        assert second.fs.resolve([b"a"]).nlink == 4
        second.fs.unlink(*folder_of(second, "a/linked"))
        assert checkpoint(second)[:2] == (2, 1), "numbers go on, and the other's full one serves as base"
        vault.join("third")
        with vault.opened("third") as third:
            assert_same(second, third)


def test_what_is_purged_and_not_swept_yet_stays_purged(vault: Vault, volume: Volume) -> None:
    put(volume, "file", b"content")
    volume.sync(wait=True)
    vault.clock.advance(100)
    volume.fs.remove_tree(volume.fs.root, b"file")
    (deleted,) = volume.fs.trash.items()
    volume.journal.change(lambda change: change.emit(Purge((deleted.entry,))))
    checkpoint(volume)
    vault.join("second")
    with vault.opened("second") as second:
        assert second.fs.trash.items() == volume.fs.trash.items() == []


def test_a_damaged_checkpoint_gives_way_to_the_one_before(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    checkpoint(volume)
    put(volume, "a/between", b"between")
    checkpoint(volume)
    put(volume, "a/after", b"after")
    volume.sync(wait=True)
    (root,) = rows(volume, "SELECT name FROM checkpoint_parts WHERE number = 2 ORDER BY part DESC LIMIT 1")
    vault.blob(root[0]).write_bytes(b"nothing of worth")
    joined = vault.join("second")
    assert [line.partition(":")[0] for line in joined.damage] == [f"checkpoint {root[0].hex()}"]
    with vault.opened("second") as second:
        assert_same(volume, second)


def test_a_base_that_is_lost_makes_all_that_builds_on_it_worthless(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    checkpoint(volume)
    put(volume, "a/between", b"between")
    checkpoint(volume)
    (part,) = rows(volume, "SELECT name FROM checkpoint_parts WHERE number = 1 ORDER BY part LIMIT 1")
    vault.blob(part[0]).unlink()
    joined = vault.join("second")
    assert joined.damage
    with vault.opened("second") as second:
        assert_same(volume, second)


def test_no_checkpoint_builds_on_a_damaged_one(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    checkpoint(volume)
    (part,) = rows(volume, "SELECT name FROM checkpoint_parts WHERE number = 1 ORDER BY part LIMIT 1")
    vault.blob(part[0]).write_bytes(b"spoilt")
    assert not volume.check()["ok"]
    put(volume, "a/more", b"more")
    assert checkpoint(volume)[:2] == (2, None)


def test_nothing_is_written_while_operations_wait(volume: Volume) -> None:
    put(volume, "waiting", b"x")
    assert not volume.replicator.checkpoint()
    assert rows(volume, "SELECT count(*) FROM checkpoints") == [(0,)]


def test_many_parts(vault: Vault, volume: Volume) -> None:
    volume.replicator.checkpoints.part_bytes = 2000
    furnish(volume)
    checkpoint(volume)
    assert rows(volume, "SELECT parts FROM checkpoints")[0][0] > 3
    vault.join("second")
    with vault.opened("second") as second:
        assert_same(volume, second)


def test_junk_overlays_and_last_reads_stay_here(vault: Vault, volume: Volume) -> None:
    make_folder(volume, "a")
    put(volume, "a/._junk", b"junk")
    put(volume, "a/file", content(1, 100))
    read(volume, "a/._junk")
    volume.sync(wait=True)
    handle = volume.fs.open(volume.fs.resolve([b"a", b"file"]).inode, writable=True)
    handle.write(0, b"dirty")
    handle.fsync()
    assert volume.replicator.checkpoint()
    vault.join("second")
    with vault.opened("second") as second:
        assert rows(second, "SELECT count(*) FROM nodes WHERE local = 1 OR dirty != 0") == [(0,)]
        assert read(second, "a/file") == content(1, 100)
        assert [entry.name for entry in second.fs.list_directory(second.fs.resolve([b"a"]).inode)] == [b"file"]
    handle.close()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_a_crash_while_sealing_or_sending(vault: Vault, number: int) -> None:
    with vault.opened() as volume:
        furnish(volume)
        volume.sync(wait=True)
        before = state(volume.database)
        volume.replicator.checkpoints.part_bytes = 2000
        crash = CrashAt(number, "checkpoint.")
        with installed(crash), pytest.raises(SimulatedCrash):
            volume.replicator.checkpoint()
    with vault.opened() as volume:
        volume.replicator.checkpoint_if_due()
        assert rows(volume, "SELECT state FROM checkpoints") == [(1,)]
        assert rows(volume, "SELECT count(*) FROM checkpoint_parts WHERE file IS NOT NULL") == [(0,)]
        assert state(volume.database) == before
        assert volume.check(read_data=100.0)["ok"]


def test_a_full_disk_leaves_nothing(volume: Volume) -> None:
    furnish(volume)
    volume.sync(wait=True)
    disk = FailingDisk()
    volume.replicator.checkpoints._disk = disk
    volume.replicator.checkpoints.part_bytes = 2000
    before = sorted((volume.paths.state / "outbox").iterdir())
    disk.fail("write", 28, number=3)
    with pytest.raises(NoSpace):
        volume.replicator.checkpoint()
    assert sorted((volume.paths.state / "outbox").iterdir()) == before
    assert volume.replicator.checkpoint()


def test_a_sealed_part_that_rots_here_gives_the_checkpoint_up(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(volume)
    volume.sync(wait=True)

    def away(*_: object, **__: object) -> object:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(volume.stores.store, "append", away)
        with pytest.raises(StoreUnavailable):
            volume.replicator.checkpoint()
    (file,) = rows(volume, "SELECT file FROM checkpoint_parts WHERE part = 0")
    (volume.paths.state / "outbox" / file[0]).write_bytes(b"rotten")
    volume.replicator.checkpoints.send_sealed()
    assert rows(volume, "SELECT state FROM checkpoints") == [(2,)]
    assert checkpoint(volume)[1] is None
    assert volume.check(read_data=100.0)["ok"]


def test_when_one_is_due() -> None:
    due = checkpoint_format.is_due
    mebibytes = 1024 * 1024
    assert not due(log_bytes=1 << 40, last_bytes=0, age_seconds=1e9, changed=False)
    assert not due(log_bytes=15 * mebibytes, last_bytes=0, age_seconds=100, changed=True)
    assert due(log_bytes=16 * mebibytes, last_bytes=0, age_seconds=100, changed=True)
    assert not due(log_bytes=16 * mebibytes, last_bytes=17 * mebibytes, age_seconds=100, changed=True)
    assert due(log_bytes=1, last_bytes=17 * mebibytes, age_seconds=24 * 3600, changed=True)
