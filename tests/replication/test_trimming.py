"""The log and its checkpoints are trimmed: what stays is enough for everyone, and no number is ever used twice."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from tests.replication.test_restored_state import back_up, restore, tree
from tests.support.platform import CrashAt, SimulatedCrash
from tests.support.vaults import Vault, content, name_of, put, read, rows
from tgdav.blobs.interface import BlobStore
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.errors import LocalFailure, StoreUnavailable
from tgdav.failpoints import installed
from tgdav.replication import trimming
from tgdav.volume.volume import Volume


def kinds(volume: Volume) -> dict[BlobKind, list[int]]:
    """The numbers of segments and checkpoints in the store (0 for packs), by kind."""
    found: dict[BlobKind, list[int]] = {kind: [] for kind in BlobKind}
    for info in volume.stores.store.list():
        label = decode_label(info.label, volume.vault_keys, info.name)
        if label is not None:
            found[BlobKind(label.kind)].append(label.number)
    return found


def age(volume: Volume, start: int = 0, checkpoints: int = 4, *, trims: bool = True) -> None:
    """Write segments and checkpoints, two segments before each checkpoint."""
    for number in range(start, start + checkpoints):
        for part in ("a", "b"):
            put(volume, f"{part}-{number}", content(number, 40_000))
            volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        if trims:
            volume.replicator.trim()


def needed(volume: Volume) -> set[int]:
    """The numbers of the newest two checkpoints, and of those that they are based on."""
    newest = rows(volume, "SELECT number, base FROM checkpoints WHERE state = 1 ORDER BY number DESC LIMIT 2")
    return {number for row in newest for number in row if number is not None}


def assert_sound(volume: Volume) -> None:
    found = volume.check(read_data=100.0, drill=True)
    assert found["ok"], found


def assert_joins(vault: Vault, volume: Volume, home: str = "second") -> None:
    """Another machine joins, sees the same, is sound, and writes and trims on."""
    expected = tree(volume)
    joined = vault.join(home)
    assert not joined.damage, joined.damage
    with vault.opened(home) as second:
        assert tree(second) == expected
        assert_sound(second)
        age(second, 50)
        assert_sound(second)


def test_two_checkpoints_and_the_segments_since_the_older_stay(vault: Vault, volume: Volume) -> None:
    age(volume, checkpoints=2)
    segments = len(kinds(volume)[BlobKind.SEGMENT])
    assert segments == len(rows(volume, "SELECT 1 FROM segments"))
    age(volume, 2, checkpoints=3)
    found = kinds(volume)
    assert {4, 5} <= set(found[BlobKind.CHECKPOINT]) == needed(volume)
    first = rows(volume, "SELECT segment FROM checkpoints WHERE number = 4")[0][0] + 1
    last = rows(volume, "SELECT number FROM chains")[0][0]
    assert found[BlobKind.SEGMENT] == list(range(first, last + 1)), "those that the older one includes are gone"
    assert rows(volume, "SELECT number FROM segments ORDER BY number") == [(each,) for each in range(first, last + 1)]
    assert rows(volume, "SELECT count(*) FROM blobs")[0][0] == len(vault.blobs())
    assert_sound(volume)
    assert volume.replicator.trim() == 0
    assert_joins(vault, volume)


def test_numbers_go_on_when_log_and_segments_are_empty(vault: Vault) -> None:
    with vault.opened() as volume:
        age(volume)
        end = rows(volume, "SELECT number, sequence, position, stamp FROM chains")[0]
        volume.database.writer.run(lambda t: [t.execute("DELETE FROM segments"), t.execute("DELETE FROM log")])
    with vault.opened() as volume:
        put(volume, "next", b"next")
        ((sequence, position, stamp),) = rows(volume, "SELECT sequence, position, stamp FROM log")
        assert (sequence, position) == (end[1] + 1, end[2] + 1)
        assert stamp > end[3]
        volume.sync(wait=True)
        assert rows(volume, "SELECT number FROM segments") == [(end[0] + 1,)]
        assert not vault.join("second").damage


def test_the_last_segment_can_be_unsealed_when_all_before_it_is_trimmed(
    vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(volume)
    put(volume, "new", content(7, 50_000))
    assert volume.content.flush(60)
    with monkeypatch.context() as patched:

        def away(*_: object, **__: object) -> object:
            raise StoreUnavailable("away")

        patched.setattr(volume.stores.store, "append", away)
        with pytest.raises(StoreUnavailable):
            volume.replicator.pusher.push()
    volume.database.writer.run(lambda t: t.execute("DELETE FROM segments WHERE blob IS NOT NULL"))
    ((file,),) = rows(volume, "SELECT file FROM segments")
    (volume.paths.state / "outbox" / file).write_bytes(b"rotten")
    found = volume.check(repair=True)
    assert (found["ok"], found["repaired"]) == (True, [file.removesuffix(".log")])
    volume.sync(wait=True)
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert read(second, "new") == content(7, 50_000)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_crash_at_each_step(vault: Vault, number: int) -> None:
    volume = vault.open()
    age(volume, trims=False)
    crash = CrashAt(number, ("deletion.", "trimming.", "writer."))
    with installed(crash), suppress(SimulatedCrash):
        volume.replicator.trim()
    with suppress(LocalFailure):
        volume.close()
    with vault.opened() as volume:
        assert volume.check(read_data=100.0)["damage"] == []
        volume.replicator.trim()
        assert rows(volume, "SELECT count(*) FROM blobs")[0][0] == len(vault.blobs())
        assert not rows(volume, "SELECT 1 FROM blobs WHERE gone = 1")
        assert_sound(volume)
        assert_joins(vault, volume)


def test_a_join_while_the_deletion_is_not_done(vault: Vault, volume: Volume) -> None:
    age(volume, trims=False)
    assert_joins(vault, volume)
    with vault.opened("second") as second:
        assert set(kinds(second)[BlobKind.CHECKPOINT]) == needed(second), "those of the machine before are trimmed too"
        assert len(kinds(second)[BlobKind.SEGMENT]) == len(rows(second, "SELECT 1 FROM segments"))


def test_a_join_from_the_older_checkpoint(vault: Vault, volume: Volume) -> None:
    age(volume)
    newest = {
        bytes(name).hex()
        for (name,) in rows(
            volume, "SELECT name FROM checkpoint_parts WHERE number = (SELECT max(number) FROM checkpoints)"
        )
    }
    for blob in vault.blobs():
        if name_of(blob) in newest:
            blob.chmod(0o600)
            blob.write_bytes(bytes(blob.stat().st_size))
    expected = tree(volume)
    joined = vault.join("second")
    assert [each.split()[0] for each in joined.damage] == ["checkpoint"]
    with vault.opened("second") as second:
        assert tree(second) == expected
        found = second.check(read_data=100.0)
        assert {each["kind"] for each in found["damage"]} == {"checkpoint"}


def test_nothing_is_trimmed_while_a_checkpoint_is_missing(vault: Vault, volume: Volume) -> None:
    age(volume, trims=False)
    put(volume, "later", b"later")
    volume.sync(wait=True)
    ((name,),) = rows(
        volume, "SELECT name FROM checkpoint_parts WHERE number = (SELECT max(number) FROM checkpoints WHERE state = 1)"
    )
    before = set(vault.blobs()) - {vault.blob(name)}
    vault.blob(name).unlink()
    assert volume.replicator.trim() == 0
    assert set(vault.blobs()) == before


def test_a_copied_store_with_other_ids(vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may have another blob under the id of one that is to be deleted."""
    age(volume, trims=False)
    with volume.database.reading() as connection:
        names = {bytes(name) for name in trimming.superfluous(connection).blobs}
    kept = [blob for blob in vault.blobs() if bytes.fromhex(name_of(blob)) not in names]
    deleted: list[int] = []
    store: BlobStore = volume.stores.store
    delete = store.delete
    monkeypatch.setattr(store, "delete", lambda ids: (deleted.extend(ids), delete(ids)))
    other = next(iter(names))
    volume.database.writer.run(
        lambda t: t.execute("UPDATE blobs SET name = ? WHERE name = ?", (other, bytes.fromhex(name_of(kept[0]))))
    )
    volume.replicator.trim()
    assert set(kept) <= set(vault.blobs())
    assert deleted


