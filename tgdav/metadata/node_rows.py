"""Changes of rows of ``nodes`` that nobody waits for: gathered, so that those of one node become one."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import bindparam, update

from tgdav.db import Connection, compiled
from tgdav.db.deferred import register_kind
from tgdav.db.schema import nodes
from tgdav.ids import Inode

_n = nodes.c


class NodeUpdate(NamedTuple):
    """New values of a node's columns, and by how much its link count moves."""

    inode: Inode
    values: Mapping[str, Any]
    links: int = 0


class _NodeUpdates:
    """A later value counts; link counts add up. They come after the rows of new nodes."""

    rank = 1

    def __init__(self) -> None:
        self.number = register_kind(4, self)

    def values(self, row: NodeUpdate) -> Iterable[Any]:
        """Return the new values."""
        return row.values.values()

    def write(self, connection: Connection, rows: Sequence[NodeUpdate]) -> None:
        """Update each node once, those that have the same columns with one statement."""
        merged: dict[Inode, dict[str, Any]] = {}
        for inode, values, links in rows:
            known = merged.setdefault(inode, {"inode": inode, "links": 0})
            known.update(values)
            known["links"] += links
        alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in merged.values():
            alike.setdefault(tuple(sorted(row)), []).append(row)
        for columns, same in alike.items():
            connection.executemany(_update(columns), same)


@lru_cache(maxsize=256)
def _update(columns: tuple[str, ...]) -> str:
    changed = [name for name in columns if name not in ("inode", "links")]
    return compiled(
        update(nodes).where(_n.ino == bindparam("inode")).values(nlink=_n.nlink + bindparam("links")), changed
    )


NODE_UPDATES = _NodeUpdates()
