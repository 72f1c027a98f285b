"""Segments on their way: sealed once, resent byte for byte, after the packs that they name, whatever breaks in between."""

import errno
from contextlib import suppress

import pytest

from tests.support.platform import CrashAt, FailingDisk, SimulatedCrash
from tests.support.vaults import Vault, assert_same, content, put, read, rows
from tgdav.blobs.interface import BlobStore
from tgdav.errors import DamageError, LocalFailure, NoSpace, StoreUnavailable
from tgdav.failpoints import installed
from tgdav.volume.volume import Volume


def push(volume: Volume) -> None:
    assert volume.content.flush(60)
    volume.replicator.push()


def outbox(volume: Volume) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (volume.paths.state / "outbox").iterdir()}


def waiting(volume: Volume) -> tuple[str, bytes]:
    """The one sealed segment that is not stored: its file's name and bytes."""
    ((file,),) = rows(volume, "SELECT file FROM segments WHERE blob IS NULL")
    return file, outbox(volume)[file]


def seal_only(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal what is unsent while the store takes nothing."""

    def away(*_: object, **__: object) -> object:
        raise StoreUnavailable("away")

    assert volume.content.flush(60)
    with monkeypatch.context() as patched:
        patched.setattr(volume.stores.store, "append", away)
        with pytest.raises(StoreUnavailable):
            volume.replicator.pusher.push()


@pytest.mark.parametrize("point", ["outbox.", "pusher."])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_crash_at_each_step_leaves_one_version(vault: Vault, point: str, number: int) -> None:
    volume = vault.open()
    put(volume, "file", content(1, 70_000))
    volume.content.flush(60)
    crash = CrashAt(number, point)
    with installed(crash), suppress(SimulatedCrash):
        volume.replicator.pusher.push()
    assert bool(crash.crashed_at) == (number <= crash.total)
    sealed = outbox(volume)
    with suppress(LocalFailure):  # a crash in the writer's turn ends its work
        volume.close()
    with vault.opened() as volume:
        put(volume, "next", b"next")
        push(volume)
        kept = {row[0] for row in rows(volume, "SELECT file FROM segments WHERE file IS NOT NULL")}
        assert set(outbox(volume)) == kept
        for file, data in sealed.items():
            assert file not in kept or outbox(volume)[file] == data
        assert volume.pending() == {"bytes": 0, "operations": 0}
        assert volume.check(read_data=100.0)["ok"]
        assert not vault.join("second").damage
        with vault.opened("second") as second:
            assert_same(volume, second)


def test_operations_wait_for_their_content(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    put(volume, "first", b"")
    put(volume, "second", content(2, 90_000))
    put(volume, "third", b"")
    monkeypatch.setattr(volume.content, "flush", lambda _timeout: True)
    volume.replicator.push()
    waiting = rows(volume, "SELECT count(*) FROM log WHERE segment IS NULL")[0][0]
    assert waiting == 2, "what names content that is not stored waits, and so does what comes after"
    monkeypatch.undo()
    volume.sync(wait=True)
    assert volume.pending()["operations"] == 0


def test_the_same_bytes_are_sent_again(vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    put(volume, "file", b"x")
    seal_only(volume, monkeypatch)
    before = waiting(volume)
    put(volume, "another", b"y")
    seal_only(volume, monkeypatch)
    assert waiting(volume) == before, "the next is not sealed before this one is stored"
    push(volume)
    assert vault.blob(before[0].removesuffix(".log")).read_bytes() == before[1]


def test_a_lost_answer_makes_no_second_version(vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    inner: BlobStore = volume.stores.store
    append = inner.append

    def deaf(*arguments: object, **named: object) -> object:
        append(*arguments, **named)  # type: ignore[arg-type]
        raise StoreUnavailable("the answer was lost")

    put(volume, "file", b"x")
    volume.content.flush(60)
    with monkeypatch.context() as patched:
        patched.setattr(inner, "append", deaf)
        with pytest.raises(StoreUnavailable):
            volume.replicator.pusher.push()
    before = len(vault.blobs())
    volume.sync(wait=True)
    assert len(vault.blobs()) == before
    assert volume.check(read_data=100.0)["ok"]


@pytest.mark.parametrize(("call", "error", "raised"), [
    ("write", errno.ENOSPC, NoSpace), ("write", errno.EIO, LocalFailure), ("sync", errno.EIO, LocalFailure),
    ("sync_directory", errno.EIO, LocalFailure),
])  # fmt: skip
def test_a_failing_disk_leaves_no_litter(volume: Volume, call: str, error: int, raised: type[Exception]) -> None:
    put(volume, "file", b"x")
    volume.content.flush(60)
    before = outbox(volume)
    disk = FailingDisk()
    volume.replicator.pusher._disk = disk
    disk.fail(call, error)
    with pytest.raises(raised):
        volume.replicator.pusher.push()
    assert outbox(volume) == before
    push(volume)
    assert volume.pending()["operations"] == 0


def test_a_sealed_segment_that_rots_here_is_found_and_sealed_anew(
    vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(volume, "file", content(5, 50_000))
    seal_only(volume, monkeypatch)
    name, _ = waiting(volume)
    (volume.paths.state / "outbox" / name).write_bytes(b"rotten")
    with pytest.raises(DamageError):
        push(volume)
    found = volume.check()
    assert [(each["blob"], each["kind"]) for each in found["damage"]] == [(name.removesuffix(".log"), "outbox")]
    found = volume.check(repair=True)
    assert (found["ok"], found["repaired"]) == (True, [name.removesuffix(".log")])
    volume.sync(wait=True)
    assert not vault.join("second").damage
    with vault.opened("second") as second:
        assert_same(volume, second)


def test_content_that_is_lost_before_it_was_sent_is_told(volume: Volume) -> None:
    put(volume, "lost", content(7, 200_000))
    volume.content.stop()
    volume.content.database.writer.run(lambda t: t.execute("UPDATE packs SET damaged = 1 WHERE state < 3"))
    with pytest.raises(DamageError, match="lost"):
        volume.sync(wait=True)


def test_many_groups_make_few_segments(vault: Vault, volume: Volume) -> None:
    for number in range(300):
        put(volume, f"file-{number}", content(number, 50))
    before = len(vault.blobs())
    volume.sync(wait=True)
    assert len(vault.blobs()) - before <= 2
    assert read(volume, "file-7") == content(7, 50)
