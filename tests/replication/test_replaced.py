"""Machines that replace each other while the store loses, moves and shows late: whoever joins has the same tree, and
what is missing or does not count is said, in words and by the exit code.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.replication.attacked import forged
from tests.support.vaults import Vault, assert_same, content, key_of, name_of, put, read, rows
from tgdav.blobs.interface import BytesSource
from tgdav.crdt.membership import FIRST
from tgdav.crdt.ops import Group, Make
from tgdav.crypto.machine import MachineIdentity
from tgdav.entropy import SystemEntropy
from tgdav.errors import DamageError, WriterReplaced
from tgdav.ids import Incarnation, NodeId
from tgdav.replication.format.segment import Segment
from tgdav.replication.pusher import Pusher
from tgdav.replication.replicator import JOINING
from tgdav.replication.writer_check import WriterStatus
from tgdav.volume import report
from tgdav.volume.volume import Volume


def names(volume: Volume) -> list[bytes]:
    return [entry.name for entry in volume.fs.list_directory(volume.fs.root)]


def segments(volume: Volume) -> list[str]:
    """The names, in hex, of the segments that this machine sent, in order."""
    query = "SELECT name FROM segments WHERE incarnation = ? ORDER BY number"
    return [row[0].hex() for row in rows(volume, query, (key_of(volume),))]


def send(volume: Volume, *paths: str) -> None:
    """Write small files, each sent by a segment of its own, without a look who the writer is."""
    for path in paths:
        put(volume, path, path.encode() * 50)
        volume.content.flush(60)
        volume.replicator.pusher.push()


def move_behind(vault: Vault, blob: Path) -> None:
    """Show a blob as the newest of the store."""
    last = int(vault.blobs()[-1].name[:16])
    blob.rename(blob.with_name(f"{last + 1:016d}{blob.name[16:]}"))


@contextmanager
def hidden(vault: Vault, *blobs: str) -> Iterator[None]:
    """The store does not show these blobs."""
    places = [vault.blob(name) for name in blobs]
    for place in places:
        place.rename(vault.folder / place.name)
    try:
        yield
    finally:
        for place in places:
            (vault.folder / place.name).rename(place)


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def interrupted_join(vault: Vault, home: str) -> None:
    """Join, and die before the store is told."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Volume, "sync", _die)
        with pytest.raises(KeyboardInterrupt):
            vault.join(home)


# ---- a segment in another place --------------------------------------------------------------------------------------


def test_moving_the_new_writers_first_segment_hides_no_file(vault: Vault, volume: Volume) -> None:
    send(volume, "one", "two")
    vault.join("second")
    with vault.opened("second") as second:
        send(second, "three")
    for name in segments(volume)[-2:]:
        move_behind(vault, vault.blob(name))
    joined = vault.join("third")
    assert (joined.damage, joined.left_out) == ([], [])
    with vault.opened("third") as third:
        assert names(third) == [b"one", b"three", b"two"]
        assert third.check(read_data=100.0)["damage"] == []


def test_a_former_writers_lost_segment_counts_again_once_it_is_put_back(vault: Vault, volume: Volume) -> None:
    send(volume, "one", "two")
    lost = segments(volume)[-1]
    vault.join("second")
    vault.blob(lost).unlink()
    assert volume.check(repair=True)["repaired"] == [lost]
    assert name_of(vault.blobs()[-1]) == lost, "it lies behind the new writer's"
    assert vault.join("third").damage == []
    with vault.opened("third") as third:
        assert names(third) == [b"one", b"two"]
    with vault.opened("second") as second:
        found = second.check(read_data=100.0)
        assert (found["ok"], found["damage"]) == (True, []), "in a new place, and whole"


