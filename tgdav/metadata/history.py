"""Which earlier states of rows are kept, and the statements that keep them.

A state that a snapshot pins is always kept. Otherwise only contents of files are kept, as versions, the newest few of each
file. ``HistoryPolicy`` decides and is pure; the functions below it change the ``*_past`` tables.
"""

from dataclasses import dataclass

from sqlalchemy import Select, Table, bindparam, column, delete, insert, literal_column, select

from tgdav.db import Transaction, compiled
from tgdav.db.schema import entries, entries_past, fields, fields_past, manifests, nodes, nodes_past
from tgdav.ids import Inode, MachineId, Position

BURST_NS = 5_000_000_000
"""Saves of one machine less than this apart are one version."""


NOTHING_PINNED = Position(0)


@dataclass
class HistoryPolicy:
    """``max_versions``: earlier contents of a file that are kept (0: none). ``last_pinned``: position of the newest snapshot."""

    max_versions: int = 10
    last_pinned: Position = NOTHING_PINNED

    def keeps(self, old: "ContentState", machine: MachineId, time: int, *, same: bool) -> bool:
        """Return whether ``old`` is kept as a version if ``machine`` writes at ``time`` (ns). ``same``: the content is equal."""
        if old.since <= self.last_pinned:
            return True
        # Rewriting the same content, or filling an empty file, makes no version.
        if old.local or same or self.max_versions == 0 or old.size == 0:
            return False
        # A negative interval (the clock went back) must not merge two versions.
        return not (old.writer == machine and 0 <= time - old.written < BURST_NS)


@dataclass(slots=True)
class ContentState:
    """The columns of a file's row that describe its content. ``written`` is in ns, ``manifest`` the number of a long manifest."""

    ino: Inode
    kind: int
    size: int
    tag: bytes | None
    since: int
    writer: bytes | None
    written: int
    manifest: int | None
    local: int


def _copy(source: Table, target: Table, *keys: str) -> str:
    """Return a statement that copies rows with ``keys`` that existed at ``:pinned`` to the past, until ``:position``."""
    names = [name for name in target.c.keys() if name != "until"]  # noqa: SIM118
    rows = select(*(source.c[name] for name in names), literal_column(":position"))
    rows = rows.where(*(source.c[key] == bindparam(key) for key in keys), source.c.since <= bindparam("pinned"))
    return compiled(insert(target).from_select([*names, "until"], rows))


_CLOSE_NODE = _copy(nodes, nodes_past, "ino")
_CLOSE_ENTRY = _copy(entries, entries_past, "id")
_CLOSE_FIELD = _copy(fields, fields_past, "ino", "field")
_p = nodes_past.c
_BEYOND = compiled(
    select(_p.until, _p.manifest)
    .where(_p.ino == bindparam("ino"), _p.since > bindparam("pinned"))
    .order_by(_p.until.desc())
    # SQLite has no OFFSET without LIMIT; -1 is no limit.
    .limit(literal_column("-1"))
    .offset(bindparam("keep"))
)
_DROP_PAST = compiled(delete(nodes_past).where(_p.ino == bindparam("ino"), _p.until == bindparam("before")))
_NAMES_MANIFEST: Select[tuple[int]] = select(literal_column("1")).where(
    column("ino") == bindparam("ino"), column("manifest") == bindparam("no")
)
_DROP_MANIFEST = compiled(
    delete(manifests).where(
        manifests.c.no == bindparam("no"),
        ~_NAMES_MANIFEST.select_from(nodes).exists(),
        ~_NAMES_MANIFEST.select_from(nodes_past).exists(),
    )
)

_ALWAYS = 1 << 62
"""As ``pinned``: later than any row's ``since``."""


def close_node(transaction: Transaction, ino: Inode, position: Position, pinned: int = _ALWAYS) -> bool:
    """Copy a node's row to the past if it existed at ``pinned``; return whether it did."""
    params = {"ino": ino, "position": position, "pinned": pinned}
    return int(transaction.execute(_CLOSE_NODE, params).rowcount) > 0


def close_entry(transaction: Transaction, entry: bytes, position: Position, pinned: int) -> None:
    """Copy an entry's row to the past if it existed at ``pinned``."""
    transaction.execute(_CLOSE_ENTRY, {"id": entry, "position": position, "pinned": pinned})


def close_field(transaction: Transaction, ino: Inode, field: bytes, position: Position, pinned: int) -> None:
    """Copy a field's row to the past if it existed at ``pinned``."""
    transaction.execute(_CLOSE_FIELD, {"ino": ino, "field": field, "position": position, "pinned": pinned})


def drop_versions(transaction: Transaction, ino: Inode, policy: HistoryPolicy) -> None:
    """Delete a file's oldest versions beyond the policy's number, except those that a snapshot may pin."""
    params = {"ino": ino, "pinned": policy.last_pinned, "keep": policy.max_versions}
    # A manifest may be shared by several versions, so each is dropped only if no row refers to it.
    for until, manifest in transaction.all(_BEYOND, params):
        transaction.execute(_DROP_PAST, {"ino": ino, "before": until})
        drop_manifest(transaction, ino, manifest)


def drop_manifest(transaction: Transaction, ino: Inode, number: int | None) -> None:
    """Delete a long manifest that neither the node's row nor any of its past rows refers to."""
    # Short manifests are in the node's row.
    if number is not None:
        transaction.execute(_DROP_MANIFEST, {"ino": ino, "no": number})
