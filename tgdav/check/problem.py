"""A broken invariant of the local database, with examples of the rows that break it."""

from collections.abc import Iterable

import msgspec

from tgdav.ids import Inode

MOST_EXAMPLES = 10_000


NOT_IN_SNAPSHOTS = 1 << 62
"""As ``since``: a later position than any, so that no snapshot shows the state."""


class State(msgspec.Struct, frozen=True):
    """A state of a node: from position ``since`` until, not including, ``until``; None: it is the present one."""

    ino: Inode
    since: int = NOT_IN_SNAPSHOTS
    until: int | None = None


class Problem(msgspec.Struct):
    """``count`` rows break an invariant in the way that ``what`` says; ``examples`` are the first of them."""

    what: str
    count: int = 0
    examples: list[State] = []

    @property
    def reason(self) -> str:
        """The problem as text."""
        return f"{self.count} {self.what}"


class Problems:
    """Problems by what they are."""

    def __init__(self) -> None:
        self._found: dict[str, Problem] = {}

    def add(self, what: str, *examples: State) -> None:
        """Add a row that breaks an invariant."""
        problem = self._found.setdefault(what, Problem(what, 0, []))
        problem.count += 1
        if problem.count <= MOST_EXAMPLES:
            problem.examples.extend(examples)

    def add_all(self, what: str, inodes: Iterable[Inode | None]) -> None:
        """Add a row for each inode; None for a row that belongs to no node."""
        for ino in inodes:
            self.add(what, *([] if ino is None else [State(ino)]))

    def all(self) -> list[Problem]:
        """Return what was found."""
        return list(self._found.values())
