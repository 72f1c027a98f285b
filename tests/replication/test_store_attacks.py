"""What a store can do to the log, generated: reorder, leave out, repeat, exchange, alter, forge. A fresh machine has the
right tree, or says what is missing.

The verdict itself is tried on every reordering of eight segments in ``tests/crdt/test_membership.py``; here real segments
go through everything that a joining machine does with them.
"""

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.replication.attacked import Blob, History, Recorder, Sent, forged, join, successive
from tests.support.vaults import Vault, assert_same, content, put, rows
from tgdav.crdt.membership import FIRST, judge
from tgdav.crdt.ops import ROOT, Group, Make, Member, Place
from tgdav.crypto.keys import NamespaceKeys, wrap_namespace
from tgdav.crypto.machine import MachineIdentity
from tgdav.entropy import SystemEntropy
from tgdav.ids import EntryId, Incarnation, NodeId
from tgdav.replication import intake
from tgdav.replication.format.segment import Segment
from tgdav.volume.volume import Volume

SEED = 20_261_201


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> History:
    return successive(tmp_path_factory.mktemp("two"), (4, 4))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> History:
    return successive(tmp_path_factory.mktemp("three"), (3, 3, 2))


@pytest.fixture
def history(request: pytest.FixtureRequest) -> History:
    found: History = request.getfixturevalue(request.param)
    return found


both = pytest.mark.parametrize("history", ["two", "three"], indirect=True)


def reordered(segments: list[Sent], count: int) -> Iterator[list[Sent]]:
    """The orders that a store would try first, and some by a seed."""
    yield segments[::-1]
    yield sorted(segments, key=lambda each: (each.author, each.link.number))
    yield sorted(segments, key=lambda each: (each.link.number, each.author))
    choose = random.Random(SEED)
    yield from (choose.sample(segments, len(segments)) for _ in range(count))


@both
def test_a_reordered_store_gives_the_same_tree(tmp_path: Path, history: History) -> None:
    for order in reordered(history.segments, 8):
        fresh = join(tmp_path, history, order)
        assert (fresh.names, fresh.damage, fresh.left_out) == (history.tree, [], {})


