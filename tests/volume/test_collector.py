"""Garbage collection: what nothing uses leaves the store, and nothing else does, whatever comes in between."""

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.replication.test_restored_state import back_up, restore
from tests.support.platform import CrashAt, SimulatedCrash
from tests.support.vaults import Vault, content, folder_of, make_folder, name_of, put, read, rows
from tests.support.waiting import wait_for
from tgdav.content.staging.stream import StagedContent
from tgdav.errors import DamageError, LocalFailure, StoreUnavailable, WriterReplaced
from tgdav.failpoints import installed
from tgdav.fs.api import Owner
from tgdav.ids import ChunkId
from tgdav.volume import collector
from tgdav.volume.volume import Volume

SECTIONS = {
    "versioning": {"enabled": False},
    "chunk": {"average_size": 65536, "chunk_size": 1048576},
    "cache": {"enabled": False},
}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """Small chunks and packs, and no versions: what is overwritten is garbage."""
    return Vault(tmp_path / "vault", **SECTIONS)


def packs(volume: Volume) -> set[str]:
    """The names of the packs in the store."""
    names = {row[0].hex() for row in rows(volume, "SELECT name FROM blobs WHERE kind = 1")}
    known = {row[0].hex() for row in rows(volume, "SELECT name FROM packs WHERE state >= 3")}
    assert names == known
    return names


def in_store(vault: Vault, volume: Volume) -> set[str]:
    names = packs(volume)
    return {name_of(blob) for blob in vault.blobs()} & names


def assert_sound(volume: Volume) -> None:
    found = volume.check(read_data=100.0, drill=True)
    assert found["ok"], found


def fill(volume: Volume, seed: int = 0) -> dict[str, bytes]:
    """Files of several sizes, several packs of them."""
    make_folder(volume, f"folder-{seed}")
    files = {}
    for number, size in enumerate((10, 900, 40_000, 100_000, 300_000, 700_000, 1_500_000)):
        name = f"folder-{seed}/{number}"
        files[name] = content(seed * 100 + number, size)
        put(volume, name, files[name])
        if number % 2:
            volume.sync(wait=True)
    volume.sync(wait=True)
    return files


def overwrite(volume: Volume, files: dict[str, bytes], names: list[str], seed: int) -> None:
    for name in names:
        files[name] = content(seed, len(files[name]))
        put(volume, name, files[name])
        seed += 1


def assert_shows(volume: Volume, files: dict[str, bytes]) -> None:
    assert {name: read(volume, name) for name in files} == files


# ---- what is deleted, and what is not -------------------------------------------------------------------------------


def test_what_is_overwritten_leaves_the_store(vault: Vault, volume: Volume) -> None:
    files = fill(volume)
    before = in_store(vault, volume)
    overwrite(volume, files, list(files), 1000)
    forecast = volume.gc(dry_run=True)
    assert in_store(vault, volume) == before
    found = volume.gc()
    assert found["packs_deleted"] >= len(before) > 2
    assert found["bytes_freed"] >= 2_500_000
    assert forecast["packs_deleted"] <= found["packs_deleted"]
    assert not in_store(vault, volume) & before
    assert_shows(volume, files)
    assert_sound(volume)
    assert volume.gc() == {"packs_deleted": 0, "packs_repacked": 0, "bytes_freed": 0, "dry_run": False}


def test_nothing_to_do_writes_nothing(vault: Vault, volume: Volume) -> None:
    fill(volume)
    before = set(vault.blobs())
    assert volume.gc()["packs_deleted"] == 0
    assert volume.gc(dry_run=True)["packs_deleted"] == 0
    assert set(vault.blobs()) == before


def test_a_dry_run_says_what_a_run_does(volume: Volume) -> None:
    files = fill(volume)
    overwrite(volume, files, ["folder-0/5", "folder-0/6"], 2000)
    volume.sync(wait=True)
    forecast, done = volume.gc(dry_run=True), volume.gc()
    assert done["packs_deleted"] > 0
    assert {**forecast, "dry_run": False} == done


