"""Which segments count: a pure verdict, the same for every order in which a store may show them."""

import itertools
import random
import sys
from collections.abc import Iterable, Sequence

import pytest

from tgdav.crdt.membership import FIRST, Base, ClockEntry, Head, Link, Verdict, judge, newest
from tgdav.crdt.ops import Member
from tgdav.ids import Incarnation, MachineId

Name = tuple[int, int]
"""(writer, number) of a segment."""


def incarnation(writer: int) -> Incarnation:
    return Incarnation(1000 + writer)


def machine(writer: int) -> MachineId:
    return MachineId(bytes([writer]) * 16)


def hash_of(writer: int, number: int) -> bytes:
    return (writer * 65536 + number).to_bytes(4, "big") * 8


def member(writer: int, epoch: int) -> Member:
    return Member(machine(writer), f"writer {writer}", bytes(32), incarnation(writer), epoch, None)


def link(
    writer: int,
    number: int,
    epoch: int,
    seen: Iterable[Name] = (),
    *,
    stated: bool = True,
    previous: bytes | None = None,
) -> Link:
    """A segment with ten operations whose author had applied the segments ``seen``."""
    return Link(
        machine=machine(writer),
        incarnation=incarnation(writer),
        number=number,
        hash=hash_of(writer, number),
        previous=previous or (FIRST if number == 1 else hash_of(writer, number - 1)),
        first=number * 10 - 9,
        last=number * 10,
        changes=10,
        time=writer * 1000 + number,
        clock=(
            ClockEntry(machine(writer), incarnation(writer), number * 10),
            *(ClockEntry(machine(w), incarnation(w), n * 10, n, hash_of(w, n)) for w, n in seen),
        ),
        author=member(writer, epoch) if stated else None,
    )


def successive(*counts: int) -> list[Link]:
    """Writers that follow each other, each having seen all before it."""
    links: list[Link] = []
    for writer, count in enumerate(counts, 1):
        seen = [(before, counts[before - 1]) for before in range(1, writer)]
        links += [link(writer, number, writer, seen) for number in range(1, count + 1)]
    return links


def names(links: Iterable[Link]) -> list[Name]:
    return [(each.incarnation - 1000, each.number) for each in links]


def judged(links: Sequence[Link]) -> tuple[object, ...]:
    verdict = judge(links)
    return verdict.order, verdict.left_out, verdict.gaps, verdict.writer


@pytest.mark.parametrize("counts", [(8,), (4, 4), (1, 7), (7, 1), (3, 3, 2), (1, 1, 6)], ids=str)
def test_every_reordering_of_eight_segments_counts_the_same(counts: tuple[int, ...]) -> None:
    links = successive(*counts)
    right = judged(links)
    assert right == (links, [], [], member(len(counts), len(counts)))
    for order in itertools.permutations(links) if counts in ((4, 4), (3, 3, 2)) else samples(links, 1500):
        assert judged(order) == right


def samples(links: Sequence[Link], count: int) -> Iterable[list[Link]]:
    choose = random.Random(8)
    return (choose.sample(links, len(links)) for _ in range(count))


@pytest.mark.parametrize("counts", [(4, 4), (3, 3, 2), (1, 1), (2, 1, 1)], ids=str)
def test_every_single_omission_is_a_gap_or_was_seen_by_nobody(counts: tuple[int, ...]) -> None:
    links = successive(*counts)
    for missing in links:
        rest = [each for each in links if each is not missing]
        verdict = judge(rest)
        writer, number = names([missing])[0]
        assert names(verdict.order) == names(rest)
        assert verdict.left_out == []
        if (writer, number) == (len(counts), counts[-1]):
            assert verdict.gaps == [], "nobody can miss what nobody ever named"
        elif number == counts[writer - 1]:
            (gap,) = verdict.gaps
            assert (gap.incarnation, gap.operations) == (incarnation(writer), (number * 10 - 9, number * 10))
        else:
            (gap,) = verdict.gaps
            assert (gap.incarnation, gap.first, gap.last, gap.operations) == (incarnation(writer), number, number, None)