def test_the_border_stays_when_the_new_writers_first_segment_is_put_back(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    vault.join("second")
    with vault.opened("second") as second:
        send(second, "two")
        first = segments(second)[0]
        send(volume, "late")
        vault.blob(first).unlink()
        assert second.check(repair=True)["repaired"] == [first]
        second.sync(wait=True)
        assert names(second) == [b"one", b"two"]
    joined = vault.join("third")
    assert joined.damage == []
    assert [(each.changes > 0, each.name) for each in joined.left_out] == [(True, volume.log.machine_name)]
    with vault.opened("third") as third:
        assert names(third) == [b"one", b"two"]


# ---- what does not count is said -------------------------------------------------------------------------------------


def test_what_was_made_after_the_replacement_is_said_by_all(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    vault.join("second")
    vault.clock.advance(60)
    send(volume, "late")
    told = {"id": str(uuid.UUID(bytes=volume.log.machine_id)), "name": volume.log.machine_name, "changes": 3}
    joined = vault.join("third")
    (left,) = joined.left_out
    assert (joined.damage, joined.held) == ([], "")
    assert (left.machine, left.name, left.changes) == (volume.log.machine_id, told["name"], told["changes"])
    assert left.last == vault.clock.now_ns()
    (machine,) = [each for each in joined.machines if each.id == volume.log.machine_id.hex()]
    assert machine.last_operation < left.last, "only what was applied"
    with vault.opened("third") as third:
        for found in (report.status(third)["left_out"], third.check()["left_out"]):
            assert [{key: each[key] for key in told} for each in found] == [told]
            assert found[0]["last"].startswith("2027-01-15T08:01:00")
        assert third.check()["ok"], "it is no damage"


def test_work_of_a_former_machine_of_the_same_id_is_left_out_by_its_own_key(vault: Vault) -> None:
    """Its membership is not in the state that a checkpoint gives, and an older log does not state it in each segment."""
    vault.sections["machine"] = {"id": "6ecd8c99-4036-403d-bf84-cf8400f67836", "name": "same"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Pusher, "_membership", lambda *_: None)
        vault.join("life-1")
        with vault.opened("life-1") as former:
            send(former, "one")
            vault.join("life-2")
            with vault.opened("life-2") as latter:
                send(latter, "two")
                assert latter.replicator.checkpoint()
            send(former, "late")
    joined = vault.join("third")
    assert (joined.damage, [each.changes for each in joined.left_out]) == ([], [3])
    with vault.opened("third") as third:
        assert names(third) == [b"one", b"two"]


def test_the_writer_itself_says_what_it_left_out(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    vault.join("second")
    with vault.opened("second") as second:
        send(second, "two")
        send(volume, "late")
        second.sync(wait=True)
        assert [each["changes"] for each in report.status(second)["left_out"]] == [3]
        assert [each["changes"] for each in second.check()["left_out"]] == [3]
        assert second.replicator.checkpoint()
        assert names(second) == [b"one", b"two"]
    assert volume.pending()["operations"] == 0
    with pytest.raises(WriterReplaced):
        volume.sync()
    assert volume.pending()["operations"] == 3, "it is unsent work again"
    joined = vault.join("third")
    assert (joined.damage, [each.changes for each in joined.left_out]) == ([], [3])


def test_a_checkpoint_with_work_that_does_not_count_is_not_used(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    assert volume.replicator.checkpoint()
    interrupted_join(vault, "second")
    interrupted_join(vault, "third")
    with vault.opened("second") as second, vault.opened("third") as third:
        homes = {each.log.machine_id: each for each in (second, third)}
        winner, loser = homes[min(homes)], homes[max(homes)]
        for each, name in ((loser, "lost"), (winner, "kept")):
            each.replicator.pusher.push()
            each.replicator.finish_joining()
            send(each, name)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(loser.replicator.writer_check), "poll", lambda *_, **__: NOTHING)
            assert loser.replicator.checkpoint()
    joined = vault.join("fourth")
    assert joined.damage == []
    assert [each.machine for each in joined.left_out] == [max(homes)]
    with vault.opened("fourth") as fourth:
        assert names(fourth) == [b"kept", b"one"]


NOTHING = WriterStatus(None)


def test_two_that_joined_at_once_agree_who_writes(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    interrupted_join(vault, "second")
    interrupted_join(vault, "third")
    with vault.opened("second") as second, vault.opened("third") as third:
        homes = {each.log.machine_id: each for each in (second, third)}
        winner, loser = homes[min(homes)], homes[max(homes)]
        for each in (loser, winner):  # the loser's lie first in the store
            each.replicator.pusher.push()
            each.replicator.finish_joining()
            put(each, "mine", each.log.machine_id)
            each.content.flush(60)
            each.replicator.pusher.push()
        winner.sync(wait=True)
        with pytest.raises(WriterReplaced):
            loser.sync(wait=True)
        assert winner.read_only_reason is None
        assert read(winner, "mine") == winner.log.machine_id
        assert loser.pending()["operations"] > 0
        joined = vault.join("fourth")
        assert joined.damage == []
        assert [each.machine for each in joined.left_out] == [loser.log.machine_id]
        with vault.opened("fourth") as fourth:
            assert read(fourth, "mine") == winner.log.machine_id


# ---- what is late, with a hole in it ---------------------------------------------------------------------------------


def test_a_hole_in_what_comes_late_holds_joining_up_until_it_is_filled(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    interrupted_join(vault, "second")
    send(volume, "two", "three")
    missing = segments(volume)[-2]
    with vault.opened("second") as second:
        with hidden(vault, missing):
            for _ in range(2):
                with pytest.raises(DamageError, match="is missing"):
                    second.sync(wait=True)
            assert second.read_only_reason == JOINING
            assert names(second) == [b"one"], "nothing is taken in out of turn"
        second.sync(wait=True)
        assert second.read_only_reason is None
        assert names(second) == [b"one", b"three", b"two"]
        assert second.check(read_data=100.0)["ok"]
    assert vault.join("third").damage == []
    with vault.opened("third") as third:
        assert names(third) == [b"one", b"three", b"two"]


def test_a_hole_that_a_check_has_reported_stays_damage_and_lets_joining_go_on(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    interrupted_join(vault, "second")
    send(volume, "two", "three")
    lost = vault.blob(segments(volume)[-2])
    kept = lost.read_bytes()
    lost.unlink()
    with vault.opened("second") as second:
        with pytest.raises(DamageError, match="is missing"):
            second.sync(wait=True)
        found = second.check()
        assert [each["kind"] for each in found["damage"]] == ["gap"]
        second.sync(wait=True)
        assert second.read_only_reason is None
        assert names(second) == [b"one", b"three"]
        assert second.replicator.checkpoint()
        found = second.check(read_data=100.0)
        assert [each["kind"] for each in found["damage"]] == ["gap"]
    third = vault.join("third")
    assert [line.partition(" of ")[0] for line in third.damage] == ["segment 3"], "a checkpoint does not hide it"
    lost.write_bytes(kept)
    assert vault.join("fourth").damage == []
    with vault.opened("fourth") as fourth:
        assert names(fourth) == [b"one", b"three", b"two"], "nor stands it in the way of what is there again"


def test_a_hole_that_a_check_reported_and_that_is_filled_in_time_is_no_damage(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    interrupted_join(vault, "second")
    send(volume, "two", "three")
    missing = segments(volume)[-2]
    with vault.opened("second") as second:
        with hidden(vault, missing):
            assert not second.check()["ok"]
        second.sync(wait=True)
        assert names(second) == [b"one", b"three", b"two"]
        assert second.check()["damage"] == []


def test_a_join_over_a_hole_is_held_up_until_a_check_has_reported_it(vault: Vault, volume: Volume) -> None:
    send(volume, "one", "two", "three")
    vault.blob(segments(volume)[-2]).unlink()
    before = len(vault.blobs())
    joined = vault.join("second")
    assert len(joined.damage) == 1
    assert "is missing" in joined.held
    assert len(vault.blobs()) == before, "the store is not told"
    with vault.opened("second") as second:
        assert second.read_only_reason == JOINING
        assert read(second, "three") == b"three" * 50, "what is whole is read"
        assert not second.check()["ok"]
        second.sync(wait=True)
        assert second.read_only_reason is None
        put(second, "four", content(4, 100))
        second.sync(wait=True)
        assert [each["kind"] for each in second.check()["damage"]] == ["gap"]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_hole_that_is_filled_while_joining_is_held_up_leaves_nothing_missing(
    vault: Vault, volume: Volume, checkpointed: bool
) -> None:
    """A shared folder that is copied slowly does this."""
    send(volume, "zero")
    if checkpointed:
        assert volume.replicator.checkpoint()
    send(volume, "one", "two")
    put(volume, "one", b"written again")
    volume.sync(wait=True)
    with hidden(vault, segments(volume)[-3]):
        joined = vault.join("second")
        assert joined.held
        assert joined.damage
        with vault.opened("second") as second:
            assert not second.check()["ok"]
            password = second.webdav_password()[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tgdav.replication.rebuild.begin_log", _die)
        with pytest.raises(KeyboardInterrupt):
            vault.open("second")
    with vault.opened("second") as second:
        assert second.read_only_reason is None
        assert names(second) == [b"one", b"two", b"zero"]
        assert read(second, "one") == b"written again", "nothing was applied out of turn"
        assert second.webdav_password() == (password, False)
        second.sync(wait=True)
        assert second.check(read_data=100.0)["damage"] == []
        put(second, "mine", b"mine")
        second.sync(wait=True)
        joined = vault.join("third")
        assert (joined.damage, joined.left_out, joined.epoch) == ([], [], 3)
        with vault.opened("third") as third:
            assert_same(second, third)


def test_a_lost_end_that_comes_back_while_joining_is_held_up_leaves_nothing_missing(
    vault: Vault, volume: Volume
) -> None:
    send(volume, "one", "two")
    vault.join("second")
    with vault.opened("second") as second:
        send(second, "three")
    with hidden(vault, segments(volume)[-1]):
        assert [line.partition(" ")[0] for line in vault.join("third").damage] == ["operations"]
    with vault.opened("third") as third:
        assert names(third) == [b"one", b"three", b"two"]
        assert third.read_only_reason is None
        assert third.check()["ok"]


def test_a_hole_that_is_filled_under_a_running_machine_waits_for_its_next_start(vault: Vault, volume: Volume) -> None:
    send(volume, "one", "two", "three")
    missing = segments(volume)[-2]
    with hidden(vault, missing):
        vault.join("second")
        second = vault.open("second")
        second.check()
    with pytest.raises(DamageError, match="the next start applies it"):
        second.sync()
    assert second.read_only_reason == JOINING
    second.close()
    with vault.opened("second") as second:
        assert names(second) == [b"one", b"three", b"two"]
        assert second.read_only_reason is None
        assert second.check()["ok"]


def test_a_predecessors_work_between_two_looks_of_a_join_counts(vault: Vault, volume: Volume) -> None:
    """The joining machine's first segment is sealed, and sent only after its predecessor has sent more."""
    send(volume, "one")
    interrupted_join(vault, "second")
    with vault.opened("second") as second:
        real = second.replicator.pusher._send_sealed

        def slowly(pushed: object) -> None:
            if not names(volume).count(b"between"):
                send(volume, "between")
            real(pushed)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(second.replicator.pusher, "_send_sealed", slowly)
            second.sync(wait=True)
        assert names(second) == [b"between", b"one"]
        put(second, "mine", b"mine")
        second.sync(wait=True)
        assert len(rows(second, "SELECT DISTINCT first FROM segments WHERE incarnation = ?", (key_of(second),))) == 3
    joined = vault.join("third")
    assert (joined.damage, joined.left_out) == ([], [])
    with vault.opened("third") as third:
        assert names(third) == [b"between", b"mine", b"one"]


def test_a_restored_backup_goes_on_after_a_former_life_took_in_late_work(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    interrupted_join(vault, "second")
    shutil.copytree(vault.folder / "second", vault.folder / "backup")
    send(volume, "late")
    with vault.opened("second") as second:
        second.sync(wait=True)
        send(second, "two")
    shutil.rmtree(vault.folder / "second")
    (vault.folder / "backup").rename(vault.folder / "second")
    with vault.opened("second") as second:
        assert second.read_only_reason is None
        assert names(second) == [b"late", b"one", b"two"]
        second.sync(wait=True)
    joined = vault.join("third")
    assert (joined.damage, joined.left_out) == ([], [])
    with vault.opened("third") as third:
        assert names(third) == [b"late", b"one", b"two"]


# ---- what others put back, and what unknown machines wrote--------------------------------------------------------------


def test_a_pack_that_its_author_put_back_elsewhere_is_no_damage_to_others(vault: Vault, volume: Volume) -> None:
    put(volume, "file", content(1, 90_000))
    volume.sync(wait=True)
    vault.join("second")
    ((pack,),) = rows(volume, "SELECT name FROM packs WHERE state = 3")
    vault.blob(pack).unlink()
    with vault.opened("second") as second:
        assert [each["blob"] for each in second.check()["damage"]] == [pack.hex()]
        assert volume.check(repair=True)["repaired"] == [pack.hex()]
        second.sync(wait=True)
        assert second.check(read_data=100.0)["damage"] == []
        second.content.reader.clear()
        assert read(second, "file") == content(1, 90_000)


def test_a_copy_beside_a_blob_that_is_there_does_not_take_its_place(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    vault.join("second")
    first = vault.blob(segments(volume)[-1])
    last = int(vault.blobs()[-1].name[:16])
    copy = first.with_name(f"{last + 1:016d}{first.name[16:]}")
    shutil.copy(first, copy)
    with vault.opened("second") as second:
        second.sync(wait=True)
        copy.unlink()
        assert second.check()["ok"]


def test_a_stranger_s_segment_is_reported_and_never_applied(vault: Vault, volume: Volume) -> None:
    send(volume, "one")
    stranger = MachineIdentity.new(SystemEntropy())
    group = Group(1, 1 << 60, 0, (Make(NodeId(b"forged node id.."), 2, 0o755, 0, 0, 0, 0),))
    blob = forged(volume, stranger, Segment(stranger.machine, Incarnation(77), 1, FIRST, (), (), (group,)))
    volume.stores.store.append(blob.info.name, BytesSource(blob.data), blob.info.label)
    put(volume, "two", b"two")
    for _ in range(2):
        with pytest.raises(DamageError, match="was written by an unknown machine"):
            volume.sync(wait=True)
    found = volume.check()
    assert [(each["blob"], each["kind"]) for each in found["damage"]] == [(blob.info.name.hex(), "segment")]
    volume.sync(wait=True)
    assert names(volume) == [b"one", b"two"]
    joined = vault.join("second")
    assert [blob.info.name.hex() in line for line in joined.damage] == [True]
    with vault.opened("second") as second:
        assert names(second) == [b"one", b"two"]
