"""A home that was restored from a backup goes on: with all that it sent later, what it never sent, and under a new name."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.vaults import Vault, content, make_folder, put, read, rows
from tests.support.volumes import copy_folder
from tests.support.waiting import wait_for
from tgdav.errors import DamageError, ReadOnly, StoreError, WriterReplaced
from tgdav.replication import restored_state
from tgdav.replication.writer_check import RESTORED
from tgdav.volume import report
from tgdav.volume.volume import Volume

Tree = dict[bytes, tuple[object, ...]]


def tree(volume: Volume, folder: bytes = b"") -> Tree:
    """Every path with its attributes and content."""
    found: Tree = {}
    inode = volume.fs.resolve([part for part in folder.split(b"/") if part]).inode
    for entry in volume.fs.list_directory(inode):
        path, it = (folder + b"/" + entry.name).lstrip(b"/"), entry.attributes
        if it.is_directory:
            found[path] = (it.node, it.mtime)
            found |= tree(volume, path)
        else:
            found[path] = (it.node, it.mtime, it.tag, read(volume, path.decode()))
    return found


@contextmanager
def away(vault: Vault) -> Iterator[None]:
    """The store is not there."""
    hidden = vault.folder / "hidden"
    vault.store.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(vault.store)


def back_up(vault: Vault, name: str = "backup") -> None:
    copy_folder(vault.folder / "home", vault.folder / name)


def restore(vault: Vault, name: str = "backup") -> None:
    """Put a backup in the place of the home."""
    shutil.rmtree(vault.folder / "home")
    copy_folder(vault.folder / name, vault.folder / "home")


def grow(vault: Vault, name: str, seed: int) -> Tree:
    """Write and sync small and large files, in several segments."""
    with vault.opened() as volume:
        make_folder(volume, name)
        put(volume, f"{name}/small", content(seed, 900), {b"color": b"red"})
        volume.sync(wait=True)
        put(volume, f"{name}/large", content(seed + 1, 200_000))
        volume.sync(wait=True)
        return tree(volume)


def assert_goes_on(vault: Vault, expected: Tree, epoch: int = 2) -> None:
    """The home shows ``expected`` and is written to, a check finds it sound, and a join elsewhere reads all of it."""
    with vault.opened() as volume:
        assert volume.read_only_reason is None
        assert tree(volume) == expected
        put(volume, "written afterwards", content(99, 70_000))
        volume.sync(wait=True)
        assert volume.pending() == {"bytes": 0, "operations": 0}
        assert volume.check(read_data=100.0)["damage"] == []
        assert [each["epoch"] for each in report.status(volume)["machines"]] == [epoch]
        after = tree(volume)
    joined = vault.join("elsewhere")
    assert (joined.damage, joined.epoch) == ([], epoch + 1)
    with vault.opened("elsewhere") as other:
        assert tree(other) == after


def numbers_are_used_once(volume: Volume) -> None:
    """No two groups have a number twice; no two segments stand in one place of a chain."""
    chain = rows(volume, "SELECT incarnation, first, last FROM segments ORDER BY incarnation, number")
    for before, after in pairwise(chain):
        assert before[0] != after[0] or before[2] < after[1]


def test_what_was_sent_after_the_backup_is_there_and_writing_goes_on(vault: Vault) -> None:
    grow(vault, "old", 1)
    back_up(vault)
    expected = grow(vault, "new", 3)
    restore(vault)
    with vault.opened() as volume:
        numbers_are_used_once(volume)
        assert len(rows(volume, "SELECT DISTINCT incarnation FROM segments")) == 2
    assert_goes_on(vault, expected)


def test_what_waited_in_the_backup_and_was_sent_later_is_not_sent_again(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "waiting", content(1, 150_000))
        put(volume, "row", content(2, 5_000))
    back_up(vault)
    expected = grow(vault, "new", 3)
    restore(vault)
    with vault.opened() as volume:
        numbers_are_used_once(volume)
        assert volume.pending()["operations"] == 0
        before = len(vault.blobs())
        volume.sync(wait=True)
        assert len(vault.blobs()) == before, "nothing is stored a second time"
    assert_goes_on(vault, expected)


def test_what_the_backup_has_and_was_never_sent_is_kept(vault: Vault) -> None:
    grow(vault, "old", 1)
    back_up(vault)
    expected = grow(vault, "new", 3)
    restore(vault)
    with away(vault), vault.opened() as volume:
        vault.clock.advance(60)
        put(volume, "old/meanwhile", content(7, 120_000))
        put(volume, "and this", content(8, 3_000))
        mine = tree(volume)
    with vault.opened() as volume:
        numbers_are_used_once(volume)
        shown = tree(volume)
        for path in (b"old/meanwhile", b"and this"):
            assert shown[path] == mine[path]
        assert shown.keys() == expected.keys() | mine.keys()
    assert_goes_on(vault, shown)


def test_packs_begun_before_the_backup_do_not_pass_for_those_that_were_sent(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "first", content(1, 200_000))
    back_up(vault)
    with vault.opened() as volume:
        put(volume, "second", content(2, 200_000))
        volume.sync(wait=True)
    restore(vault)
    with away(vault), vault.opened() as volume:
        put(volume, "third", content(3, 200_000))
    with vault.opened() as volume:
        assert {path: it[3] for path, it in tree(volume).items()} == {
            b"first": content(1, 200_000),
            b"second": content(2, 200_000),
            b"third": content(3, 200_000),
        }
        shown = tree(volume)
    assert_goes_on(vault, shown)


def test_a_pack_under_a_taken_name_is_not_taken_for_stored(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "first", content(1, 200_000))
    back_up(vault)
    with vault.opened() as volume:
        volume.sync(wait=True)
    restore(vault)
    with away(vault):
        volume = vault.open()
        put(volume, "third", content(3, 20_000))
    try:
        uploader = volume.content.uploader
        uploader.step(flush=True)
        uploader.wake()
        wait_for(lambda: "another pack" in (uploader.last_error or ""), what="the refusal of the pack")
        with pytest.raises(WriterReplaced, match="restored"):
            volume.sync(wait=True)
        assert read(volume, "third") == content(3, 20_000)
    finally:
        volume.close()
    with vault.opened() as volume:
        shown = tree(volume)
        assert {path: it[3] for path, it in shown.items()} == {
            b"first": content(1, 200_000),
            b"third": content(3, 20_000),
        }
    assert_goes_on(vault, shown)


def test_a_store_that_comes_back_while_serving_is_noticed_and_the_next_start_goes_on(vault: Vault) -> None:
    grow(vault, "old", 1)
    back_up(vault)
    expected = grow(vault, "new", 3)
    restore(vault)
    with away(vault):
        volume = vault.open()
    put(volume, "meanwhile", b"x")
    with pytest.raises(WriterReplaced, match=r"restored from a backup.* started again"):
        volume.replicator.push()
    assert "backup" in report.status(volume)["read_only"]
    with pytest.raises(ReadOnly, match="backup"):
        put(volume, "more", b"y")
    volume.close()
    with vault.opened() as volume:
        assert tree(volume).keys() == expected.keys() | {b"meanwhile"}
        shown = tree(volume)
    assert_goes_on(vault, shown)


@pytest.mark.parametrize("how", ["the same file", "the same name", "a folder moved"])
def test_unsent_work_at_odds_with_the_chain_is_kept_and_said(vault: Vault, how: str) -> None:
    with vault.opened() as volume:
        make_folder(volume, "folder")
        put(volume, "folder/file", b"as of the backup")
        volume.sync(wait=True)
    back_up(vault)
    with vault.opened() as volume:
        if how == "a folder moved":
            root = volume.fs.root
            volume.fs.rename(root, b"folder", root, b"elsewhere")
        else:
            put(volume, "folder/file", b"sent later")
            put(volume, "folder/new", b"sent later")
        volume.sync(wait=True)
    restore(vault)
    changed = {"the same file": "folder/file", "the same name": "folder/new", "a folder moved": "folder/more"}[how]
    with away(vault), vault.opened() as volume:
        put(volume, changed, b"made without the store")
        pending = volume.pending()["operations"]
    for _ in range(2):
        with vault.opened() as volume:
            reason = report.status(volume)["read_only"]
            assert "restored from a backup" in reason
            assert "same files" in reason
            assert "init --join" in reason
            assert read(volume, changed) == b"made without the store"
            assert volume.pending()["operations"] == pending > 0
            with pytest.raises(ReadOnly):
                put(volume, "x", b"x")
            with pytest.raises(WriterReplaced):
                volume.sync(wait=True)
    assert vault.join("second").damage == []


def test_writes_that_fsync_had_kept_and_that_were_settled_later_do_not_come_back(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "file", b"a" * 100_000)
        volume.sync(wait=True)
        handle = volume.fs.open(volume.fs.resolve([b"file"]).inode, writable=True)
        handle.write(0, b"first")
        handle.fsync()
        back_up(vault)
        handle.close()
        put(volume, "file", b"whole new content")
        volume.sync(wait=True)
        expected = tree(volume)
    restore(vault)
    assert_goes_on(vault, expected)


def test_unflushed_writes_of_a_file_that_was_left_alone_are_kept(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "file", b"a" * 100_000)
        volume.sync(wait=True)
        handle = volume.fs.open(volume.fs.resolve([b"file"]).inode, writable=True)
        handle.write(0, b"first")
        handle.fsync()
        back_up(vault)
    copy_folder(vault.store, vault.folder / "kept")
    restore(vault)
    shutil.rmtree(vault.store)
    (vault.folder / "kept").rename(vault.store)
    with vault.opened() as volume:
        assert read(volume, "file") == b"first" + b"a" * 99_995
        assert volume.read_only_reason is None


def test_the_same_backup_twice_and_one_of_a_restored_home(vault: Vault) -> None:
    grow(vault, "one", 1)
    back_up(vault)
    grow(vault, "two", 3)
    restore(vault)
    grow(vault, "three", 5)
    back_up(vault, "later")
    grow(vault, "four", 7)
    restore(vault)
    expected = grow(vault, "five", 9)
    assert {path for path in expected if b"/" not in path} == {b"one", b"two", b"three", b"four", b"five"}
    restore(vault, "later")
    assert_goes_on(vault, expected, epoch=4)


def test_a_machine_that_was_replaced_since_its_backup_does_not_take_over(vault: Vault) -> None:
    grow(vault, "old", 1)
    back_up(vault)
    grow(vault, "new", 3)
    vault.join("second")
    restore(vault)
    with vault.opened() as volume:
        assert "is the writer now" in (volume.read_only_reason or "")
    with vault.opened("second") as second:
        second.sync(wait=True)
        assert second.read_only_reason is None


def _cut(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-1])


def _flip(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


@pytest.mark.parametrize("harm", [Path.unlink, _cut, _flip])
def test_a_part_of_the_former_life_that_is_lost_is_damage(vault: Vault, harm: Callable[[Path], None]) -> None:
    grow(vault, "old", 1)
    back_up(vault)
    with vault.opened() as volume:
        known = {row[0] for row in rows(volume, "SELECT name FROM segments")}
    grow(vault, "new", 3)
    with vault.opened() as volume:
        later = [row[0] for row in rows(volume, "SELECT name FROM segments ORDER BY number") if row[0] not in known]
    blob = vault.blob(later[0])
    whole = blob.read_bytes()
    copy_folder(blob.parent, vault.folder / "whole")
    harm(blob)
    restore(vault)
    with vault.opened() as volume:
        assert volume.read_only_reason is not None
        assert "old" in {path.decode().split("/")[0] for path in tree(volume)}
        with pytest.raises((DamageError, WriterReplaced)):
            volume.sync(wait=True)
    blob.unlink(missing_ok=True)
    blob.write_bytes(whole)
    with vault.opened() as volume:
        assert volume.read_only_reason is None, "a store made whole is taken in"
        assert {b"old", b"new"} <= tree(volume).keys()


def test_a_store_set_back_is_damage_and_not_a_restored_backup(vault: Vault) -> None:
    grow(vault, "old", 1)
    copy_folder(vault.store, vault.folder / "older")
    back_up(vault)
    grow(vault, "new", 3)
    back_up(vault, "newer")
    shutil.rmtree(vault.store)
    copy_folder(vault.folder / "older", vault.store)
    with vault.opened() as volume:
        assert rows(volume, "SELECT 1 FROM settings WHERE key = ?", (RESTORED,)) == []
        put(volume, "more", b"x")
        with pytest.raises(DamageError, match="set back"):
            volume.sync(wait=True)
        assert not volume.check()["ok"]
    restore(vault)  # the older state writes on in the older store, and the newer one comes back
    grow(vault, "other", 5)
    restore(vault, "newer")
    with vault.opened() as volume:
        assert len(rows(volume, "SELECT DISTINCT incarnation FROM segments")) == 1
        with pytest.raises(DamageError, match="set back"):
            volume.sync(wait=True)
        assert not volume.check()["ok"]


def test_the_store_going_away_in_between_leaves_the_rest_to_the_next_start(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(vault, "old", 1)
    back_up(vault)
    expected = grow(vault, "new", 3)
    restore(vault)

    def fail(*_: object) -> None:
        raise StoreError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(restored_state, "import_segment", fail)
        with vault.opened() as volume:
            assert "backup" in (volume.read_only_reason or "")
            with pytest.raises(ReadOnly):
                put(volume, "x", b"x")
    assert_goes_on(vault, expected)


def test_what_was_retracted_after_the_backup_is_there_again(vault: Vault) -> None:
    """The backup has a file that was deleted before it was sent, in a group of which the rest was sent."""
    with vault.opened() as volume:
        make_folder(volume, "d")
        for name in ("x", "y"):
            put(volume, f"d/{name}", content(ord(name), 5000))
        volume.sync(wait=True)
        fs = volume.fs
        fs.copy(fs.resolve([b"d"]).inode, fs.root, b"e")
        fs.sync()
        before = tree(volume)
        back_up(vault)
        fs.unlink(fs.resolve([b"e"]).inode, b"x")
        volume.sync(wait=True)
        assert fs.trash.items() == []
    restore(vault)
    with vault.opened() as volume:
        assert volume.read_only_reason is None
        volume.sync(wait=True)
        assert tree(volume) == before
        assert volume.check(drill=True)["ok"]
    vault.join("second")
    with vault.opened("second") as second:
        assert {path: row[2:] for path, row in tree(second).items()} == {path: row[2:] for path, row in before.items()}