def test_sparse_packs_are_rewritten(vault: Vault, volume: Volume) -> None:
    files = {}
    for number in range(8):
        files[f"{number}"] = content(number, 120_000)
        put(volume, f"{number}", files[f"{number}"])
    volume.sync(wait=True)
    (before,) = in_store(vault, volume)
    for number in range(6):
        volume.fs.unlink(volume.fs.root, f"{number}".encode())
        del files[f"{number}"]
    purge(volume)
    found = volume.gc()
    assert (found["packs_deleted"], found["packs_repacked"]) == (1, 1)
    assert before not in in_store(vault, volume)
    assert_shows(volume, files)
    assert_sound(volume)
    assert volume.gc()["packs_deleted"] == 0, "what was rewritten is not rewritten again"


def purge(volume: Volume) -> None:
    """Delete for good what is in the trash."""
    assert volume.fs.trash.empty()
    volume.sync(wait=True)


def test_versions_snapshots_trash_and_junk_stay(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault", **{**SECTIONS, "versioning": {"max_versions": 3}})
    with vault.opened() as volume:
        files = fill(volume)
        put(volume, ".DS_Store", content(9, 90_000))
        assert volume.make_snapshot("before")
        overwrite(volume, files, list(files), 3000)
        volume.fs.unlink(*folder_of(volume, "folder-0/6"))
        del files["folder-0/6"]
        volume.sync(wait=True)
        before = in_store(vault, volume)
        assert volume.gc()["packs_deleted"] == 0
        assert in_store(vault, volume) == before
        assert_shows(volume, files)
        assert read(volume, ".DS_Store") == content(9, 90_000)
        assert_sound(volume)


def test_what_only_a_deleted_snapshot_showed_goes(vault: Vault, volume: Volume) -> None:
    files = fill(volume)
    volume.make_snapshot("one")
    volume.fs.remove_tree(*folder_of(volume, "folder-0/6"))
    volume.fs.trash.empty()
    overwrite(volume, files, ["folder-0/5"], 400)
    volume.gc()
    before = sum(path.stat().st_size for path in vault.blobs())
    volume.restorer.restore("one", (b"folder-0", b"6"), (b"again",), lambda *_: None)
    assert read(volume, "again") == files["folder-0/6"]
    volume.fs.remove_tree(*folder_of(volume, "again"))
    volume.fs.trash.empty()
    volume.snapshots.delete("one")
    assert volume.gc()["bytes_freed"] > 2_000_000
    assert sum(path.stat().st_size for path in vault.blobs()) < before - 1_500_000
    del files["folder-0/6"]
    assert_shows(volume, files)
    assert_sound(volume)


def test_what_versions_and_snapshots_give_up_goes(tmp_path: Path) -> None:
    """Pruned versions, and what a deleted snapshot alone showed, are collected; the others read on."""
    vault = Vault(tmp_path / "vault", **{**SECTIONS, "versioning": {"max_versions": 2}})
    with vault.opened() as volume:
        for number in range(6):
            put(volume, "file", content(number, 200_000))
            volume.sync(wait=True)
            vault.clock.advance(3600)
            if number == 1:
                volume.make_snapshot("early")
        volume.gc()
        assert_sound(volume)
        kept = len(packs(volume))
        assert kept == 4, "the present content, two versions, and that of the snapshot"
        volume.snapshots.delete("early")
        assert volume.gc()["packs_deleted"] == 1
        assert len(packs(volume)) == 3
        assert read(volume, "file") == content(5, 200_000)
        assert_sound(volume)


def test_an_open_handle_of_a_deleted_file_reads_on(volume: Volume) -> None:
    put(volume, "file", content(1, 500_000))
    volume.sync(wait=True)
    handle = volume.fs.open(volume.fs.resolve([b"file"]).inode)
    assert handle.read(0, 10) == content(1, 500_000)[:10]
    volume.fs.unlink(volume.fs.root, b"file")
    purge(volume)
    volume.content.reader.clear()
    assert volume.gc()["packs_deleted"] == 0
    assert handle.read(0, 600_000) == content(1, 500_000)
    handle.close()
    assert volume.gc()["packs_deleted"] == 1
    assert_sound(volume)


def test_a_reader_of_replaced_content_reads_on(volume: Volume) -> None:
    data = content(1, 500_000)
    put(volume, "file", data)
    volume.sync(wait=True)
    handle = volume.fs.open(volume.fs.resolve([b"file"]).inode)
    assert handle.keep_content()
    put(volume, "file", b"new")
    volume.content.reader.clear()
    assert volume.gc()["packs_deleted"] == 0
    assert handle.read(0, 600_000) == data
    handle.close()
    assert volume.gc()["packs_deleted"] == 1
    assert_sound(volume)


def test_unflushed_writes_keep_the_content_below(volume: Volume) -> None:
    data = content(1, 500_000)
    put(volume, "file", data)
    volume.sync(wait=True)
    handle = volume.fs.open(volume.fs.resolve([b"file"]).inode, writable=True)
    handle.write(1000, b"x" * 50)
    volume.collector._prepare = lambda: None
    volume.content.reader.clear()
    assert volume.gc()["packs_deleted"] == 0
    handle.close()
    assert read(volume, "file") == data[:1000] + b"x" * 50 + data[1050:]


def test_an_unsent_group_keeps_its_content(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is overwritten before its segment leaves still names its chunks."""
    put(volume, "other", content(2, 10))
    volume.sync(wait=True)
    put(volume, "file", content(1, 500_000))
    volume.content.flush(60)
    put(volume, "file", b"short")
    with monkeypatch.context() as patched:
        patched.setattr(volume.collector, "_send", lambda _seconds: volume.content.flush(60))
        volume.database.writer.run(lambda t: t.execute("UPDATE packs SET announced = 1 WHERE state = 3"))
        assert volume.gc()["packs_deleted"] == 0
    volume.database.writer.run(lambda t: t.execute("UPDATE packs SET announced = NULL WHERE state = 3"))
    assert volume.gc()["packs_deleted"] >= 1
    assert_sound(volume)


def staged(volume: Volume) -> list[tuple[int, int]]:
    """(bytes, local) of the chunks that are staged as rows."""
    return rows(volume, "SELECT length(data), local FROM chunks WHERE data IS NOT NULL ORDER BY no")


def test_junk_that_is_gone_leaves_no_rows(volume: Volume) -> None:
    put(volume, ".DS_Store", content(1, 90_000))
    put(volume, "file", content(2, 500_000))
    volume.sync(wait=True)
    assert {local for _, local in staged(volume)} == {1}
    volume.gc()
    assert read(volume, ".DS_Store") == content(1, 90_000)
    volume.fs.unlink(volume.fs.root, b".DS_Store")
    volume.gc()
    assert staged(volume) == []
    assert_sound(volume)


def test_what_was_never_sent_and_nothing_uses_is_not_sent(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.sync(wait=True)
    put(volume, "kept", content(1, 900))
    with volume.fs.upload(volume.fs.root, b"failed", owner=Owner()) as upload:
        upload.write(content(2, 20_000))
        upload.write(content(3, 20_000))
    volume.database.writer.run(
        lambda t: t.execute(
            "INSERT INTO chunks (id, length, stored, codec, epoch, pack, offset, data, local)"
            " SELECT zeroblob(32), length, stored, codec, epoch, pack, offset, data, local FROM chunks"
        )
    )
    used, backlog = volume.content._context.quota.used, volume.content._context.backlog
    backlog.add(1, 1000)
    with monkeypatch.context() as patched:
        patched.setattr(volume.collector, "_send", lambda _seconds: None)
        volume.gc()
    assert len(staged(volume)) == 1
    assert volume.content._context.quota.used < used
    assert backlog.count == 1
    assert read(volume, "kept") == content(1, 900)


# ---- while others write --------------------------------------------------------------------------------------------


def garbage(volume: Volume, data: bytes) -> None:
    """Store ``data``, and let nothing refer to it any more."""
    put(volume, "garbage", data)
    volume.sync(wait=True)
    put(volume, "garbage", b"")
    volume.sync(wait=True)


def test_a_chunk_that_is_used_again_meanwhile_stays(volume: Volume) -> None:
    """New content deduplicates against a pack that is about to be retired."""
    data = content(1, 500_000)
    put(volume, "keep", content(2, 60_000))
    garbage(volume, data)
    done = []

    def use(name: str) -> None:
        if name == "gc.planned" and not done:
            done.append(put(volume, "again", data))

    with installed(use):
        volume.gc()
    assert done
    assert read(volume, "again") == data
    volume.content.reader.clear()
    assert read(volume, "again") == data
    assert_sound(volume)


def test_a_stream_that_pinned_a_chunk_keeps_it(volume: Volume) -> None:
    data = content(1, 500_000)
    garbage(volume, data)
    with volume.fs.upload(volume.fs.root, b"again", owner=Owner()) as upload:
        upload.write(data)
        assert volume.gc()["packs_deleted"] == 0
        upload.commit()
    assert read(volume, "again") == data
    assert_sound(volume)


def test_a_chunk_cannot_be_pinned_while_its_pack_is_retired(volume: Volume) -> None:
    garbage(volume, content(1, 100_000))
    chunks = [ChunkId(row[0]) for row in rows(volume, "SELECT id FROM chunks")]
    context, found = volume.content._context, []

    def pin(name: str) -> None:
        if name == "writer.before-commit" and context.pins._removing:
            found.extend(context.pin_known(chunk) for chunk in chunks)

    with installed(pin):
        assert volume.gc()["packs_deleted"] == 1
    assert found
    assert set(found) == {None}
    assert not context.pins._removing
    assert not any(context.pins._pinned.values())


def test_a_stream_after_the_retirement_stores_anew(volume: Volume) -> None:
    data = content(1, 500_000)
    garbage(volume, data)
    seen: list[StagedContent] = []

    def use(name: str) -> None:
        if name == "gc.retired" and not seen:
            put(volume, "again", data)
            seen.append(True)  # type: ignore[arg-type]

    with installed(use):
        assert volume.gc()["packs_deleted"] == 1
    assert seen
    volume.sync(wait=True)
    volume.content.reader.clear()
    assert read(volume, "again") == data
    assert_sound(volume)


def test_writers_and_collections_at_the_same_time(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers use a few contents again and again, so that what is deleted is often stored a moment later."""
    pool = [content(number, 150_000 + 10_000 * number) for number in range(6)]
    monkeypatch.setattr(collector, "_FLUSH_SECONDS", 0.05)

    def write(writer: int) -> dict[str, bytes]:
        source, mine = random.Random(writer), {}
        for turn in range(60):
            if turn % 6 == writer:
                volume.sync(wait=True)
            name = f"{writer}-{source.randrange(4)}"
            if name in mine and source.random() < 0.3:
                volume.fs.remove_tree(volume.fs.root, name.encode(), durable=True)
                volume.fs.trash.empty()
                del mine[name]
            else:
                mine[name] = source.choice(pool)
                put(volume, name, mine[name])
        return mine

    collections = deleted = 0
    with ThreadPoolExecutor(3) as threads:
        writers = [threads.submit(write, number) for number in range(3)]
        while not all(each.done() for each in writers):
            with suppress(StoreUnavailable):  # so much is written
                deleted += volume.gc()["packs_deleted"]
            collections += 1
        files = {name: data for each in writers for name, data in each.result().items()}
    volume.gc()
    assert collections
    volume.content.reader.clear()
    assert_shows(volume, files)
    assert_sound(volume)
    print(f"\ngc: {collections} collections beside writers deleted {deleted} packs")


# ---- when something is wrong ----------------------------------------------------------------------------------------


def spoil(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)


def test_nothing_is_deleted_while_something_is_damaged(vault: Vault, volume: Volume) -> None:
    files = fill(volume)
    garbage(volume, content(50, 400_000))
    for name in in_store(vault, volume):
        spoil(vault.blob(name))
    assert not volume.check(read_data=100.0)["ok"]
    before = set(vault.blobs())
    with pytest.raises(DamageError, match="gc deletes nothing"):
        volume.gc()
    assert set(vault.blobs()) == before
    assert files


@pytest.mark.parametrize(
    "harm", ["UPDATE nodes SET nlink = 7 WHERE ino = 1", "DELETE FROM chunks WHERE no % 2", "DELETE FROM entries"]
)
def test_a_broken_database_deletes_nothing(vault: Vault, volume: Volume, harm: str) -> None:
    fill(volume)
    garbage(volume, content(50, 400_000))
    volume.database.writer.run(lambda t: t.execute(harm))
    before = {name_of(blob) for blob in vault.blobs()}
    with pytest.raises(DamageError, match="gc deletes nothing"):
        volume.gc()
    assert {name_of(blob) for blob in vault.blobs()} >= before


def test_a_pack_that_cannot_be_read_is_not_rewritten(vault: Vault, volume: Volume) -> None:
    for number in range(8):
        put(volume, f"{number}", content(number, 120_000))
    volume.sync(wait=True)
    (name,) = in_store(vault, volume)
    for number in range(6):
        put(volume, f"{number}", b"")
    blob = vault.blob(name)
    blob.chmod(0o600)
    blob.write_bytes(bytes(blob.stat().st_size))
    volume.content.reader.clear()
    with suppress(DamageError):
        assert volume.gc()["packs_deleted"] == 0
    assert name in in_store(vault, volume)


def test_who_is_not_the_writer_deletes_nothing(vault: Vault) -> None:
    with vault.opened() as volume:
        garbage(volume, content(1, 300_000))
        assert not vault.join("second").damage
        with vault.opened("second") as second:
            second.sync(wait=True)
        before = set(vault.blobs())
        with pytest.raises(WriterReplaced):
            volume.gc()
        assert set(vault.blobs()) == before
        with pytest.raises(WriterReplaced, match="nothing is deleted"):
            volume.gc()


def test_a_machine_that_was_replaced_does_not_miss_what_its_successor_deleted(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "kept", content(2, 200_000))
        garbage(volume, content(1, 300_000))
        assert volume.replicator.checkpoint()
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        second.sync(wait=True)
        assert second.gc()["packs_deleted"] == 1
        for number in range(3):
            put(second, f"{number}", b"x")
            second.sync(wait=True)
            assert second.replicator.checkpoint()
            second.replicator.trim()
        ((kept, name),) = rows(second, "SELECT no, name FROM packs WHERE size > 200000")
        assert kept
    with vault.opened() as volume:
        assert volume.read_only_reason is not None
        found = volume.check(read_data=100.0)
        assert found["ok"], found["damage"]
        spoil(vault.blob(name))
        assert [each["blob"] for each in volume.check(read_data=100.0)["damage"]] == [name.hex()]


def test_a_store_that_is_away_loses_nothing(vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fill(volume)
    overwrite(volume, files, list(files), 5000)
    volume.sync(wait=True)

    def away(*_: object, **__: object) -> object:
        raise StoreUnavailable("away")

    for call in ("append", "delete", "list"):
        with monkeypatch.context() as patched:
            patched.setattr(volume.stores.store, call, away)
            with suppress(StoreUnavailable):
                volume.gc()
        assert_shows(volume, files)
    volume.gc()
    assert volume.gc()["packs_deleted"] == 0
    assert_shows(volume, files)
    assert_sound(volume)


# ---- crashes ---------------------------------------------------------------------------------------------------------


def prepare(volume: Volume) -> dict[str, bytes]:
    """Packs to drop and packs to rewrite."""
    files = fill(volume)
    for number in range(8):
        files[f"sparse-{number}"] = content(300 + number, 120_000)
        put(volume, f"sparse-{number}", files[f"sparse-{number}"])
    volume.sync(wait=True)
    overwrite(volume, files, ["folder-0/6", "folder-0/5", *(f"sparse-{number}" for number in range(6))], 6000)
    volume.sync(wait=True)
    return files


STEPS = ("gc.", "deletion.", "content.moved")
LAST = 16


def test_how_many_steps_there_are(volume: Volume) -> None:
    prepare(volume)
    seen: list[str] = []
    with installed(seen.append):
        assert volume.gc()["packs_repacked"]
    assert sum(name.startswith(STEPS) for name in seen) <= LAST, "the crash test covers all of them"


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_a_crash_at_each_step(vault: Vault, number: int) -> None:
    volume = vault.open()
    files = prepare(volume)
    seen: list[str] = []

    def crash(name: str) -> None:
        if name.startswith(STEPS):
            seen.append(name)
        if len(seen) >= number:
            raise SimulatedCrash(name)

    with installed(crash), suppress(SimulatedCrash, LocalFailure):
        volume.gc()
    with suppress(LocalFailure):
        volume.close()
    with vault.opened() as volume:
        assert_shows(volume, files)
        found = volume.check(read_data=100.0)
        assert found["ok"], (seen, found["damage"])
        volume.gc()
        assert volume.gc()["packs_deleted"] == 0
        assert {name_of(blob) for blob in vault.blobs()} == {
            row[0].hex() for row in rows(volume, "SELECT name FROM blobs WHERE gone = 0")
        }
        assert_shows(volume, files)
        assert_sound(volume)
    joined = vault.join("second")
    assert not joined.damage, joined.damage
    with vault.opened("second") as second:
        assert_shows(second, files)
        assert_sound(second)


def test_another_machine_finishes_what_was_begun(vault: Vault) -> None:
    """The packs are retired, a checkpoint says so, and the machine is lost before it deletes them."""
    volume = vault.open()
    files = prepare(volume)
    with installed(CrashAt(1, "deletion.recorded")), suppress(SimulatedCrash):
        volume.gc()
    with suppress(LocalFailure):
        volume.close()
    before = len(vault.blobs())
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert_sound(second)
        second.gc()
        assert len(vault.blobs()) < before
        assert not rows(second, "SELECT 1 FROM packs WHERE state = 4")
        assert_shows(second, files)
        assert_sound(second)


# ---- automatically ---------------------------------------------------------------------------------------------------


def collect(volume: Volume, vault: Vault, ticks: int = 40) -> list[bool]:
    """Let time pass, and tick as background work does."""
    vault.clock.advance(3600)
    steps = []
    for _ in range(ticks):
        steps.append(volume.collector.tick())
        vault.clock.advance(120)
        if not steps[-1]:
            break
    return steps


def test_it_runs_by_itself_when_idle(vault: Vault, volume: Volume) -> None:
    files = prepare(volume)
    before = in_store(vault, volume)
    volume.collector.tick()
    steps = collect(volume, vault)
    assert not steps[-1]
    assert len(steps) > 3
    assert before - in_store(vault, volume)
    assert_shows(volume, files)
    assert_sound(volume)
    seen = set(vault.blobs())
    assert collect(volume, vault) == [False], "nothing has changed since"
    assert set(vault.blobs()) == seen


def test_overwriting_again_and_again_stays_small(tmp_path: Path) -> None:
    """Files are overwritten many times; the store stays below three times what is live."""
    vault = Vault(tmp_path / "vault", **{**SECTIONS, "trash": {"retention_days": 0}})
    random.seed(7)
    with vault.opened() as volume:
        files = {f"{number}": content(number, random.randrange(5_000, 400_000)) for number in range(12)}
        for name, data in files.items():
            put(volume, name, data)
        for turn in range(8):
            overwrite(volume, files, random.sample(sorted(files), 8), 1000 * turn)
            volume.sync(wait=True)
            volume.collector.tick()
            collect(volume, vault)
            size = sum(blob.stat().st_size for blob in vault.blobs())
            live = sum(map(len, files.values()))
            assert size < 3 * live, f"round {turn}: {size} bytes for {live}"
            assert volume.check(read_data=100.0)["ok"]
        assert_shows(volume, files)
        assert_sound(volume)


def test_a_tick_does_not_wait_for_a_run_by_hand(volume: Volume) -> None:
    with volume.collector._lock:
        assert not volume.collector.tick()


# ---- a restored backup -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repacked", [False, True])
def test_a_backup_whose_unsent_changes_need_what_was_deleted(vault: Vault, repacked: bool) -> None:
    """A copy that the backup never sent names content that was collected after the backup: it is refused, and kept."""
    data = content(1, 200_000)
    with vault.opened() as volume:
        put(volume, "file", data)
        if repacked:
            put(volume, "large", content(2, 700_000))
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
    shutil.copytree(vault.folder / "home", vault.folder / "before")
    with vault.opened() as volume:
        volume.fs.copy(volume.fs.resolve([b"file"]).inode, volume.fs.root, b"copy", replace=False, durable=True)
    back_up(vault)
    restore(vault, "before")
    with vault.opened() as volume:
        put(volume, "large" if repacked else "file", b"")
        volume.sync(wait=True)
        found = volume.gc()
        assert found["packs_deleted"] == 1
        assert found["packs_repacked"] == int(repacked)
    restore(vault)
    with vault.opened() as volume:
        if repacked:
            assert volume.read_only_reason is None
            volume.sync(wait=True)
            assert read(volume, "copy") == data
        else:
            assert volume.read_only_reason is not None
            assert b"copy" in {entry.name for entry in volume.fs.list_directory(volume.fs.root)}


def test_nothing_is_deleted_during_a_check(vault: Vault, volume: Volume) -> None:
    garbage(volume, content(1, 300_000))
    for number in range(3):
        put(volume, f"{number}", b"x")
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
    before = set(vault.blobs())
    stages: list[str] = []

    def report(stage: str, _done: int, _total: int) -> None:
        stages.append(stage)

    with ThreadPoolExecutor(1) as pool:
        with volume.collector.paused():
            assert collect(volume, vault) == [False]
            assert not volume.collector.trim()
            running = pool.submit(volume.gc, False, report)
            wait_for(lambda: "waiting for a check" in stages)
            assert set(vault.blobs()) == before
        assert running.result()["packs_deleted"] == 1
    assert_sound(volume)