def test_a_former_writer_comes_back(vault: Vault) -> None:
    with vault.opened() as volume:
        age(volume)
        put(volume, "unsent", b"unsent")
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        second.sync(wait=True)
        age(second, 20)
        assert_sound(second)
        expected = tree(second)
    with vault.opened() as volume:
        assert volume.read_only_reason is not None
        assert "unsent" in {name.decode() for name in tree(volume)}
    with vault.opened("second") as second:
        assert tree(second) == expected
        assert_joins(vault, second, "third")


# ---- a restored backup ---------------------------------------------------------------------------------------------


def test_a_backup_that_the_log_still_reaches_goes_on(vault: Vault) -> None:
    with vault.opened() as volume:
        age(volume)
    back_up(vault)
    with vault.opened() as volume:
        age(volume, 10, checkpoints=1)
        expected = tree(volume)
    restore(vault)
    with vault.opened() as volume:
        assert volume.read_only_reason is None
        assert tree(volume) == expected
        assert_sound(volume)
        age(volume, 20)
        assert_sound(volume)
        assert rows(volume, "SELECT count(*) FROM blobs WHERE gone = 0")[0][0] == len(vault.blobs())
        assert_joins(vault, volume)


def test_a_backup_older_than_the_log_is_refused(vault: Vault) -> None:
    with vault.opened() as volume:
        age(volume)
        put(volume, "unsent", b"unsent")
    back_up(vault)
    with vault.opened() as volume:
        age(volume, 10)
        expected = tree(volume)
    lost = vault.folder / "lost"
    shutil.copytree(vault.folder / "home", lost)
    restore(vault)
    before = set(vault.blobs())
    with vault.opened() as volume:
        assert volume.read_only_reason is not None
        assert "a backup that is older than the log in the store" in volume.read_only_reason
        assert read(volume, "unsent") == b"unsent"
    assert set(vault.blobs()) == before
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert tree(second) == expected


def test_nobody_trims_who_is_not_the_writer(vault: Vault, tmp_path: Path) -> None:
    with vault.opened() as volume:
        age(volume, trims=False)
        assert not vault.join("second").damage
        with vault.opened("second") as second:
            second.sync(wait=True)
        before = set(vault.blobs())
        with pytest.raises(Exception, match="is the writer now"):
            volume.replicator.trim()
        assert volume.replicator.trim() == 0
        assert set(vault.blobs()) == before
