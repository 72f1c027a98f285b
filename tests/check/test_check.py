"""Check finds what is wrong, names what it hits, forgets what is whole again, and repairs what this machine still holds."""

from pathlib import Path

import pytest

from tests.support.vaults import Vault, content, name_of, put, read, rows
from tests.support.volumes import configuration, places
from tgdav.crypto.passphrase import Passphrase
from tgdav.errors import DamageError, StoreError, StoreUnavailable
from tgdav.ids import BlobName
from tgdav.volume import report
from tgdav.volume.volume import Volume


def replace(path: Path, data: bytes) -> None:
    """Put other bytes into the store's file alone: it may share its bytes with a file of ours by a hard link."""
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o600)


def spoil(path: Path) -> bytes:
    """Change one bit in the middle; return what was there."""
    whole = path.read_bytes()
    middle = len(whole) // 2
    replace(path, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    return whole


def furnish(volume: Volume) -> None:
    put(volume, "first", content(1, 90_000))
    volume.sync(wait=True)
    assert volume.replicator.checkpoint()
    put(volume, "second", content(2, 90_000))
    volume.sync(wait=True)


def kinds(vault: Vault, volume: Volume) -> dict[str, list[Path]]:
    named = {row[0].hex(): row[1] for row in rows(volume, "SELECT name, kind FROM blobs WHERE gone = 0")}
    found: dict[str, list[Path]] = {"header": [], "pack": [], "segment": [], "checkpoint": []}
    for path in vault.blobs():
        found[list(found)[named[name_of(path)]]].append(path)
    return found


@pytest.mark.parametrize("kind", ["header", "pack", "segment", "checkpoint"])
@pytest.mark.parametrize("harm", ["missing", "changed", "cut", "grown"])
def test_every_damage_is_found_named_and_forgotten(vault: Vault, volume: Volume, kind: str, harm: str) -> None:
    furnish(volume)
    blob = kinds(vault, volume)[kind][-1]
    whole = blob.read_bytes()
    if harm == "missing":
        blob.unlink()
    elif harm == "changed":
        spoil(blob)
    else:
        replace(blob, whole[:-1] if harm == "cut" else whole + b"\0")
    assert volume.check()["ok"] == (harm == "changed")
    for found in (volume.check(read_data=100.0), volume.check()):
        (damage,) = found["damage"]
        assert (damage["blob"], damage["kind"]) == (name_of(blob), kind)
        assert damage["paths"] == (["/second"] if kind == "pack" else [])
        assert not found["ok"]
    assert [each["blob"] for each in report.status(volume)["damage"]] == [name_of(blob)]
    assert report.status(volume)["last_error"]
    blob.unlink(missing_ok=True)
    blob.write_bytes(whole)
    blob.chmod(0o600)
    assert volume.check()["ok"], "what is whole again is forgotten, without being asked to read all"
    assert report.status(volume)["damage"] == []
    assert rows(volume, "SELECT count(*) FROM packs WHERE damaged = 1") == [(0,)]


@pytest.mark.parametrize("harm", ["missing", "changed"])
@pytest.mark.parametrize("kind", ["header", "pack", "segment"])
def test_what_is_still_here_is_repaired(vault: Vault, volume: Volume, kind: str, harm: str) -> None:
    furnish(volume)
    blob = kinds(vault, volume)[kind][-1]
    spoil(blob) if harm == "changed" else blob.unlink()
    found = volume.check(read_data=100.0, repair=True)
    assert (found["ok"], found["repaired"], found["damage"]) == (True, [name_of(blob)], [])
    assert volume.check(read_data=100.0)["ok"]
    volume.content.reader.clear()
    assert read(volume, "second") == content(2, 90_000)
    assert not vault.join("second").damage


def test_a_repair_that_is_cut_off_is_finished_by_the_next(
    vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(volume)
    for kind in ("pack", "segment"):
        blob = kinds(vault, volume)[kind][-1]
        spoil(blob)

        def away(*_: object, **__: object) -> object:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(volume.stores.store, "append", away)
            with pytest.raises(StoreUnavailable):
                volume.check(read_data=100.0, repair=True)
        assert not blob.exists()
        if kind == "pack":
            assert [each["blob"] for each in volume.check()["damage"]] == [name_of(blob)]
        volume.check(repair=True)
        volume.sync(wait=True)
        assert volume.check(read_data=100.0)["ok"]
    assert not vault.join("second").damage


def test_what_cannot_be_repaired_stays_damage(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    volume.content.reader.clear()
    blob = kinds(vault, volume)["pack"][-1]
    blob.unlink()
    found = volume.check(repair=True)
    assert (found["ok"], found["repaired"]) == (False, [])
    put(volume, "again", content(2, 90_000))
    volume.sync(wait=True)
    assert read(volume, "second") == content(2, 90_000), "content that is stored anew heals all that name it"


class TestChunkByChunk:
    """A pack that is not here whole is repaired from what there is of its chunks."""

    def test_from_ranges_in_the_cache(self, vault: Vault, volume: Volume) -> None:
        furnish(volume)
        blob = kinds(vault, volume)["pack"][-1]
        keep_in_pieces(volume, blob)
        blob.unlink()
        self.assert_repaired(vault, volume, blob)

    def test_from_the_cache_and_what_is_still_good_in_the_store(self, vault: Vault, volume: Volume) -> None:
        furnish(volume)
        blob = kinds(vault, volume)["pack"][-1]
        keep_in_pieces(volume, blob, pieces=slice(1))
        whole = bytearray(blob.read_bytes())
        whole[100] ^= 1
        replace(blob, bytes(whole))
        self.assert_repaired(vault, volume, blob)

    def test_from_another_pack(self, vault: Vault) -> None:
        twice = Vault(vault.folder / "twice", chunk={"dedup_enabled": False})
        with twice.opened() as volume:
            for path in ("first", "second"):
                put(volume, path, content(2, 90_000))
                volume.sync(wait=True)
            volume.content.reader.clear()
            blob = kinds(twice, volume)["pack"][-1]
            blob.unlink()
            self.assert_repaired(twice, volume, blob)

    def test_whose_label_was_changed(self, vault: Vault, volume: Volume) -> None:
        furnish(volume)
        blob = kinds(vault, volume)["pack"][-1]
        volume.content.reader.clear()
        blob.rename(blob.with_name(blob.name[:-8] + "edited00"))
        self.assert_repaired(vault, volume, blob)

    def test_in_part_where_some_are_nowhere(self, vault: Vault, volume: Volume) -> None:
        put(volume, "kept", content(3, 40_000))
        put(volume, "lost", content(4, 40_000))
        volume.sync(wait=True)
        blob = kinds(vault, volume)["pack"][-1]
        keep_in_pieces(volume, blob, pieces=slice(1))
        blob.unlink()
        found = volume.check(repair=True)
        assert (found["ok"], found["repaired"]) == (False, [])
        (damage,) = found["damage"]
        assert (damage["blob"], damage["paths"]) == (name_of(blob), ["/lost"])
        volume.content.reader.clear()
        assert read(volume, "kept") == content(3, 40_000)
        with pytest.raises(DamageError):
            read(volume, "lost")
        put(volume, "again", content(4, 40_000))
        volume.sync(wait=True)
        found = volume.check(repair=True)
        assert (found["ok"], found["repaired"]) == (True, [name_of(blob)]), "nothing of the old pack is missed any more"
        assert not vault.join("second").damage

    def test_is_finished_by_the_next_repair(
        self, vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        furnish(volume)
        blob = kinds(vault, volume)["pack"][-1]
        keep_in_pieces(volume, blob)
        blob.unlink()

        def away(*_: object, **__: object) -> object:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(volume.replicator, "checkpoint", away)
            with pytest.raises(StoreUnavailable):
                volume.check(repair=True)
        volume.content.reader.clear()
        self.assert_repaired(vault, volume, blob)

    def assert_repaired(self, vault: Vault, volume: Volume, blob: Path) -> None:
        found = volume.check(read_data=100.0, repair=True)
        assert (found["ok"], found["repaired"], found["damage"]) == (True, [name_of(blob)], [])
        assert volume.check(read_data=100.0)["ok"]
        volume.content.reader.clear()
        assert read(volume, "second") == content(2, 90_000)
        assert not vault.join("other").damage
        with vault.opened("other") as other:
            assert other.check(read_data=100.0)["ok"]
            assert read(other, "second") == content(2, 90_000)


def keep_in_pieces(volume: Volume, blob: Path, pieces: slice = slice(None)) -> None:
    """Have the cache hold a pack's chunks one by one, and nothing else."""
    volume.content.reader.clear()
    name, data = BlobName(bytes.fromhex(name_of(blob))), blob.read_bytes()
    chunks = "SELECT offset, stored FROM chunks WHERE pack = (SELECT no FROM packs WHERE name = ?) ORDER BY offset"
    for offset, stored in rows(volume, chunks, (name,))[pieces]:
        volume.content.reader.cache.put(name, offset, data[offset : offset + stored])
    # What another end of the file holds is not to be taken for it.
    assert volume.content.reader.cache.get(name, 0, len(data), counted=False) is None


def test_a_pack_that_lies_elsewhere_is_damage_and_found_by_repair(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    blob = kinds(vault, volume)["pack"][-1]
    blob.rename(blob.with_name(f"{9_000_000:016d}" + blob.name[16:]))
    (damage,) = volume.check()["damage"]
    assert "elsewhere" in damage["reason"]
    assert volume.check(repair=True)["ok"]
    volume.content.reader.clear()
    assert read(volume, "second") == content(2, 90_000)


def test_reads_that_meet_damage_show_in_status(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    blob = kinds(vault, volume)["pack"][-1]
    whole = blob.read_bytes()
    replace(blob, b"\0" * len(whole))
    volume.content.reader.clear()
    with pytest.raises((DamageError, StoreError)):
        read(volume, "second")
    status = report.status(volume)
    assert [each["blob"] for each in status["damage"]] == [name_of(blob)]
    (told,) = status["damage"]
    assert status["last_error"] == f"pack {name_of(blob)}: {told['reason']}"
    assert not volume.check()["ok"], "a check that reads nothing else still reads what is suspected"
    replace(blob, whole)
    assert volume.check()["ok"]
    assert report.status(volume)["last_error"] is None


def test_a_share_of_the_data_differs_from_time_to_time(vault: Vault, volume: Volume) -> None:
    for number in range(6):
        put(volume, f"file-{number}", content(number, 70_000))
        volume.sync(wait=True)
    spoil(kinds(vault, volume)["pack"][2])
    sizes = set()
    for _ in range(200):
        found = volume.check(read_data=10.0)
        sizes.add(found["bytes_read"])
        assert found["bytes_read"] < sum(path.stat().st_size for path in vault.blobs()) / 2
        if not found["ok"]:
            break
    assert not found["ok"], "each blob has its turn"


def test_a_machine_that_changed_the_passphrase_is_no_damage_to_the_other(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    vault.join("second")
    with vault.opened("second") as second:
        second.change_passphrase("another passphrase")
        second.change_passphrase("a third one")
    assert volume.check(read_data=100.0)["ok"]
    volume.headers.ensure()
    assert volume.check(read_data=100.0)["ok"], "nor once the new header is taken over here"
    volume.close()
    config = configuration(vault.folder)
    again = Volume.open(places(vault.folder), config, Passphrase("a third one"), platform=vault.platform)
    assert again.check(read_data=100.0)["ok"]
    again.close()


def test_a_staged_file_that_is_gone(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "staged", content(3, 150_000))
        staged = volume.paths.state / "staging"
        for path in staged.glob("*.pack"):
            path.unlink()
        found = volume.check()
        assert [(each["kind"], each["paths"]) for each in found["damage"]] == [("staging", ["/staged"])]
        put(volume, "staged", b"small")
        volume.content.stop()
    with vault.opened() as volume:
        assert volume.check()["ok"], "nothing names it any more"


def test_structure(volume: Volume) -> None:
    put(volume, "file", content(1, 100))
    volume.database.writer.run(lambda t: t.execute("DELETE FROM nodes WHERE ino > 2"))
    (damage,) = volume.check()["damage"]
    assert (damage["blob"], damage["kind"]) == ("database", "database")


def test_chunks_that_are_nowhere(volume: Volume) -> None:
    put(volume, "file", content(1, 100))
    volume.database.writer.run(lambda t: t.execute("DELETE FROM chunks"))
    (damage,) = volume.check()["damage"]
    assert (damage["blob"], damage["paths"]) == ("chunks", ["/file"])


def test_progress_and_counts(vault: Vault, volume: Volume) -> None:
    furnish(volume)
    told = []
    found = volume.check(read_data=100.0, progress=lambda *step: told.append(step))
    assert found["blobs"] == len(vault.blobs()) == len(told)
    assert found["files"] == 2
    assert found["bytes_read"] == sum(path.stat().st_size for path in vault.blobs())
    assert told[-1] == ("reading bytes", found["bytes_read"], found["bytes_read"])
