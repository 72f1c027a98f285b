"""Repair says what it does, does it only when asked, and takes what it needs from wherever it is."""

import hashlib
from pathlib import Path

import pytest

from tests.check.test_check import furnish, keep_in_pieces, kinds, replace, spoil
from tests.support.vaults import Vault, content, name_of, put, read, rows
from tgdav.db.connection import Connection
from tgdav.errors import DamageError
from tgdav.volume.volume import Volume

TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


def everything(vault: Vault, volume: Volume) -> dict[str, object]:
    """Return all that a repair could change: blobs, staged files, the outbox, and every table but the record of damage."""
    state = volume.paths.state
    files = [*vault.blobs(), *(path for name in ("staging", "outbox") for path in (state / name).iterdir())]
    found: dict[str, object] = {str(path): hashlib.sha256(path.read_bytes()).digest() for path in files}

    def dump(connection: Connection) -> None:
        for (table,) in connection.all(TABLES):
            if table not in ("damage", "settings"):
                found[table] = connection.all(f"SELECT * FROM {table}")

    with volume.database.reading() as connection:
        dump(connection)
    return found


def actions(found: dict[str, object]) -> dict[str, str]:
    return {each["blob"]: each["action"] for each in found["repairs"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["header", "pack", "segment", "checkpoint"])
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(vault: Vault, volume: Volume, kind: str) -> None:
    furnish(volume)
    blob = kinds(vault, volume)[kind][-1]
    spoil(blob)
    volume.check(read_data=100.0)
    before = everything(vault, volume)
    found = volume.check(read_data=100.0, dry_run=True)
    assert everything(vault, volume) == before
    assert (found["ok"], found["repaired"]) == (False, [])
    told = actions(found)
    assert list(told) == [name_of(blob)]
    found = volume.check(read_data=100.0, repair=True)
    assert (found["ok"], found["repaired"]) == (True, [name_of(blob)])
    assert actions(found) == told, "what is done is what was announced"


def test_a_dry_run_counts_chunks_that_can_be_rescued(vault: Vault, volume: Volume) -> None:
    put(volume, "kept", content(3, 40_000))
    put(volume, "lost", content(4, 40_000))
    volume.sync(wait=True)
    blob = kinds(vault, volume)["pack"][-1]
    keep_in_pieces(volume, blob, pieces=slice(1))
    blob.unlink()
    volume.check()
    before = everything(vault, volume)
    found = volume.check(dry_run=True)
    assert everything(vault, volume) == before
    assert "1 of 2 chunks" in actions(found)[name_of(blob)]
    assert not found["repairs"][0]["done"]
    found = volume.check(repair=True)
    assert "1 of 2 chunks" in actions(found)[name_of(blob)]
    assert (found["ok"], found["repaired"]) == (False, [])


class TestCheckpoints:
    """A damaged checkpoint is replaced by a new one of the whole state; the damaged one goes, and what is based on it."""

    @pytest.mark.parametrize("harm", ["missing", "changed"])
    @pytest.mark.parametrize("which", [0, 1])
    def test_one_is_replaced(self, vault: Vault, volume: Volume, harm: str, which: int) -> None:
        furnish(volume)
        put(volume, "third", content(3, 9000))
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        based = rows(volume, "SELECT base FROM checkpoints ORDER BY number")
        blob = kinds(vault, volume)["checkpoint"][which]
        spoil(blob) if harm == "changed" else blob.unlink()
        found = volume.check(read_data=100.0, repair=True, drill=True)
        assert (found["ok"], found["repaired"]) == (True, [name_of(blob)]), based
        assert volume.check(read_data=100.0, drill=True)["ok"]
        put(volume, "fourth", content(4, 9000))
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        assert volume.check(read_data=100.0, drill=True)["ok"]
        volume.close()
        assert not vault.join("second").damage
        with vault.opened("second") as second:
            assert read(second, "second") == content(2, 90_000)


class TestIndex:
    """Chunks that the database does not know any more are found in the packs' own indexes."""

    HARMS = (
        "DELETE FROM chunks WHERE data IS NULL",
        "DELETE FROM chunks WHERE data IS NULL; DELETE FROM packs WHERE state = 3",
        "UPDATE chunks SET pack = NULL WHERE data IS NULL",
        "DELETE FROM packs WHERE state = 3",
    )

    @pytest.mark.parametrize("harm", HARMS)
    def test_it_is_built_anew(self, vault: Vault, volume: Volume, harm: str) -> None:
        furnish(volume)
        put(volume, "staged", content(5, 7000))
        for statement in harm.split("; "):
            volume.database.writer.run(lambda t, sql=statement: t.execute(sql))
        volume.content.reader.clear()
        found = volume.check()
        assert {each["blob"] for each in found["damage"]} >= {"chunks"}
        (damage,) = [each for each in found["damage"] if each["blob"] == "chunks"]
        assert damage["paths"] == ["/first", "/second"]
        with pytest.raises(DamageError):
            read(volume, "second")
        before = everything(vault, volume)
        assert "chunks" in actions(volume.check(dry_run=True))
        assert everything(vault, volume) == before
        found = volume.check(repair=True)
        assert (found["ok"], found["repaired"]) == (True, ["chunks"]), found
        for name, seed in (("first", 1), ("second", 2)):
            assert read(volume, name) == content(seed, 90_000)
        put(volume, "later", content(6, 50_000))
        volume.sync(wait=True)
        assert volume.check(read_data=100.0, drill=True)["ok"]

    def test_what_is_in_no_pack_stays_damage(self, vault: Vault, volume: Volume) -> None:
        furnish(volume)
        volume.content.reader.clear()
        kinds(vault, volume)["pack"][-1].unlink()
        volume.database.writer.run(lambda t: t.execute("DELETE FROM chunks"))
        found = volume.check(repair=True)
        (told,) = [each for each in found["repairs"] if each["blob"] == "chunks"]
        assert not told["done"]
        assert "chunks" in {each["blob"] for each in found["damage"]}
        assert read(volume, "first") == content(1, 90_000)


class TestStaging:
    """A staged chunk has no other copy in the store, but it may still be in memory, or in an older pack."""

    def test_from_memory(self, vault: Vault, volume: Volume) -> None:
        put(volume, "large", content(1, 70_000))
        put(volume, "row", content(2, 4000))
        assert read(volume, "large") == content(1, 70_000)
        (pack,) = (volume.paths.state / "staging").glob("*.pack")
        data = bytearray(pack.read_bytes())
        data[100] ^= 1
        replace(pack, bytes(data))
        volume.database.writer.run(
            lambda t: t.execute("UPDATE chunks SET data = zeroblob(stored) WHERE data IS NOT NULL")
        )
        found = volume.check(read_data=100.0)
        assert {each["kind"] for each in found["damage"]} == {"staging"}
        assert {path for each in found["damage"] for path in each["paths"]} == {"/large", "/row"}
        before = everything(vault, volume)
        told = actions(volume.check(read_data=100.0, dry_run=True))
        assert everything(vault, volume) == before
        found = volume.check(read_data=100.0, repair=True)
        assert found["ok"], found
        assert actions(found) == told
        volume.content.reader.clear()
        volume.sync(wait=True)
        volume.content.reader.clear()
        assert read(volume, "large") == content(1, 70_000)
        assert read(volume, "row") == content(2, 4000)

    def test_from_a_pack_in_the_store(self, vault: Vault) -> None:
        twice = Vault(vault.folder / "twice", chunk={"dedup_enabled": False})
        with twice.opened() as volume:
            put(volume, "first", content(1, 70_000))
            volume.sync(wait=True)
            put(volume, "second", content(1, 70_000))
            for path in (volume.paths.state / "staging").glob("*.pack"):
                path.unlink()
            volume.content.reader.clear()
            found = volume.check()
            assert [(each["kind"], each["paths"]) for each in found["damage"]] == [("staging", ["/first", "/second"])]
            found = volume.check(repair=True)
            assert found["ok"], found
            volume.content.reader.clear()
            assert read(volume, "second") == content(1, 70_000)


def test_nothing_is_repaired_without_being_named(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    for blobs in kinds(vault, volume).values():
        spoil(blobs[-1])
    harmed: list[Path] = [blobs[-1] for blobs in kinds(vault, volume).values()]
    found = volume.check(read_data=100.0, repair=True)
    assert found["ok"]
    assert sorted(found["repaired"]) == sorted(name_of(path) for path in harmed)
    assert all(each["action"] for each in found["repairs"])
