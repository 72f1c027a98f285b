"""Which operations need not be sent, because what they made was deleted for good before any of them was sent. Pure.

``Retracted`` takes the place of each, so that the numbers of all others stay. What is left gives the same tree as all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tgdav.crdt.ops import TRASH, Attr, Field, Make, Op, Place, Purge, Retracted, Snapshot, Write
from tgdav.ids import EntryId, NodeId

_RETRACTED = Retracted()
Ops = tuple[Op, ...]


class _Placed(NamedTuple):
    """An operation that places an entry, and the number of its group."""

    group: int
    op: Place


class _Lives(msgspec.Struct):
    """What groups do to nodes and entries: numbers of groups, and places in order."""

    made: dict[NodeId, int] = {}
    places: dict[EntryId, list[_Placed]] = {}
    entries: dict[NodeId, set[EntryId]] = {}
    purged: dict[EntryId, int] = {}
    replacing: set[EntryId] = set()
    """Entries that replaced others or were replaced: their contents are versions of one file."""
    snapshots: list[int] = []

    @classmethod
    def of(cls, groups: Sequence[Ops]) -> "_Lives":
        lives = cls()
        for number, ops in enumerate(groups):
            for op in ops:
                lives.add(number, op)
        return lives

    def add(self, number: int, op: Op) -> None:
        match op:
            case Make():
                self.made.setdefault(op.node, number)
            case Place():
                self.places.setdefault(op.entry, []).append(_Placed(number, op))
                self.entries.setdefault(op.node, set()).add(op.entry)
                if op.because is not None or op.after is not None:
                    self.replacing.update((op.entry, op.because or op.entry, op.after or op.entry))
            case Purge():
                for entry in op.entries:
                    # Elsewhere than in the trash a purge has no effect.
                    if entry in self.places and self.places[entry][-1].op.parent == TRASH:
                        self.purged[entry] = number
            case Snapshot():
                self.snapshots.append(number)
            case _:
                pass

    def purge_below(self) -> None:
        """What is in a purged directory is purged with it."""
        inside: dict[NodeId, list[EntryId]] = {}
        for entry, places in self.places.items():
            inside.setdefault(places[-1].op.parent, []).append(entry)
        waiting = list(self.purged)
        while waiting:
            entry = waiting.pop()
            for below in inside.get(self.places[entry][-1].op.node, ()):
                if below not in self.purged:
                    self.purged[below] = self.purged[entry]
                    waiting.append(below)

    def is_over(self, entry: EntryId) -> bool:
        """Whether an entry came into being and was purged, and nothing outside these operations has to do with it."""
        places, end = self.places[entry], self.purged.get(entry)
        begin = self.made.get(places[0].op.node)
        if begin is None or end is None or entry in self.replacing:
            return False
        return (
            begin <= places[0].group <= places[-1].group <= end
            and len({each.op.node for each in places}) == 1
            and not any(begin < snapshot < end for snapshot in self.snapshots)
        )


def retract(groups: Sequence[Ops]) -> list[Ops]:
    """Return the groups, consecutive unsent ones, without what need not be sent. A group of which nothing is left is empty.

    A node is retracted as a whole or not at all, and a directory only if nothing that stays was ever in it.
    """
    lives = _Lives.of(groups)
    lives.purge_below()
    nodes = {node for node, entries in lives.entries.items() if all(map(lives.is_over, entries))}
    while needed := {
        each.op.parent
        for places in lives.places.values()
        if places[0].op.node not in nodes
        for each in places
        if each.op.parent in nodes
    }:
        nodes -= needed
    if not nodes:
        return list(groups)
    gone = {entry for node in nodes for entry in lives.entries[node]}
    return [_rest(ops, gone, nodes) for ops in groups]


def _rest(ops: Ops, gone: set[EntryId], nodes: set[NodeId]) -> Ops:
    rest = tuple(_kept(op, gone, nodes) for op in ops)
    return () if all(isinstance(op, Retracted) for op in rest) else rest


def _kept(op: Op, gone: set[EntryId], nodes: set[NodeId]) -> Op:
    match op:
        case Make() | Place() | Write() | Attr() | Field() if op.node in nodes:
            return _RETRACTED
        case Purge():
            rest = tuple(entry for entry in op.entries if entry not in gone)
            return op if rest == op.entries else Purge(rest) if rest else _RETRACTED
        case _:
            return op
