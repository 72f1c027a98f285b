"""The volume's threads meet failures that nobody foresaw: each goes on with the rest, and ``status`` says what happened."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.platform import ManualClock
from tests.support.vaults import Vault, content, put, read
from tests.support.waiting import wait_for
from tgdav.blobs.interface import BlobInfo
from tgdav.clock import SystemClock
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.read.reader import Prefetcher
from tgdav.content.upload.schedule import LAST_BACKOFF
from tgdav.content.upload.uploader import Uploader
from tgdav.disk import SystemDisk
from tgdav.fs.api import Owner
from tgdav.fs.files.open_file import OpenFile
from tgdav.ids import BlobName, ChunkId
from tgdav.metadata.types import Kind
from tgdav.threads import failure_counts
from tgdav.volume import background, control, report
from tgdav.volume.control import ControlServer
from tgdav.volume.control_client import ControlClient
from tgdav.volume.sync import KEEP_HEADERS, PUSH
from tgdav.volume.volume import HEADER_RETRY_SECONDS, Volume


def overflow(*_: object, **__: object) -> Any:
    raise OverflowError("an integer too large: secret-name.txt")


@pytest.fixture
def failures() -> Callable[[str], int]:
    """How often a thread failed since the test began."""
    before = failure_counts()
    return lambda name: failure_counts().get(name, 0) - before.get(name, 0)


@pytest.fixture
def running(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> Volume:
    monkeypatch.setattr(background, "TICK_SECONDS", 0.01)
    volume.start()
    return volume


def last_error(volume: Volume) -> str:
    said = report.status(volume)["last_error"] or ""
    assert "secret" not in said
    return str(said)


def write_and_close(volume: Volume, name: bytes, data: bytes) -> None:
    """As a mount does."""
    if name != b"bad":
        volume.fs.create(volume.fs.root, name, Kind.FILE, 0o644, Owner())
    handle = volume.fs.open(_inode(volume, name), writable=True)
    handle.write(0, data)
    assert handle.close_nowait()  # type: ignore[attr-defined]


def test_background_work_does_the_rest(
    vault: Vault, running: Volume, failures: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(running, "file", b"x")
    running.content.flush(60)
    with monkeypatch.context() as broken:
        broken.setattr(running.background._tasks[KEEP_HEADERS], "run", overflow)
        running.background.run_soon(KEEP_HEADERS, PUSH)
        wait_for(lambda: "keeping the headers: thread tgdav-housekeeping: OverflowError" in last_error(running))
        assert failures("tgdav-housekeeping")
        wait_for(lambda: running.pending()["operations"] == 0, what="the push, which comes after the headers")
    assert report.status(running)["thread_failures"]["tgdav-housekeeping"] >= 1
    vault.clock.advance(HEADER_RETRY_SECONDS)
    wait_for(lambda: report.status(running)["last_error"] is None, what="the headers are kept again")


def test_background_work_survives_a_failure_between_its_tasks(
    vault: Vault, running: Volume, failures: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(running.background, "tick", overflow)
        wait_for(lambda: failures("tgdav-housekeeping") >= 2)
        assert "tgdav-housekeeping: OverflowError" in last_error(running)
    put(running, "file", b"x")
    running.content.flush(60)
    running.background.run_soon(KEEP_HEADERS, PUSH)
    wait_for(lambda: running.pending()["operations"] == 0)


def test_writeback_leaves_out_a_file_that_cannot_be_flushed(
    running: Volume, failures: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = OpenFile.stage
    bad = running.fs.create(running.fs.root, b"bad", Kind.FILE, 0o644, Owner()).inode

    def stage(self: OpenFile, *, keep: bool) -> Any:
        if self.inode == bad:
            overflow()
        return whole(self, keep=keep)

    with monkeypatch.context() as broken:
        broken.setattr(OpenFile, "stage", stage)
        for name in (b"first", b"bad", b"last"):
            write_and_close(running, name, b"data")
        wait_for(lambda: failures("tgdav-writeback"))
        wait_for(lambda: [file.inode for file in running.fs.open_files._dirty(lambda _: True)] == [bad])
        assert "tgdav-writeback: OverflowError" in last_error(running)
    assert read(running, "bad") == b"data"
    running.fs.flush_all()
    assert read(running, "bad") == b"data"


def _inode(volume: Volume, name: bytes) -> int:
    return volume.fs.resolve([name]).inode


def test_closing_the_volume_keeps_a_file_that_cannot_be_flushed(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = vault.open()
    whole = OpenFile.flush
    volume.fs.create(volume.fs.root, b"bad", Kind.FILE, 0o644, Owner())
    volume.fs.create(volume.fs.root, b"good", Kind.FILE, 0o644, Owner())
    bad = _inode(volume, b"bad")
    for name in (b"bad", b"good"):
        handle = volume.fs.open(_inode(volume, name), writable=True)
        handle.write(0, b"data of " + name)
        handle.flush()
        handle.write(0, b"more")
    with monkeypatch.context() as broken:
        broken.setattr(OpenFile, "flush", lambda self, **how: overflow() if self.inode == bad else whole(self, **how))
        with pytest.raises(OverflowError):
            volume.close()
    with vault.opened() as again:
        assert read(again, "bad") == b"more of bad"
        assert read(again, "good") == b"more of good"


def send_what_is_idle(vault: Vault, volume: Volume) -> None:
    vault.clock.advance(LAST_BACKOFF / 4)
    volume.content.uploader.wake()


def test_sending_passes_over_the_pack_that_cannot_be(
    vault: Vault, running: Volume, failures: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    append, refused = running.stores.store.append, set[BlobName]()

    def picky(name: BlobName, *arguments: Any, **more: Any) -> BlobInfo:
        if not refused or name in refused:
            refused.add(name)
            overflow()
        return append(name, *arguments, **more)

    monkeypatch.setattr(running.stores.store, "append", picky)
    put(running, "first", content(1, 100_000))
    send_what_is_idle(vault, running)
    wait_for(lambda: "tgdav-send: OverflowError" in last_error(running))
    left = running.pending()["bytes"]
    put(running, "second", content(2, 100_000))
    assert running.pending()["bytes"] > left
    send_what_is_idle(vault, running)
    wait_for(lambda: running.pending()["bytes"] == left, what="only the first waits")
    assert failures("tgdav-send") == 1
    assert "tgdav-send: OverflowError" in last_error(running)


def test_the_uploader_goes_on(running: Volume, failures: Callable[[str], int], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Uploader, "step", overflow)
        put(running, "file", content(1, 100_000))
        running.content.uploader.wake()
        wait_for(lambda: "tgdav-upload: OverflowError" in last_error(running))
        assert failures("tgdav-upload")
    assert running.content.flush(60)
    assert report.status(running)["last_error"] is None


def test_prefetching_goes_on(failures: Callable[[str], int]) -> None:
    loaded: list[ChunkId] = []
    prefetcher = Prefetcher(lambda chunk: overflow() if chunk == b"bad" else loaded.append(chunk), 1000)
    bad = prefetcher.fetch(ChunkId(b"bad"), 1000)
    assert bad is not None
    bad.result(10)
    assert failures("prefetch") == 1
    good = prefetcher.fetch(ChunkId(b"good"), 1000)
    assert good is not None
    good.result(10)
    assert loaded == [b"good"]
    prefetcher.close()


def test_the_cache_takes_in_all_but_what_is_none_of_its_own(tmp_path: Path) -> None:
    name = BlobName(bytes(16))
    cache = DiskCache(tmp_path, 1 << 20, disk=SystemDisk(), clock=SystemClock())
    cache.put(name, 0, b"sealed")
    (folder,) = tmp_path.iterdir()
    (folder / "aa-not-mine").mkdir()
    os.mkfifo(folder / "zz-not-mine")
    again = DiskCache(tmp_path, 1 << 20, disk=SystemDisk(), clock=SystemClock())
    again.start()
    again.wait_for_scan()
    assert again.get(name, 0, 6) == b"sealed"


def test_the_control_socket_answers_after_a_connection_that_failed(
    tmp_path: Path, failures: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ControlServer(tmp_path / "control", [], {"ping": lambda _arguments, _progress: {}}, dict, ManualClock())  # type: ignore[arg-type]
    server.start()
    with monkeypatch.context() as broken:
        broken.setattr(control, "peer_user", overflow)
        with ControlClient.connect(tmp_path / "control"):  # type: ignore[union-attr]
            wait_for(lambda: failures("control"))
    client = ControlClient.connect(tmp_path / "control")
    assert client is not None
    with client:
        assert client.call("ping", {}, lambda *_: None) == {}
    server.stop()
