"""What is due when, by a clock that the test moves; and that nothing which fails keeps the rest from being done."""

import pytest

from tests.support.vaults import Vault, content, put, rows
from tests.support.waiting import wait_for
from tgdav.errors import DamageError, NoSpace, StoreUnavailable
from tgdav.volume import report
from tgdav.volume.volume import POLL_SECONDS, PUSH_SECONDS, Volume


def away(*_: object, **__: object) -> object:
    raise StoreUnavailable("away")


def test_segments_leave_once_a_minute(vault: Vault, volume: Volume) -> None:
    put(volume, "file", b"x")
    volume.content.flush(60)
    volume.background.tick()
    assert volume.pending()["operations"] > 0
    vault.clock.advance(PUSH_SECONDS)
    volume.background.tick()
    assert volume.pending()["operations"] == 0
    put(volume, "another", b"y")
    volume.content.flush(60)
    vault.clock.advance(PUSH_SECONDS - 1)
    volume.background.tick()
    assert volume.pending()["operations"] > 0
    vault.clock.advance(1)
    volume.background.tick()
    assert volume.pending()["operations"] == 0


def test_nothing_is_written_when_nothing_changed(vault: Vault, volume: Volume) -> None:
    volume.replicator.checkpoint()
    before = [path.name for path in vault.blobs()]
    for _ in range(10):
        vault.clock.advance(3000)
        volume.background.tick()
    volume.check(read_data=100.0)
    volume.sync(wait=True)
    assert [path.name for path in vault.blobs()] == before


def test_a_checkpoint_when_the_log_is_a_day_old_and_then_not_again(vault: Vault, volume: Volume) -> None:
    put(volume, "file", content(1, 1000))
    volume.sync(wait=True)
    vault.clock.advance(40)
    volume.background.tick()
    count = "SELECT count(*) FROM checkpoints WHERE state = 1"
    # The template's own first segment is older than this test's clock by years.
    assert rows(volume, count) == [(1,)]
    vault.clock.advance(25 * 3600)
    volume.background.tick()
    assert rows(volume, count) == [(1,)], "nothing changed since"
    put(volume, "more", content(2, 1000))
    volume.sync(wait=True)
    vault.clock.advance(3600)
    volume.background.tick()
    assert rows(volume, count) == [(1,)]
    vault.clock.advance(24 * 3600)
    volume.background.tick()
    assert rows(volume, count) == [(2,)]


def test_a_store_that_is_away_is_told_until_it_is_back(
    vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(volume, "file", b"x")
    volume.content.flush(60)
    with monkeypatch.context() as patched:
        patched.setattr(volume.stores.store, "list", away)
        vault.clock.advance(PUSH_SECONDS)
        volume.background.tick()
        assert report.status(volume)["last_error"] == "away"
        assert volume.pending()["operations"] > 0
    vault.clock.advance(PUSH_SECONDS)
    volume.background.tick()
    assert report.status(volume)["last_error"] is None
    assert volume.pending()["operations"] == 0


def test_being_replaced_is_noticed_without_anything_to_push(vault: Vault, volume: Volume) -> None:
    volume.replicator.checkpoint()
    vault.join("other")
    vault.clock.advance(POLL_SECONDS - 1)
    volume.background.tick()
    assert volume.read_only_reason is None
    vault.clock.advance(1)
    volume.background.tick()
    assert "is the writer now" in (volume.read_only_reason or "")


def test_what_fails_keeps_nothing_else_from_being_done(
    vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        raise NoSpace("full")

    put(volume, "file", b"x")
    volume.content.flush(60)
    monkeypatch.setattr(volume.background._tasks["flushing idle files"], "run", full)
    vault.clock.advance(PUSH_SECONDS)
    volume.background.tick()
    assert report.status(volume)["last_error"] == "full"
    assert volume.pending()["operations"] == 0


def test_idle_files_are_flushed(vault: Vault, volume: Volume) -> None:
    put(volume, "file", b"old")
    handle = volume.fs.open(volume.fs.resolve([b"file"]).inode, writable=True)
    handle.write(0, b"new")
    handle.fsync()
    assert rows(volume, "SELECT count(*) FROM overlays") == [(1,)]
    vault.clock.advance(31)
    volume.background.tick()
    assert rows(volume, "SELECT count(*) FROM overlays") == [(0,)]
    handle.close()


def test_waiting_for_operations_that_come_meanwhile_is_no_damage(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, late = volume.replicator.push, iter(range(3))

    def push_and_write() -> bool:
        pushed = push()
        for number in late:
            put(volume, f"late-{number}", content(number, 100))
            break
        return pushed

    monkeypatch.setattr(volume.replicator, "push", push_and_write)
    put(volume, "first", b"x")
    assert volume.sync(wait=True)["pending"] == {"bytes": 0, "operations": 0}


def test_sync_says_what_is_lost(volume: Volume) -> None:
    put(volume, "file", content(1, 100_000))
    volume.content.stop()
    volume.database.writer.run(lambda t: t.execute("UPDATE packs SET damaged = 1 WHERE state < 3"))
    with pytest.raises(DamageError):
        volume.sync(wait=True)


def test_the_thread_goes_on_by_itself(vault: Vault, volume: Volume) -> None:
    put(volume, "file", b"x")
    volume.content.flush(60)
    vault.clock.advance(PUSH_SECONDS)
    volume.start()
    wait_for(lambda: volume.pending()["operations"] == 0)
    volume.background.stop()
