"""Makes the contents of a file that leaves its name versions of the file that takes the name.

That is so if a file is renamed over another (``Place.because`` of the deleted entry), and if a name is filled again moments after
a file was renamed away from it (``Place.after``). ``tgdav.metadata.versions`` says what the rows of ``predecessors`` mean.
"""

from enum import Enum
from typing import NamedTuple

from sqlalchemy import bindparam, select

from tgdav.crdt.ops import Place
from tgdav.db import Transaction, compiled
from tgdav.db.schema import PURGED_INODE, TRASH_INODE, entries, nodes
from tgdav.ids import EntryId, Inode
from tgdav.metadata.history import ContentState
from tgdav.metadata.node_rows import NODE_UPDATES, NodeRows
from tgdav.metadata.types import FILE

_LONG_AGO = 1
"""As the beginning of a burst, ns. In rows of programs that did not keep it, that is 0."""

_n, _e = nodes.c, entries.c
_CONTENT = (_n.ino, _n.kind, _n.size, _n.tag, _n.since, _n.writer, _n.burst, _n.version, _n.manifest, _n.local)
_BY_ENTRY = compiled(
    select(*_CONTENT, _n.written, _e.parent).join_from(entries, nodes, _n.ino == _e.ino).where(_e.id == bindparam("id"))
)
_BY_NODE = compiled(select(*_CONTENT, _n.written).where(_n.id == bindparam("id")))
_ADD = "INSERT OR IGNORE INTO predecessors (entry, position, ino, id) VALUES (?, ?, ?, ?)"
_INHERIT = """INSERT OR IGNORE INTO predecessors (entry, position, ino, id)
SELECT ?, position, ino, id FROM predecessors WHERE entry = ?"""
_LAST_KEPT = "SELECT max(until) FROM nodes_past WHERE ino = ? AND kept = 1"
_IS_TAKEN = """SELECT 1 FROM predecessors p WHERE p.entry = ? AND p.ino = ?
AND NOT EXISTS (SELECT 1 FROM nodes_past n WHERE n.ino = p.ino AND n.kept = 1 AND n.until >= p.position)"""
_RENUMBER = "UPDATE nodes_past SET version = version + ? WHERE ino = ? AND kept = 1"


class Outcome(Enum):
    """What becomes of an entry that another one replaces."""

    DELETED = 0
    """It goes to the trash."""
    VERSION = 1
    """A content of its file is a version of the other's file: it is in the trash, and not shown there."""
    NOTHING = 2
    """No content of its file is a version: it is purged."""


class _File(NamedTuple):
    """A file as it is before the operation; ``written`` is when its content was written, ns."""

    content: ContentState
    written: int

    @property
    def is_logged(self) -> bool:
        return self.content.kind == FILE and not self.content.local


def replace(rows: NodeRows, op: Place) -> Outcome:
    """Before ``op`` deletes an entry: make its file's contents versions of the file that ``op.because`` names."""
    successor = op.because
    if successor is None or successor == op.entry:
        return Outcome.DELETED
    rows.flush()
    new, old = _named(rows.transaction, successor), _named(rows.transaction, op.entry)
    if new is None or old is None or new.content.ino == old.content.ino:
        return Outcome.DELETED
    # The backup of an editor is a version already when it is deleted.
    if rows.transaction.one(_IS_TAKEN, (successor, old.content.ino)) is not None:
        return Outcome.VERSION
    return _take(rows, successor, new, op.entry, old)


def follow(rows: NodeRows, op: Place) -> None:
    """When ``op`` fills a name: make the contents of the file that ``op.after`` names now versions of the new file."""
    if op.after is None or op.after == op.entry:
        return
    rows.flush()
    row = rows.transaction.one(_BY_NODE, {"id": op.node})
    new, old = None if row is None else _File(ContentState(*row[:-1]), row[-1]), _named(rows.transaction, op.after)
    if new is not None and old is not None and new.is_logged and new.content.ino != old.content.ino:
        _take(rows, op.entry, new, op.after, old)


def _named(transaction: Transaction, entry: EntryId) -> _File | None:
    """Return the file that an entry names, None if there is none, it is in the trash, or never logged."""
    row = transaction.one(_BY_ENTRY, {"id": entry})
    if row is None or row[-1] in (TRASH_INODE, PURGED_INODE):
        return None
    found = _File(ContentState(*row[:-2]), row[-2])
    return found if found.is_logged else None


def _take(rows: NodeRows, successor: EntryId, new: _File, entry: EntryId, old: _File) -> Outcome:
    transaction, context = rows.transaction, rows.context
    before, after = old.content, new.content
    # A file that was written before the other one's burst began is no save of that burst.
    in_burst = new.written >= before.burst and rows.policy.in_burst(before, context.machine, context.time)
    is_version = before.size > 0 and before.tag != after.tag and not in_burst
    if is_version:
        transaction.execute(_ADD, (successor, context.position, before.ino, entry))
        # The next save of that node keeps this content: it must not count as one of the same burst.
        transaction.defer(NODE_UPDATES, (before.ino, {"burst": _LONG_AGO}, 0))
        outcome = Outcome.VERSION
    else:
        outcome = _inherit(transaction, successor, entry, before.ino)
    _renumber(rows, after, before.version if is_version else before.version - 1, before.burst if in_burst else None)
    context.versioned.add(after.ino)
    return outcome


def _inherit(transaction: Transaction, successor: EntryId, entry: EntryId, ino: Inode) -> Outcome:
    """Make versions of the successor what was a version of the file already."""
    (last,) = transaction.one(_LAST_KEPT, (ino,)) or (None,)
    # Also if it has contents of its own: a row that ends with those would hide what the entry took over later.
    transaction.execute(_INHERIT, (successor, entry))
    if last is None:
        return Outcome.NOTHING
    transaction.execute(_ADD, (successor, last, ino, entry))
    return Outcome.VERSION


def _renumber(rows: NodeRows, new: ContentState, before: int, burst: int | None) -> None:
    """Let the numbers of the new file's contents follow ``before``; with ``burst``, it continues that burst."""
    values = {} if burst is None else {"burst": burst}
    if before > 0:
        values["version"] = new.version + before
        # Earlier contents of a temporary file have numbers of their own.
        if new.version > 1:
            rows.transaction.execute(_RENUMBER, (before, new.ino))
    if values:
        rows.transaction.defer(NODE_UPDATES, (new.ino, values, 0))
