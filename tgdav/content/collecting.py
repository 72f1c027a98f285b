"""Garbage collection: which packs are deleted or rewritten, and what is done next. Pure.

A pack in which nothing is live is dropped. One of which less than half is live is rewritten: its live chunks are moved to new
packs, and then it is dropped too. A pack is only deleted after its ``Retire`` operation is in the store, and after a checkpoint
that was written later is there: so whoever rebuilds the state, from the newest checkpoint or from the one before and the log,
looks for nothing in it.
"""

from collections.abc import Container, Iterable, Sequence
from enum import StrEnum

import msgspec

from tgdav.content.format.pack import padme
from tgdav.ids import BlobName, ChunkId


class PackContents(msgspec.Struct, frozen=True):
    """A stored pack, and (id, sealed bytes) of the chunks that are found in it."""

    number: int
    name: BlobName
    size: int
    chunks: Sequence[tuple[ChunkId, int]]


class PackUse(msgspec.Struct, frozen=True):
    """How many bytes of a pack are ``live``. Sizes in bytes."""

    number: int
    name: BlobName
    size: int
    live: int


class GcRule(msgspec.Struct, frozen=True):
    """``fraction``: packs of which less is live are rewritten. ``budget``: bytes that may be moved; None: any number."""

    fraction: float = 0.5
    budget: int | None = None


class GcPlan(msgspec.Struct, frozen=True):
    """Packs to ``drop`` as they are, to ``repack``, and the number of those to ``keep``. ``total``: bytes of all packs."""

    drop: tuple[PackUse, ...] = ()
    repack: tuple[PackUse, ...] = ()
    keep: int = 0
    total: int = 0

    @property
    def freed(self) -> int:
        """Bytes that the store has less afterwards."""
        moved = sum(pack.live for pack in self.repack)
        return sum(pack.size for pack in (*self.drop, *self.repack)) - (padme(moved) if moved else 0)

    def __bool__(self) -> bool:
        return bool(self.drop or self.repack)


_WORTHWHILE = 0.75
"""Packs are rewritten if what they become is at most this part of what they are.

Small packs are mostly padding: without this rule a lone one would be rewritten again and again.
"""


def plan(packs: Iterable[PackContents], live: Container[bytes], rule: GcRule) -> GcPlan:
    """Return what to do with ``packs``; ``live`` are the chunks in use (``tgdav.fs.liveness``)."""
    drop, sparse, count, total = [], [], 0, 0
    for pack in packs:
        use = PackUse(pack.number, pack.name, pack.size, sum(size for chunk, size in pack.chunks if chunk in live))
        count, total = count + 1, total + pack.size
        if not use.live:
            drop.append(use)
        elif use.live < pack.size * rule.fraction:
            sparse.append(use)
    repack = _affordable(sparse, rule.budget)
    size, moved = sum(pack.size for pack in repack), sum(pack.live for pack in repack)
    if padme(moved) > size * _WORTHWHILE:
        repack = []
    return GcPlan(tuple(drop), tuple(repack), count - len(drop) - len(repack), total)


def _affordable(sparse: list[PackUse], budget: int | None) -> list[PackUse]:
    """Return the packs to rewrite within the budget, at least one: those first that free most for the bytes they move."""
    sparse.sort(key=lambda pack: pack.live / pack.size)
    if budget is None:
        return sparse
    chosen: list[PackUse] = []
    for pack in sparse:
        budget -= pack.live
        if chosen and budget < 0:
            break
        chosen.append(pack)
    return chosen


class GcStep(StrEnum):
    """What a collection does next."""

    REPACK = "repacking"
    RETIRE = "retiring packs"
    PUSH = "sending"
    CHECKPOINT = "writing a checkpoint"
    DELETE = "deleting packs"
    FORGET = "forgetting packs"
    DONE = "done"


class GcState(msgspec.Struct):
    """How far a collection is: packs still to be rewritten, packs to be retired, packs whose blobs are deleted."""

    repack: list[PackUse] = []
    retire: list[PackUse] = []
    deleted: list[int] = []


class StoreFacts(msgspec.Struct, frozen=True):
    """What the store has.

    ``is_staged``: some content is not there yet; ``is_full``: so much that it must be sent before more is moved.
    ``is_unsent``: some operation is not there yet. ``retired``: packs that are retired, but no checkpoint written since is
    there. ``deletable``: retired packs that such a checkpoint allows to delete.
    """

    is_staged: bool = False
    is_full: bool = False
    is_unsent: bool = False
    retired: int = 0
    deletable: int = 0


def next_step(state: GcState, facts: StoreFacts) -> GcStep:
    """Return the next step. A pack is retired only when no moved chunk waits to be stored, and deleted only when allowed."""
    if state.deleted:
        return GcStep.FORGET
    if facts.deletable:
        return GcStep.DELETE
    if state.repack:
        return GcStep.PUSH if facts.is_full else GcStep.REPACK
    if state.retire:
        return GcStep.PUSH if facts.is_staged else GcStep.RETIRE
    if facts.retired:
        return GcStep.PUSH if facts.is_staged or facts.is_unsent else GcStep.CHECKPOINT
    return GcStep.DONE


class Activity(msgspec.Struct, frozen=True):
    """Whether an automatic collection is worth its cost. Times in seconds, sizes in bytes.

    ``changed``: something was logged since the last plan. ``stored``: bytes of packs now, ``before``: at the last plan.
    """

    changed: bool
    idle: float
    since_plan: float
    stored: int
    before: int


IDLE_SECONDS, SHORT_IDLE_SECONDS = 60.0, 5.0
PLAN_SECONDS = 900.0
_MUCH = 64 * 1024 * 1024


def is_due(activity: Activity) -> bool:
    """Return whether to plan a collection: every 15 minutes when idle, or soon after the packs have grown by a quarter."""
    if not activity.changed:
        return False
    grown = activity.stored - activity.before
    if grown >= max(_MUCH, activity.before // 4) and activity.idle >= SHORT_IDLE_SECONDS:
        return True
    return activity.idle >= IDLE_SECONDS and activity.since_plan >= PLAN_SECONDS
