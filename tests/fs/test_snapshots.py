"""What a snapshot contains while files are written, and what is told of it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from tests.support.vaults import Vault, content, make_folder, put, read
from tgdav.content.read.reader import ContentReader
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import DamageError, NoSpace, ReadOnly, UsageError
from tgdav.fs.api import Owner
from tgdav.fs.files.handle import Handle
from tgdav.ids import Inode, Position
from tgdav.metadata import as_of
from tgdav.metadata.types import Kind
from tgdav.volume.volume import Volume


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


@pytest.fixture
def volume(vault: Vault) -> Iterator[Volume]:
    with vault.opened() as opened:
        yield opened


def opened(volume: Volume, name: bytes) -> Handle:
    fs = volume.fs
    found = fs.create(fs.root, name, Kind.FILE, 0o644, Owner())
    return fs.open(found.inode, writable=True)


def sizes(volume: Volume, name: str) -> dict[bytes, int]:
    """The files of the root in a snapshot, and their sizes."""
    found = volume.snapshots.find(name)
    with volume.database.reading() as c:
        return {each.name: each.size for each in as_of.listing(c, found.position, Inode(ROOT_INODE))}


def test_a_closed_file_is_in_it_whole(volume: Volume) -> None:
    handle = opened(volume, b"closed")
    handle.write(0, b"x" * 5000)
    assert handle.flush_later()
    handle.close_nowait()
    large = opened(volume, b"large")
    large.write(0, content(1, 2_000_000))
    large.write(7, b"again")
    large.close()
    made = volume.snapshots.make("one")
    assert made.settled
    assert sizes(volume, "one") == {b"closed": 5000, b"large": 2_000_000}


def test_a_file_that_is_being_written_shows_its_last_content(volume: Volume, vault: Vault) -> None:
    handle = opened(volume, b"a")
    handle.write(0, b"x" * 5000)
    handle.flush()
    handle.write(2500, b"y" * 5000)
    handle.fsync()
    assert not volume.snapshots.make("one").settled
    assert sizes(volume, "one") == {b"a": 5000}
    # Nothing was written for a while: it is finished, though it is open.
    vault.clock.advance(31)
    assert volume.snapshots.make("two").settled
    assert sizes(volume, "two") == {b"a": 7500}
    assert sizes(volume, "one") == {b"a": 5000}
    handle.close()


def test_an_upload_that_is_not_complete(volume: Volume) -> None:
    put(volume, "a", b"before")
    fs = volume.fs
    with fs.upload(fs.root, b"a", owner=Owner()) as upload:
        upload.write(b"half of the new")
        assert not volume.snapshots.make("one").settled
        upload.commit()
    with fs.upload(fs.root, b"b", owner=Owner()) as upload:
        upload.write(b"never complete")
    with fs.upload(fs.root, b"c", owner=Owner()) as upload:
        volume.journal.read_only = "planted"
        with pytest.raises(ReadOnly):
            upload.commit()
    volume.journal.read_only = None
    assert volume.snapshots.make("two").settled
    assert sizes(volume, "one") == {b"a": 6}
    assert sizes(volume, "two") == {b"a": 15}


def test_junk_counts_for_nothing(volume: Volume) -> None:
    handle = opened(volume, b".DS_Store")
    handle.write(0, b"x" * 5000)
    assert volume.snapshots.make("one").settled
    assert sizes(volume, "one") == {}
    handle.close()


def test_what_cannot_be_flushed_shows_its_last_content(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    put(volume, "a", content(1, 200_000))
    handle = volume.fs.open(volume.fs.resolve([b"a"]).inode, writable=True)
    handle.write(100_000, b"y")

    def damaged(*_: object) -> bytes:
        raise DamageError("planted", blob="x")

    with monkeypatch.context() as broken:
        broken.setattr(ContentReader, "read", damaged)
        with pytest.raises(DamageError):
            handle.close()
        assert not volume.snapshots.make("one").settled
    assert sizes(volume, "one") == {b"a": 200_000}


def test_a_full_disk_is_told(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise NoSpace

    monkeypatch.setattr(volume.fs.open_files, "flush_finished", full)
    with pytest.raises(NoSpace):
        volume.snapshots.make("one")
    assert volume.snapshots.listed() == []


def test_it_is_one_instant(volume: Volume) -> None:
    """A writer that always renames one of two files: each snapshot has exactly one of them."""
    put(volume, "first", b"x")
    stop = threading.Event()

    def rename() -> None:
        names = [b"first", b"second"]
        while not stop.is_set():
            volume.fs.rename(volume.fs.root, names[0], volume.fs.root, names[1])
            names.reverse()

    thread = threading.Thread(target=rename)
    thread.start()
    for number in range(30):
        volume.snapshots.make(str(number))
    stop.set()
    thread.join()
    shown = [sizes(volume, str(number)) for number in range(30)]
    assert all(len(each) == 1 for each in shown)


def test_two_of_one_name_at_once(volume: Volume) -> None:
    refused: list[UsageError] = []

    def make() -> None:
        try:
            volume.snapshots.make("one")
        except UsageError as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert [each.name for each in volume.snapshots.listed()] == ["one"]


def test_it_is_durable_and_survives_the_machine(vault: Vault) -> None:
    with vault.opened() as volume:
        make_folder(volume, "d")
        put(volume, "d/a", b"1234")
        volume.make_snapshot("one")
        put(volume, "d/a", b"12345678")
        volume.make_snapshot("two")
        while volume.snapshots.upkeep():
            pass
        counted = volume.snapshots.listed()
        assert [(each.files, each.bytes, each.new_bytes) for each in counted] == [(1, 4, 4), (1, 8, 8)]
        volume.sync(wait=True)
    vault.join("other")
    with vault.opened("other") as volume:
        found = [structs.replace(each, position=Position(0)) for each in volume.list_snapshots()]
        assert found == [structs.replace(each, position=Position(0)) for each in counted]
        volume.restorer.restore("one", (), None, lambda *_: None)
        assert read(volume, "d/a") == b"1234"


def test_new_bytes_are_of_contents_that_the_snapshot_before_lacks(volume: Volume) -> None:
    fs = volume.fs
    put(volume, "a", content(1, 1000))
    put(volume, "b", content(2, 200))
    volume.make_snapshot("one")
    fs.copy(fs.resolve([b"a"]).inode, fs.root, b"copy")
    fs.link(fs.resolve([b"b"]).inode, fs.root, b"link")
    fs.rename(fs.root, b"a", fs.root, b"renamed")
    put(volume, "c", content(3, 30))
    volume.make_snapshot("two")
    fs.remove_tree(fs.root, b"c")
    volume.make_snapshot("three")
    put(volume, "c", content(3, 30))
    volume.make_snapshot("four")

    def counts() -> list[tuple[str, int | None, int | None, int | None]]:
        return [(each.name, each.files, each.bytes, each.new_bytes) for each in volume.list_snapshots()]

    assert counts() == [("one", 2, 1200, 1200), ("two", 4, 2230, 30), ("three", 3, 2200, 0), ("four", 4, 2230, 30)]
    volume.make_snapshot("same")
    assert counts()[-1] == ("same", 4, 2230, 0)
    volume.snapshots.delete("same")
    volume.snapshots.delete("three")
    assert counts() == [("one", 2, 1200, 1200), ("two", 4, 2230, 30), ("four", 4, 2230, 0)]
    volume.snapshots.delete("one")
    assert counts() == [("two", 4, 2230, 2230), ("four", 4, 2230, 0)]
