"""Decides which machine writes a namespace, and which segments of the log are valid. Pure.

The segments of each incarnation are a hash chain. The writer is the incarnation with the newest epoch. Its whole chain
counts; of every other chain, the part that the vector clock of a counted segment covers. Nothing else counts. All inputs are
signed and positions in the store are not among them, so a store that reorders, repeats or withholds segments cannot change
which operations of two writers count. A segment that counts but is missing is a gap. A segment that does not count was
made after its author had been replaced.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tgdav.crdt.ops import Member
from tgdav.ids import Incarnation, MachineId

FIRST = bytes(32)
"""The hash of the previous segment in the first segment of an incarnation."""


class ClockEntry(msgspec.Struct, array_like=True, frozen=True):
    """An entry of a vector clock: the last operation of (machine, incarnation) that the author had applied.

    ``number`` and ``hash`` are those of the last segment of the chain that the author had applied; 0 and empty in the author's
    own entry, and in segments of programs that did not record them.
    """

    machine: MachineId
    incarnation: Incarnation
    sequence: int
    number: int = 0
    hash: bytes = b""


class Link(msgspec.Struct, frozen=True):
    """A segment as a link of its chain. ``hash`` is that of its blob; ``first`` and ``last`` are operation numbers.

    ``changes`` is the number of operations that change the tree, ``time`` that of the last group in ns. ``author`` is the
    author's membership where the segment contains it.
    """

    machine: MachineId
    incarnation: Incarnation
    number: int
    hash: bytes
    previous: bytes
    first: int
    last: int
    changes: int
    time: int
    clock: tuple[ClockEntry, ...]
    author: Member | None = None


class Head(msgspec.Struct, frozen=True):
    """The last applied segment of a chain. ``time`` is that of its last operation in ns."""

    machine: MachineId
    number: int = 0
    hash: bytes = FIRST
    sequence: int = 0
    time: int = 0


class Base(msgspec.Struct, frozen=True):
    """The local state: the applied part of each chain, and the known memberships."""

    heads: Mapping[Incarnation, Head] = {}
    claims: Mapping[Incarnation, Member] = {}


class Gap(msgspec.Struct, frozen=True):
    """Segments that count but are missing.

    They are those from ``first`` to ``last``; when ``last`` < ``first``, segment ``first`` does not continue the one before
    it. ``operations``: the range of operations missing at the end of the chain, else None.
    """

    machine: MachineId
    incarnation: Incarnation
    first: int
    last: int
    operations: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """The incarnation in hex, then a dash and the number of the missing segment, then ``x`` if another segment has that
        number. Without dash and number: the end of the chain is missing.
        """
        end = "" if self.operations else f"-{self.first}{'x' if self.last < self.first else ''}"
        return f"{self.incarnation:016x}{end}"


class Verdict(msgspec.Struct):
    """The result of ``judge``.

    ``order``: the segments to apply, in causal order. ``left_out``: segments made after their author was replaced.
    ``behind``: segments that count, while a later one of their chain is already applied. ``doubles``: segments with the
    same number as one that counts. ``bounds``: the last operation that counts, of each chain except the writer's.
    """

    writer: Member | None = None
    claims: dict[Incarnation, Member] = {}
    bounds: dict[Incarnation, int] = {}
    order: list[Link] = []
    left_out: list[Link] = []
    behind: list[Link] = []
    doubles: list[Link] = []
    gaps: list[Gap] = []
    base_counts: bool = True
    """Whether all operations in the base count."""


def newest(claims: Iterable[Member]) -> Member | None:
    """Return the writer: the newest epoch; of equal ones, the smallest machine id and incarnation."""
    return min(claims, key=_rank, default=None)


def _rank(claim: Member) -> tuple[int, bytes, int]:
    return -claim.epoch, claim.machine, claim.incarnation


def judge(links: Iterable[Link], base: Base | None = None) -> Verdict:
    """Decide which of ``links`` count. Their signatures must have been verified; their order does not matter."""
    return _Judgement(list(links), base or Base()).verdict()


class _Judgement:
    def __init__(self, links: list[Link], base: Base) -> None:
        self._base = base
        self._claims = {**_claims(links), **base.claims}
        self._writer = newest(self._claims.values())
        self._doubles: list[Link] = []
        self._behind: list[Link] = []
        self._chains = self._sorted(links)
        self._bounds: dict[Incarnation, int] = {}
        self._counted: dict[Incarnation, int] = {}
        """The number of links of each chain that count."""
        self._seen: dict[Incarnation, list[ClockEntry]] = {}
        """The entries of counted clocks, by the chain that they refer to."""

    def verdict(self) -> Verdict:
        has_writer = self._writer is not None and self._writer.incarnation in self._base.heads
        if has_writer:
            self._bounds = {incarnation: head.sequence for incarnation, head in self._base.heads.items()}
        self._count()
        base_counts = has_writer or all(
            head.sequence <= self._bounds.get(incarnation, 0) for incarnation, head in self._base.heads.items()
        )
        left_out = [link for key, chain in self._chains.items() for link in chain[self._counted.get(key, 0) :]]
        behind = [link for link in self._behind if self._counts(link)]
        return Verdict(
            writer=self._writer,
            claims=self._claims,
            bounds=self._bounds,
            order=list(self._ordered()),
            left_out=left_out,
            behind=behind,
            doubles=self._doubles,
            gaps=list(self._gaps()),
            base_counts=base_counts,
        )

    # ---- chains --------------------------------------------------------------------------------------------------

    def _sorted(self, links: list[Link]) -> dict[Incarnation, list[Link]]:
        """Return each chain sorted by number. Of links with the same number, one that a signed segment refers to is used."""
        named = {link.previous for link in links} | {entry.hash for link in links for entry in link.clock}
        named |= {head.hash for head in self._base.heads.values()}
        chains: dict[Incarnation, dict[int, Link]] = {}
        for link in sorted(links, key=lambda each: (each.hash not in named, each.hash)):
            head = self._base.heads.get(link.incarnation)
            if head is not None and link.number <= head.number:
                self._behind.append(link)
                continue
            chosen = chains.setdefault(link.incarnation, {}).setdefault(link.number, link)
            if chosen.hash != link.hash:
                self._doubles.append(link)
        return {
            incarnation: [chain[number] for number in sorted(chain)]
            for incarnation, chain in sorted(chains.items(), key=lambda item: self._age(item[0]))
        }

    def _age(self, incarnation: Incarnation) -> tuple[int, bytes, int]:
        claim = self._claims.get(incarnation)
        return (claim.epoch, claim.machine, incarnation) if claim else (0, b"", incarnation)

    # ---- what counts ---------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Compute the closure: the writer's chain, what its clocks cover, what the clocks of that cover, and so on."""
        waiting = list(self._chains)
        while waiting:
            incarnation = waiting.pop()
            chain = self._chains.get(incarnation, [])
            at = self._counted.get(incarnation, 0)
            while at < len(chain) and self._counts(chain[at]):
                waiting.extend(self._widen(chain[at]))
                at += 1
            self._counted[incarnation] = at

    def _counts(self, link: Link) -> bool:
        is_writers = self._writer is not None and link.incarnation == self._writer.incarnation
        return is_writers or link.last <= self._bounds.get(link.incarnation, 0)

    def _widen(self, link: Link) -> Iterator[Incarnation]:
        for entry in _others(link):
            self._seen.setdefault(entry.incarnation, []).append(entry)
            if entry.sequence > self._bounds.get(entry.incarnation, 0):
                self._bounds[entry.incarnation] = entry.sequence
                yield entry.incarnation

    def _counting(self, incarnation: Incarnation) -> list[Link]:
        return self._chains.get(incarnation, [])[: self._counted.get(incarnation, 0)]

    def _ordered(self) -> Iterator[Link]:
        """Yield the links that count in causal order: a link after all that its author had applied, older memberships first."""
        waiting = {incarnation: deque(self._counting(incarnation)) for incarnation in self._chains}
        while queues := [queue for queue in waiting.values() if queue]:
            # Clocks that depend on each other are signed by a dishonest member. Break the cycle instead of stopping there.
            queue = next((queue for queue in queues if _is_ready(queue[0], waiting)), queues[0])
            yield queue.popleft()

    # ---- what is missing -----------------------------------------------------------------------------------------

    def _gaps(self) -> Iterator[Gap]:
        reported: set[str] = set()
        chains = {*self._bounds, *self._chains}
        for incarnation in sorted(chains, key=self._age):
            for gap in (*self._holes(incarnation), *self._torn(incarnation), *self._lost_end(incarnation)):
                if gap.id not in reported:
                    reported.add(gap.id)
                    yield gap

    def _holes(self, incarnation: Incarnation) -> Iterator[Gap]:
        head = self._base.heads.get(incarnation)
        number, hash_ = (head.number, head.hash) if head else (0, FIRST)
        for link in self._counting(incarnation):
            if link.number != number + 1 or link.previous != hash_:
                yield Gap(link.machine, incarnation, number + 1, link.number - 1)
            number, hash_ = link.number, link.hash

    def _torn(self, incarnation: Incarnation) -> Iterator[Gap]:
        """Yield the positions where a clock refers to another segment than the chain has."""
        head = self._base.heads.get(incarnation)
        there = {link.number: link.hash for link in self._counting(incarnation)}
        if head is not None:
            there[head.number] = head.hash
        for entry in self._seen.get(incarnation, []):
            if entry.hash and there.get(entry.number, entry.hash) != entry.hash:
                yield Gap(entry.machine, incarnation, entry.number, entry.number - 1)

    def _lost_end(self, incarnation: Incarnation) -> Iterator[Gap]:
        """Yield the missing end of a chain. It leaves no hole in the numbers, but later clocks of others refer to it."""
        head = self._base.heads.get(incarnation)
        last = max([link.last for link in self._counting(incarnation)], default=head.sequence if head else 0)
        entry = max(self._seen.get(incarnation, []), key=lambda each: each.sequence, default=None)
        if entry is not None and entry.sequence > last:
            yield Gap(entry.machine, incarnation, 0, 0, (last + 1, entry.sequence))


def _claims(links: Iterable[Link]) -> dict[Incarnation, Member]:
    """Return the first membership in each chain."""
    found: dict[Incarnation, Member] = {}
    for link in sorted(links, key=lambda each: (each.number, each.hash)):
        if link.author is not None and link.author.incarnation == link.incarnation:
            found.setdefault(link.incarnation, link.author)
    return found


def _others(link: Link) -> list[ClockEntry]:
    return [entry for entry in link.clock if entry.incarnation != link.incarnation]


def _is_ready(link: Link, waiting: Mapping[Incarnation, deque[Link]]) -> bool:
    """Return whether everything that the author of ``link`` had applied before is already yielded."""
    for entry in _others(link):
        queue = waiting.get(entry.incarnation)
        if queue and queue[0].last <= entry.sequence:
            return False
    return True