def test_a_log_too_large_to_keep_is_read_a_second_time(
    tmp_path: Path, two: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_KEPT_BYTES", 0)
    assert join(tmp_path, two, two.segments[::-1]).names == two.tree


@both
def test_real_segments_are_judged_alike_in_any_order(history: History) -> None:
    links = [each.link for each in history.segments]
    for order in itertools.islice(itertools.permutations(links), 0, None, 37):
        verdict = judge(order)
        assert (verdict.order, verdict.gaps, verdict.left_out) == (links, [], [])


@pytest.mark.torture
@both
def test_every_reordering_of_real_segments(tmp_path: Path, history: History) -> None:
    for order in itertools.islice(itertools.permutations(history.segments), 0, None, 101):
        fresh = join(tmp_path, history, order)
        assert (fresh.names, fresh.damage, fresh.left_out) == (history.tree, [], {})


@both
def test_each_segment_moved_to_the_end_changes_nothing(tmp_path: Path, history: History) -> None:
    for moved in history.segments:
        fresh = join(tmp_path, history, [*(each for each in history.segments if each is not moved), moved])
        assert (fresh.names, fresh.damage, fresh.left_out) == (history.tree, [], {})


@both
def test_a_second_copy_of_each_segment_changes_nothing(tmp_path: Path, history: History) -> None:
    for copied in history.segments:
        fresh = join(tmp_path, history, [copied, *history.segments, copied])
        assert (fresh.names, fresh.damage, fresh.left_out) == (history.tree, [], {})


@both
def test_each_segment_left_out_is_named_unless_nobody_saw_it(tmp_path: Path, history: History) -> None:
    for missing in history.segments:
        rest = [each for each in history.segments if each is not missing]
        for order in (rest, rest[::-1]):
            fresh = join(tmp_path, history, order)
            assert (fresh.names, fresh.left_out) == (history.tree - {missing.folder}, {})
            chain = history.chain(missing.author)
            if missing is history.segments[-1]:
                assert fresh.damage == [], "no machine but its author's ever knew of it"
            elif missing is chain[-1]:
                assert fresh.damage == [(f"{missing.author:016x}", "gap")]
            else:
                assert fresh.damage == [(f"{missing.author:016x}-{missing.link.number}", "gap")]


@both
def test_an_altered_byte_is_named(tmp_path: Path, history: History) -> None:
    choose = random.Random(SEED)
    for number, altered in enumerate(history.segments):
        place = choose.randrange(len(altered.blob.data))
        data = bytearray(altered.blob.data)
        data[place] ^= 1 << choose.randrange(8)
        segments: list[Sent | Blob] = list(history.segments)
        segments[number] = Blob(altered.blob.info, bytes(data))
        fresh = join(tmp_path, history, segments)
        assert (altered.blob.info.name.hex(), "segment") in fresh.damage
        assert fresh.names == history.tree - {altered.folder}


@both
def test_labels_or_bytes_exchanged_between_two_blobs_are_named(tmp_path: Path, history: History) -> None:
    for one, other in itertools.pairwise(history.segments[:-1]):
        for labels in (True, False):
            segments: list[Sent | Blob] = [each for each in history.segments if each not in (one, other)]
            segments += _exchanged(one.blob, other.blob, labels=labels)
            fresh = join(tmp_path, history, segments)
            assert fresh.damage
            assert fresh.names == history.tree - {one.folder, other.folder}


def _exchanged(one: Blob, other: Blob, *, labels: bool) -> list[Sent | Blob]:
    if not labels:
        return [Blob(one.info, other.data), Blob(other.info, one.data)]
    first = msgspec.structs.replace(one.info, label=other.info.label)
    return [Blob(first, one.data), Blob(msgspec.structs.replace(other.info, label=one.info.label), other.data)]


def test_a_store_rolled_back_before_a_fresh_machine_shows_in_the_last_operations(tmp_path: Path, two: History) -> None:
    """Nothing can miss what it never saw; the report lets its reader do so."""
    whole = join(tmp_path, two, two.segments).rebuilt.heads
    for count in range(1, 5):
        fresh = join(tmp_path, two, two.segments[:-count])
        assert fresh.damage == []
        heads = fresh.rebuilt.heads
        assert max(head.time for head in heads.values()) <= max(head.time for head in whole.values())
        assert sum(head.sequence for head in heads.values()) < sum(head.sequence for head in whole.values())


def test_an_older_checkpoint_leads_to_the_same_state(vault: Vault, volume: Volume) -> None:
    checkpoints = []
    for number in range(2):
        for name in ("file", "other"):
            put(volume, f"{name}-{number}", content(number, 300))
            volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        checkpoints.append({row[0].hex() for row in rows(volume, "SELECT name FROM checkpoint_parts")})
    put(volume, "after", b"after")
    volume.sync(wait=True)
    for name in checkpoints[1] - checkpoints[0]:
        vault.blob(name).unlink()
    assert vault.join("second").damage == []
    with vault.opened("second") as second:
        assert_same(volume, second)


# ---- who was replaced ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory) -> History:
    """The first writer sends two folders more after the second has joined."""
    recorder = Recorder(tmp_path_factory.mktemp("branched"))
    with recorder.vault.opened() as first:
        recorder.write(first, "1-2")
        recorder.vault.join("second")
        with recorder.vault.opened("second") as second:
            recorder.write(second, "2-2")
        recorder.branch(first, "late-1", "late-2")
        return recorder.history(first)


def test_what_a_replaced_writer_appends_is_left_out_and_reported_in_every_order(
    tmp_path: Path, branched: History
) -> None:
    assert len(branched.segments) == 5
    late = branched.segments[-1]
    for order in itertools.islice(itertools.permutations(branched.segments), 0, None, 9):
        fresh = join(tmp_path, branched, order)
        assert (fresh.names, fresh.damage) == ({b"1-2", b"2-2"}, [])
        assert fresh.left_out == {late.author: 4}
        head = fresh.rebuilt.heads[late.author]
        assert (head.number, head.sequence) == (late.link.number - 1, late.link.first - 1), "only what was applied"


def test_the_border_does_not_move_with_the_new_writers_first_segment(tmp_path: Path, branched: History) -> None:
    first = branched.chain(branched.authors[1])[0]
    rest = [each for each in branched.segments if each is not first]
    for place in range(len(rest) + 1):
        fresh = join(tmp_path, branched, [*rest[:place], first, *rest[place:]])
        assert (fresh.names, fresh.damage) == ({b"1-2", b"2-2"}, [])


def test_the_replaced_writers_lost_work_is_not_missed(tmp_path: Path, branched: History) -> None:
    fresh = join(tmp_path, branched, branched.segments[:-1])
    assert (fresh.names, fresh.damage, fresh.left_out) == ({b"1-2", b"2-2"}, [], {})
    late = branched.segments[-1].blob
    fresh = join(tmp_path, branched, [*branched.segments[:-1], Blob(late.info, late.data[:-1] + b"\xff")])
    assert (fresh.names, fresh.damage) == ({b"1-2", b"2-2"}, []), "nor is one that does not open damage"


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Two machines join at once: neither sees the other before both have sent."""
    recorder = Recorder(tmp_path_factory.mktemp("raced"))
    with recorder.vault.opened() as first:
        recorder.write(first, "1-2")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Volume, "sync", lambda *_, **__: None)
        recorder.vault.join("second")
        recorder.vault.join("third")
    with recorder.vault.opened("second") as second, recorder.vault.opened("third") as third:
        for volume, name in ((second, "2-2"), (third, "3-2")):
            volume.replicator.pusher.push()
            volume.replicator.finish_joining()
            recorder.write(volume, name)
        return recorder.history(third)


def test_of_two_that_joined_at_once_the_same_one_counts_in_every_order(tmp_path: Path, raced: History) -> None:
    second, third = sorted(raced.authors[1:], key=lambda author: raced.chain(author)[0].link.machine)
    kept = {b"1-2", raced.chain(second)[-1].folder}
    for order in itertools.islice(itertools.permutations(raced.segments), 0, None, 71):
        fresh = join(tmp_path, raced, order)
        assert (fresh.names, fresh.damage, fresh.left_out) == (kept, [], {third: 2})
        assert fresh.rebuilt.writer is not None
        assert fresh.rebuilt.writer.incarnation == second


# ---- forged by somebody who has the keys -------------------------------------------------------------------------------


def _segment(author: MachineIdentity, incarnation: Incarnation, number: int, member: Member | None = None) -> Segment:
    node, entry = NodeId(b"forged node id.."), EntryId(b"forged entry id.")
    ops = (Make(node, 2, 0o755, 0, 0, 0, 0), Place(entry, node, NodeId(ROOT), b"forged"))
    group = Group(number * 10, 1 << 60, 0, ops)
    return Segment(author.machine, incarnation, number, FIRST, (), (), (group,), member)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_a_segment_of_an_unknown_machine_is_never_applied(
    tmp_path: Path, vault: Vault, volume: Volume, damaged: bool, number: int
) -> None:
    recorder = Recorder(tmp_path / "other")
    with recorder.vault.opened() as first:
        recorder.write(first, "1-2", "1-3")
        history = recorder.history(first)
        stranger = MachineIdentity.new(SystemEntropy())
        blob = forged(first, stranger, _segment(stranger, Incarnation(77), number))
    missing = history.segments[1] if damaged else None
    kept: list[Sent | Blob] = [each for each in history.segments if each is not missing]
    for segments in ([blob, *kept], [*kept, blob]):
        fresh = join(tmp_path, history, segments)
        assert fresh.names == history.tree - {missing.folder if missing else None}
        assert (blob.info.name.hex(), "segment") in fresh.damage
        assert len(fresh.damage) == 1 + damaged


def test_a_segment_that_another_signed_in_the_writers_name_is_never_applied(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "other")
    with recorder.vault.opened() as first:
        recorder.write(first, "1-2")
        history = recorder.history(first)
        last = history.segments[-1].link
        stranger = MachineIdentity.new(SystemEntropy())
        posing = msgspec.structs.replace(
            _segment(stranger, last.incarnation, last.number + 1),
            machine=last.machine,
            previous=last.hash,
            author=Member(last.machine, "posing", stranger.signing_public, last.incarnation, 1, None),
        )
        blob = forged(first, stranger, posing)
    for segments in ([blob, *history.segments], [*history.segments, blob]):
        fresh = join(tmp_path, history, segments)
        assert (fresh.names, fresh.damage) == (history.tree, [(blob.info.name.hex(), "segment")])


def test_two_segments_of_one_number_are_told(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "other")
    with recorder.vault.opened() as first:
        recorder.write(first, "1-2", "1-3")
        history = recorder.history(first)
        second = history.segments[1].link
        twin = msgspec.structs.replace(
            _segment(first.log.machine, second.incarnation, 2), previous=second.previous, author=second.author
        )
        blob = forged(first, first.log.machine, twin)
    for segments in ([blob, *history.segments], [*history.segments, blob]):
        fresh = join(tmp_path, history, segments)
        assert (fresh.names, fresh.damage) == (history.tree, [(blob.info.name.hex(), "segment")])


def test_an_older_log_without_stated_memberships_is_read(tmp_path: Path) -> None:
    """What segments gained since is optional: hash and number in clocks, the author's membership."""
    recorder = Recorder(tmp_path / "other")
    with recorder.vault.opened() as first, pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(first.replicator.pusher), "_membership", lambda *_: None)
        recorder.write(first, "1-2")
        history = recorder.history(first)
    assert all(each.link.author is not None for each in history.segments[:1])
    assert history.segments[-1].link.author is None
    fresh = join(tmp_path, history, history.segments[::-1])
    assert (fresh.names, fresh.damage) == (history.tree, [])
    fresh = join(tmp_path, history, history.segments[1:])
    name = history.segments[1].blob.info.name.hex()
    assert (fresh.names, fresh.damage) == (set(), [(name, "segment")]), "it may be a forger's"


