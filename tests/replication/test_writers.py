"""Who writes: epochs, predecessors that are late, restored backups, stores that were set back."""

import shutil

import pytest

from tests.support.vaults import Vault, content, key_of, put, read, rows
from tests.support.volumes import copy_folder
from tgdav.crypto.label import BlobKind
from tgdav.errors import DamageError, ReadOnly, WriterReplaced
from tgdav.replication.blob_listing import BlobListing
from tgdav.replication.replicator import JOINING
from tgdav.volume import report
from tgdav.volume.volume import Volume


def names(volume: Volume) -> list[bytes]:
    return [entry.name for entry in volume.fs.list_directory(volume.fs.root)]


def segments(volume: Volume) -> list[bytes]:
    """The names of the segments in the store."""
    survey = BlobListing(volume.stores.store.list(), volume.vault_keys)
    return [found.info.name for found in survey.of(volume.log.namespace, BlobKind.SEGMENT)]


def test_the_first_notices_serves_read_only_and_keeps_its_work(vault: Vault, volume: Volume) -> None:
    put(volume, "before", b"before")
    volume.sync(wait=True)
    joined = vault.join("second")
    assert (joined.epoch, joined.damage) == (2, [])
    assert joined.replaced.startswith(f"{joined.machines[0].name} ("), "both machines of this host have its name"
    put(volume, "unsent", content(1, 50_000))
    pending = volume.pending()["operations"]
    with pytest.raises(WriterReplaced, match="is the writer now"):
        volume.sync(wait=True)
    with pytest.raises(ReadOnly):
        put(volume, "more", b"x")
    assert read(volume, "unsent") == content(1, 50_000)
    assert volume.pending()["operations"] == pending > 0
    assert "is the writer now" in report.status(volume)["read_only"]
    volume.close()
    with vault.opened() as again:
        assert "is the writer now" in (again.read_only_reason or "")
        assert again.pending()["operations"] == pending
        again.background.tick()
    with vault.opened("second") as second:
        assert names(second) == [b"before"]
        put(second, "mine", b"mine")
        second.sync(wait=True)
        assert second.check(read_data=100.0)["ok"]


def test_what_the_first_sends_after_that_counts_for_nobody(vault: Vault, volume: Volume) -> None:
    put(volume, "before", b"before")
    volume.sync(wait=True)
    vault.join("second")
    put(volume, "too late", b"late")
    volume.content.flush(60)
    volume.replicator.pusher.push()  # the look that would have refused it came a moment too early
    assert volume.pending()["operations"] == 0
    with pytest.raises(WriterReplaced):
        volume.sync()
    assert volume.pending()["operations"] > 0, "it is unsent work again"
    joined = vault.join("third")
    assert not joined.damage
    with vault.opened("third") as third:
        assert names(third) == [b"before"]
    with vault.opened("second") as second, pytest.raises(WriterReplaced, match="is the writer now"):
        second.sync()


def interrupted_join(vault: Vault, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Join, and die before the store is told."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Volume, "sync", die)
        with pytest.raises(KeyboardInterrupt):
            vault.join(home)


def test_what_the_first_sent_before_counts_although_the_second_had_looked(
    vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(volume, "before", b"before")
    volume.sync(wait=True)
    interrupted_join(vault, "second", monkeypatch)
    put(volume, "in between", content(2, 60_000))
    volume.sync(wait=True)
    with vault.opened("second") as second:
        assert second.read_only_reason == JOINING
        with pytest.raises(ReadOnly):
            put(second, "too early", b"x")
        second.background.tick()
        assert second.read_only_reason is None
        assert read(second, "in between") == content(2, 60_000)
        put(second, "mine", b"mine")
        second.sync(wait=True)
        assert second.check(read_data=100.0)["ok"]
        vault.join("third")
        with vault.opened("third") as third:
            assert names(third) == [b"before", b"in between", b"mine"]
            assert {row[:3] for row in rows(third, "SELECT name, id, stamp FROM entries")} >= {
                row[:3] for row in rows(second, "SELECT name, id, stamp FROM entries WHERE name != 'x'")
            }


def test_of_two_that_join_at_once_one_is_the_writer(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_join(vault, "second", monkeypatch)
    interrupted_join(vault, "third", monkeypatch)
    with vault.opened("third") as third:
        third.sync(wait=True)
        put(third, "from the third", b"x")
        third.sync(wait=True)
    with vault.opened("second") as second:
        with pytest.raises(WriterReplaced):
            second.sync(wait=True)
        assert second.read_only_reason not in (None, JOINING)
    with vault.opened("third") as third:
        third.sync(wait=True)
        assert third.read_only_reason is None
    assert not vault.join("fourth").damage
    with vault.opened("fourth") as fourth:
        assert names(fourth) == [b"from the third"]


def test_a_configured_machine_id_may_come_back(vault: Vault, volume: Volume) -> None:
    put(volume, "before", b"before")
    volume.sync(wait=True)
    vault.sections["machine"] = {"id": "6ecd8c99-4036-403d-bf84-cf8400f67836", "name": "same"}
    for number in range(3):
        joined = vault.join(f"life-{number}")
        assert (joined.epoch, joined.damage) == (number + 2, [])
        with vault.opened(f"life-{number}") as again:
            put(again, f"file-{number}", b"x")
            again.sync(wait=True)
            assert number == 1 or again.replicator.checkpoint()
    vault.join("last")
    with vault.opened("last") as last:
        assert names(last) == [b"before", b"file-0", b"file-1", b"file-2"]


def test_nothing_is_added_to_a_store_that_was_set_back_until_a_check_said_so(vault: Vault, volume: Volume) -> None:
    put(volume, "old", b"old")
    volume.sync(wait=True)
    copy_folder(vault.store, vault.folder / "older")
    put(volume, "new", content(3, 70_000))
    volume.sync(wait=True)
    lost = {path.name for path in vault.blobs()} - {path.name for path in (vault.folder / "older").iterdir()}
    shutil.rmtree(vault.store)
    (vault.folder / "older").rename(vault.store)
    put(volume, "newer", b"newer")
    with pytest.raises(DamageError, match="set back"):
        volume.sync(wait=True)
    found = volume.check()
    assert {each["blob"] for each in found["damage"]} == {name.split("-")[1] for name in lost}
    volume.sync(wait=True)
    found = {each["blob"] for each in volume.check()["damage"]}
    assert found == {name.split("-")[1] for name in lost}, "ids given out again do not hide what is lost"


def test_a_foreign_segment_that_does_not_open_holds_pushing_up_until_it_does(vault: Vault, volume: Volume) -> None:
    put(volume, "before", b"before")
    volume.sync(wait=True)
    vault.join("second")
    with vault.opened("second") as second:
        (name,) = rows(second, "SELECT name FROM segments WHERE incarnation = ?", (key_of(second),))
    blob = vault.blob(name[0])
    whole = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    put(volume, "unsent", b"x")
    for _ in range(2):
        with pytest.raises(DamageError):
            volume.sync()
    assert volume.read_only_reason is None
    blob.write_bytes(whole)
    with pytest.raises(WriterReplaced):
        volume.sync()


def test_joining_a_state_that_has_much_behind_it(vault: Vault, volume: Volume) -> None:
    for number in range(5):
        put(volume, f"file-{number}", content(number, 20_000))
        volume.sync(wait=True)
    for home in ("second", "third"):
        vault.join(home)
    with vault.opened("third") as third:
        assert third.check(read_data=100.0)["ok"]
        assert [each["epoch"] for each in report.status(third)["machines"]] == [1, 2, 3]