def test_every_set_of_omissions_of_a_covered_chain_is_named() -> None:
    links = successive(4, 2)
    for count in range(1, 5):
        for missing in itertools.combinations(range(1, 5), count):
            rest = [each for each in links if names([each])[0] not in {(1, number) for number in missing}]
            told: set[int] = set()
            for gap in judge(rest).gaps:
                lost = range(gap.operations[0] // 10 + 1, gap.operations[1] // 10 + 1) if gap.operations else None
                told |= set(lost if lost is not None else range(gap.first, gap.last + 1))
            assert told == set(missing)


def with_branch() -> list[Link]:
    """The first writer has sent two more segments that its successor's clock does not cover."""
    return [*successive(2, 2), link(1, 3, 1), link(1, 4, 1)]


def test_what_was_appended_beyond_the_clock_is_left_out_in_every_order() -> None:
    links = with_branch()
    for order in itertools.permutations(links):
        verdict = judge(order)
        assert (names(verdict.order), names(verdict.left_out)) == ([(1, 1), (1, 2), (2, 1), (2, 2)], [(1, 3), (1, 4)])
        assert verdict.gaps == []


def test_what_a_later_clock_covers_counts_too() -> None:
    links = [*with_branch(), link(2, 3, 2, [(1, 3)])]
    verdict = judge(links)
    assert names(verdict.order) == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert names(verdict.left_out) == [(1, 4)]


def test_what_the_predecessors_clock_covers_counts_for_who_never_saw_it() -> None:
    links = [link(1, 1, 1), link(2, 1, 2, [(1, 1)]), link(3, 1, 3, [(2, 1)])]
    assert names(judge(links).order) == [(1, 1), (2, 1), (3, 1)]
    (gap,) = judge(links[1:]).gaps
    assert gap.operations == (1, 10)


@pytest.mark.parametrize("smaller_first", [True, False])
def test_of_equal_epochs_one_wins_whatever_the_order_and_the_other_is_left_out(smaller_first: bool) -> None:
    second, third = (2, 3) if smaller_first else (3, 2)
    links = [
        link(1, 1, 1),
        link(second, 1, 2, [(1, 1)]),
        link(third, 1, 2, [(1, 1)]),
        link(second, 2, 2, [(1, 1)]),
        link(third, 2, 2, [(1, 1)]),
    ]
    for order in itertools.permutations(links):
        verdict = judge(order)
        assert verdict.writer == member(2, 2)
        assert (names(verdict.order), names(verdict.left_out)) == ([(1, 1), (2, 1), (2, 2)], [(3, 1), (3, 2)])


def test_a_join_after_a_tie_decides_it() -> None:
    links = [link(1, 1, 1), link(2, 1, 2, [(1, 1)]), link(3, 1, 2, [(1, 1)]), link(4, 1, 3, [(1, 1), (3, 1)])]
    verdict = judge(links)
    assert (names(verdict.order), names(verdict.left_out)) == ([(1, 1), (3, 1), (4, 1)], [(2, 1)])


def test_the_writer_is_of_the_newest_epoch_then_of_the_smallest_id() -> None:
    assert newest([]) is None
    assert newest([member(3, 1), member(2, 2), member(1, 1)]) == member(2, 2)
    assert newest([member(3, 2), member(2, 2)]) == newest([member(2, 2), member(3, 2)]) == member(2, 2)


def test_a_segment_that_does_not_follow_the_one_before_is_a_gap() -> None:
    links = [link(1, 1, 1), link(1, 2, 1, previous=bytes(31) + b"x")]
    (gap,) = judge(links).gaps
    assert (gap.first, gap.last) == (2, 1)


def test_the_joint_is_bound_by_the_hash_that_the_successor_signed() -> None:
    links = [link(1, 1, 1), link(2, 1, 2, [(1, 1)])]
    other = Link(**{**{name: getattr(links[0], name) for name in links[0].__struct_fields__}, "hash": b"?" * 32})
    assert [gap.incarnation for gap in judge([other, links[1]]).gaps] == [incarnation(1)]
    assert judge(links).gaps == []
    verdict = judge([other, *links])
    assert (verdict.order, verdict.doubles, verdict.gaps) == (links, [other], []), "the one that was signed for counts"


def test_a_membership_whose_first_segment_is_lost_is_known_by_any_other() -> None:
    links = successive(2, 3)
    verdict = judge([each for each in links if names([each])[0] != (2, 1)])
    assert verdict.writer == member(2, 2)
    assert [(gap.incarnation, gap.first) for gap in verdict.gaps] == [(incarnation(2), 1)]
    assert judge([link(1, 2, 1, stated=False)]).order == [], "who states no membership has none"


def based(links: Sequence[Link], *applied: Name) -> Base:
    """The state in which the segments up to each of ``applied`` are applied."""
    heads = {
        incarnation(writer): Head(machine(writer), number, hash_of(writer, number), number * 10)
        for writer, number in applied
    }
    claims = {each.incarnation: each.author for each in links if each.author and each.incarnation in heads}
    return Base(heads, claims)


def test_a_state_takes_in_what_it_lacks_and_is_not_taken_where_it_holds_too_much() -> None:
    links = with_branch()
    verdict = judge(links, based(links, (1, 1)))
    assert names(verdict.order) == [(1, 2), (2, 1), (2, 2)]
    assert verdict.base_counts
    verdict = judge(links, based(links, (1, 3)))
    assert not verdict.base_counts, "a checkpoint of a replaced machine's own branch"
    verdict = judge(links, based(links, (1, 2), (2, 1)))
    assert (verdict.base_counts, names(verdict.order), names(verdict.left_out)) == (True, [(2, 2)], [(1, 3), (1, 4)])


def test_a_segment_that_fills_a_hole_behind_the_state_is_reported() -> None:
    links = successive(4)
    verdict = judge([links[1]], based(links, (1, 4)))
    assert (verdict.order, names(verdict.behind)) == ([], [(1, 2)])


def test_clocks_that_wait_for_each_other_stop_nothing() -> None:
    links = [link(1, 1, 1, [(2, 1)]), link(2, 1, 2, [(1, 1)])]
    assert sorted(names(judge(links).order)) == [(1, 1), (2, 1)]


def test_the_work_grows_with_the_length_of_the_log_alone() -> None:
    def calls(count: int) -> int:
        links, counted = successive(count, count), itertools.count()
        sys.setprofile(lambda *_: next(counted))
        try:
            judge(links)
        finally:
            sys.setprofile(None)
        return next(counted)

    assert calls(400) < 2.6 * calls(200)


def test_no_links_no_verdict() -> None:
    verdict: Verdict = judge([])
    assert (verdict.writer, verdict.order, verdict.gaps, verdict.base_counts) == (None, [], [], True)