# ---- key boxes ---------------------------------------------------------------------------------------------------------


def test_the_key_box_of_the_newest_epoch_is_found_wherever_it_lies(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "other")
    with recorder.vault.opened() as first:
        recorder.write(first, "1-2")
        older = recorder.history(first).segments[-1]
        _next_epoch(first)
        recorder.write(first, "1-3")
        history = recorder.history(first)
    rest = [each for each in history.segments if each.blob.info.name != older.blob.info.name]
    for order in ([*rest, older], rest[::-1], history.segments):
        fresh = join(tmp_path, history, order)
        assert fresh.names >= {b"1-3"}


def _next_epoch(volume: Volume) -> None:
    log = volume.log
    secret = log.secret.with_new_epoch(volume.platform.entropy)
    box = wrap_namespace(log.vault_keys, secret, volume.platform.entropy)
    keys = NamespaceKeys(log.namespace, secret)
    volume.replicator.pusher._log = msgspec.structs.replace(log, secret=secret, keys=keys, box=box)


# ---- the page that says all this ---------------------------------------------------------------------------------------

_ATTACK = re.compile(r"Exit\s+code\s+(\d);\s+`([\w/]+\.py)::(test_\w+)`\n")


def test_each_attack_in_the_threat_model_names_a_test() -> None:
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "threat-model.md").read_text()
    attacks = page.partition("#### Attack by attack")[2].partition("\n### ")[0]
    found = _ATTACK.findall(attacks)
    assert len(found) == attacks.count("\n- **") >= 20
    for code, file, name in found:
        assert code in "045"
        assert re.search(rf"^ *def {name}\(", (tests / file).read_text(), re.MULTILINE), f"{file} has no {name}"
