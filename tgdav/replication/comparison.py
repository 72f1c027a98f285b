"""What a restored state has unsent, against what its former life sent: sent since, still to be sent, or at odds. Pure."""

from collections.abc import Callable, Sequence

from tgdav.crdt.ops import Group, Make, Place
from tgdav.ids import NodeId
from tgdav.replication.pusher import Unsent


class Comparison:
    """What a restored state has unsent, against what its former life sent. Pure."""

    def __init__(self, unsent: Sequence[Unsent]) -> None:
        self._unsent = {each.group.sequence: each for each in unsent}
        self.sent: set[int] = set()
        self.changes: set[bytes] = set()
        self._needs: set[bytes] = set()
        self._moves: set[NodeId] = set()

    @property
    def rest(self) -> list[Unsent]:
        """The groups that were never sent, in the order in which they were applied here."""
        return [each for sequence, each in self._unsent.items() if sequence not in self.sent]

    def take_in(self, group: Group, *, same_life: bool) -> None:
        """Look at the next group of the chain; ``same_life``: of the incarnation that the unsent ones are of."""
        mine = self._unsent.get(group.sequence) if same_life else None
        if mine is not None and mine.group == group:
            self.sent.add(group.sequence)
            return
        each = Unsent(0, group, 0)
        self.changes |= each.changes
        self._needs |= each.needs
        self._moves |= _moved(group)

    def is_clear(self, is_folder: Callable[[NodeId], bool]) -> bool:
        """Whether the rest and the chain give the same tree in either order: they touch different things.

        Moved folders may take along, or make a cycle with, what is not seen from the operations alone.
        """
        rest = self.rest
        if not rest or not self._needs:
            return True
        changes = set[bytes]().union(*(each.changes for each in rest))
        needs = set[bytes]().union(*(each.needs for each in rest))
        if changes & self._needs or needs & self.changes:
            return False
        return not any(map(is_folder, self._moves.union(*(_moved(each.group) for each in rest))))


def _moved(group: Group) -> set[NodeId]:
    """Return the nodes that a group puts elsewhere: deleted, renamed, linked."""
    made = {op.node for op in group.ops if isinstance(op, Make)}
    return {op.node for op in group.ops if isinstance(op, Place)} - made
