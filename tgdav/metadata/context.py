"""What the operations of one group have in common while they are applied."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from tgdav.crdt.ops import Make
from tgdav.db import Transaction, compiled
from tgdav.db.schema import nodes
from tgdav.ids import ContentTag, Inode, MachineId, Position
from tgdav.metadata.types import Kind

_LARGEST_INODE = compiled(select(func.coalesce(func.max(nodes.c.ino), 0)))


@dataclass(slots=True)
class Context:
    """Whose group is applied, and when: ``stamp`` orders, ``time`` (ns) is shown, ``position`` is the place in our log.

    ``empty_tag`` is the tag of a file without content. ``own``: an unknown folder is a mistake, not a gap in the log.
    ``fresh`` holds ids that are known to be new, so that nothing is looked up for them; ``touched`` the nodes, and
    ``touched_fields`` the fields, whose state before this group is settled: kept, or of no interest.
    """

    machine: MachineId
    position: Position
    stamp: int
    time: int
    empty_tag: ContentTag
    own: bool = False
    fresh: set[bytes] = field(default_factory=set)
    touched: set[Inode] = field(default_factory=set)
    touched_fields: set[tuple[Inode, bytes]] = field(default_factory=set)


class InodeCounter:
    """Hands out numbers for new nodes. A number given to a change that fails is not used again by this process."""

    def __init__(self, transaction: Transaction) -> None:
        row = transaction.one(_LARGEST_INODE)
        self._last = int(row[0]) if row else 0

    def next(self) -> Inode:
        """Return a number that no node has."""
        self._last += 1
        return Inode(self._last)


@dataclass(slots=True)
class NewNode:
    """A node whose row is not written yet. ``row`` maps the columns of ``nodes``."""

    ino: Inode
    row: dict[str, Any]

    @classmethod
    def of(cls, op: Make, ino: Inode, context: Context, *, local: bool) -> "NewNode":
        """Return what ``op`` makes: without a name, and as a file without content."""
        is_file = op.kind == Kind.FILE
        times = dict.fromkeys(("mtime", "ctime", "btime", "atime"), op.time)
        row = {
            "ino": ino,
            "id": op.node,
            "since": context.position,
            "kind": op.kind,
            "mode": op.mode,
            "uid": op.uid,
            "gid": op.gid,
            "rdev": op.rdev,
            "size": len(op.target),
            **times,
            "tag": context.empty_tag if is_file else None,
            "content": op.target or None,
            "manifest": None,
            "writer": context.machine if is_file else None,
            "written": context.time,
            "nlink": 2 if op.kind == Kind.DIRECTORY else 0,
            "dirty": 0,
            "local": int(local),
        }
        return cls(ino, row)
