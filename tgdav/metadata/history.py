"""Which earlier states of rows are kept, and the statements that keep them.

A state that a snapshot pins is always kept. Otherwise only contents of files are kept, as versions; ``tgdav.metadata.pruning``
drops versions beyond the policy. ``HistoryPolicy`` decides and is pure; the functions below it change the ``*_past`` tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, Table, bindparam, column, delete, insert, literal_column, select, update

from tgdav.db import Transaction, compiled
from tgdav.db.schema import entries, entries_past, fields, fields_past, manifests, nodes, nodes_past
from tgdav.ids import Inode, MachineId, Position

BURST_NS = 5_000_000_000
"""Saves of one machine within this time of the first of them are one version."""


NOTHING_PINNED = Position(0)


@dataclass
class HistoryPolicy:
    """``retention_days``: how long deleted entries stay in the trash (0: they are purged at once).
    ``last_pinned`` is the position of the newest snapshot, ``last_snapshot`` its time in ns; 0 without one.
    """

    retention_days: int = 30
    last_pinned: Position = NOTHING_PINNED
    last_snapshot: int = 0

    def pins(self, old: "ContentState") -> bool:
        """Return whether a snapshot shows ``old``."""
        # Junk is in no snapshot.
        return old.since <= self.last_pinned and not old.local

    def is_version(
        self, old: "ContentState", machine: MachineId, time: int, *, same: bool, restores: bool = False
    ) -> bool:
        """Return whether ``old`` becomes a version when ``machine`` writes at ``time`` (ns). ``same``: the content is equal.

        ``restores``: whatever the time.
        """
        # Rewriting the same content, or filling an empty file, makes no version.
        if old.local or same or old.size == 0:
            return False
        return restores or not self.in_burst(old, machine, time)

    def in_burst(self, old: "ContentState", machine: MachineId, time: int) -> bool:
        """Return whether a save by ``machine`` at ``time`` (ns) is of the same burst as the one that wrote ``old``."""
        # A burst never goes on across a snapshot. A negative interval (the clock went back) must not merge two versions.
        is_soon = old.writer == machine and 0 <= time - old.burst < BURST_NS
        # A rename has moved ``since``, and the clock ticks every few milliseconds: better a version too many than one lost.
        return is_soon and old.since > self.last_pinned and old.burst > self.last_snapshot


@dataclass(slots=True)
class ContentState:
    """The columns of a file's row that describe its content. ``burst`` is in ns, ``manifest`` the number of a long manifest."""

    ino: Inode
    kind: int
    size: int
    tag: bytes | None
    since: int
    writer: bytes | None
    burst: int
    version: int
    manifest: int | None
    local: int


def _copy(source: Table, target: Table, *keys: str, logged: ColumnElement[bool], given: Sequence[str] = ()) -> str:
    """Return a statement that copies rows with ``keys`` that existed at ``:pinned`` to the past, until ``:position``.

    ``logged``: the condition that a row is not junk. ``given``: columns whose values are parameters.
    """
    names = [name for name in target.c.keys() if name not in ("until", *given)]  # noqa: SIM118
    more = ["until", *given]
    rows = select(*(source.c[name] for name in names), *(literal_column(f":{name}") for name in more))
    rows = rows.where(*(source.c[key] == bindparam(key) for key in keys), source.c.since <= bindparam("pinned"), logged)
    return compiled(insert(target).from_select([*names, *more], rows))


_IS_JUNK = select(nodes.c.ino).where(nodes.c.local == 1)
_CLOSE_NODE = _copy(nodes, nodes_past, "ino", logged=nodes.c.local == 0, given=["kept"])
_CLOSE_CONTENT = _copy(nodes, nodes_past, "ino", logged=nodes.c.local == 0, given=["kept", "since"])
_CLOSE_ENTRY = _copy(entries, entries_past, "id", logged=entries.c.local == 0)
_CLOSE_FIELD = _copy(fields, fields_past, "ino", "field", logged=fields.c.ino.not_in(_IS_JUNK))
_CLOSE_FIELDS = _copy(fields, fields_past, "ino", logged=fields.c.ino.not_in(_IS_JUNK))
_KEEP = compiled(
    update(nodes_past)
    .where(nodes_past.c.ino == bindparam("inode"), nodes_past.c.until == bindparam("position"))
    .values(kept=bindparam("is_version"))
)
SET_SINCE_OF_FIELDS = compiled(
    update(fields).where(fields.c.ino == bindparam("inode")).values(since=bindparam("position"))
)
"""For a node that becomes junk, or is junk no longer: snapshots show nothing of junk."""
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


def close_node(transaction: Transaction, ino: Inode, position: Position, pinned: int) -> None:
    """Copy a node's row to the past, for snapshots alone, if it existed at ``pinned``."""
    transaction.execute(_CLOSE_NODE, {"ino": ino, "until": position, "pinned": pinned, "kept": 0})


def close_content(transaction: Transaction, old: ContentState, position: Position, *, kept: bool) -> None:
    """Copy a node's row to the past; ``kept``: as a version."""
    # An earlier operation of the same group, such as a rename, may have moved ``since`` to ``position``: a state that begins
    # when it ends would not exist as of the position before. No snapshot shows it, or the row would have been copied then.
    since = min(old.since, position - 1)
    row = {"ino": old.ino, "until": position, "pinned": _ALWAYS, "kept": int(kept), "since": since}
    transaction.execute(_CLOSE_CONTENT, row)


def keep_as_version(transaction: Transaction, ino: Inode, position: Position, *, kept: bool) -> bool:
    """Mark a state that was closed at ``position`` as a version if ``kept``; return whether there is such a state."""
    return int(transaction.execute(_KEEP, {"inode": ino, "position": position, "is_version": int(kept)}).rowcount) > 0


def close_entry(transaction: Transaction, entry: bytes, position: Position, pinned: int) -> None:
    """Copy an entry's row to the past if it existed at ``pinned``."""
    transaction.execute(_CLOSE_ENTRY, {"id": entry, "until": position, "pinned": pinned})


def close_field(transaction: Transaction, ino: Inode, field: bytes, position: Position, pinned: int) -> None:
    """Copy a field's row to the past if it existed at ``pinned``."""
    transaction.execute(_CLOSE_FIELD, {"ino": ino, "field": field, "until": position, "pinned": pinned})


def close_fields(transaction: Transaction, ino: Inode, position: Position, pinned: int) -> None:
    """Copy to the past those rows of a node's fields that existed at ``pinned``."""
    transaction.execute(_CLOSE_FIELDS, {"ino": ino, "until": position, "pinned": pinned})


def drop_manifest(transaction: Transaction, ino: Inode, number: int | None) -> None:
    """Delete a long manifest that neither the node's row nor any of its past rows refers to."""
    # Short manifests are in the node's row.
    if number is not None:
        transaction.execute(_DROP_MANIFEST, {"ino": ino, "no": number})
