"""The trash of a namespace: what is in it, putting it back, deleting it for good."""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tgdav.clock import Clock
from tgdav.content.format.manifest import decode
from tgdav.crdt.clocks import stamp_time_ns
from tgdav.crdt.ops import Place, Purge
from tgdav.crypto.keys import NamespaceKeys
from tgdav.db import Connection, Database
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import NotFound, TgdavError
from tgdav.failpoints import failpoint
from tgdav.fs import changes
from tgdav.fs.api import Owner
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.listeners import ChangeListeners
from tgdav.ids import ChunkId, EntryId, Inode, NodeId
from tgdav.metadata import purging, queries, settings
from tgdav.metadata import trash as trash_queries
from tgdav.metadata.change import Change
from tgdav.metadata.journal import Journal
from tgdav.metadata.trash import DeletedEntry, FormerPlaces, with_suffix
from tgdav.metadata.types import DIRECTORY, Attributes

PURGED_AT_ONCE = 200
"""Entries of one Purge, and rows of one step of the sweep: other writers wait for a step, some 10 ms."""
_ID = re.compile(rb"[0-9a-f]{32}")
_RESTORED = b" (restored)"
_ALL = 2**63 - 1
_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
MOST_AHEAD = 30 * _DAY
"""How far ahead of the last look the clock is believed without waiting."""
_NEWEST_STAMP = "SELECT max(stamp) FROM chains"
_NEW_DIRECTORY_MODE = 0o755


class TrashItem(msgspec.Struct, frozen=True):
    """An entry in the trash. ``path`` is where ``restore`` would put it, ``former`` where it was; ``bytes`` is all below it."""

    entry: EntryId
    path: bytes
    former: bytes
    deleted: int
    bytes: int


class _Target(msgspec.Struct, frozen=True):
    """Where an entry goes: ``name`` in ``directory``, or in the last of the directories ``missing`` to be made below it.

    ``former`` is the path that the entry had.
    """

    directory: Inode
    above: tuple[bytes, ...]
    missing: tuple[tuple[bytes, NodeId], ...]
    name: bytes
    former: bytes

    @property
    def path(self) -> bytes:
        """The path from the root."""
        return _path(*self.above, *(name for name, _ in self.missing), self.name)


class Look(NamedTuple):
    """When what expired was last purged, by the wall clock, and for how long that has been put off since, both in ns."""

    wall: int
    waited: int


def believe_clock(last: Look, now: int, ran: int) -> tuple[bool, Look]:
    """Return whether what expired by the clock may be purged, and the look to remember. Pure.

    ``now`` is the wall clock, ``ran`` how long the program ran since the last look, in ns. A clock that was set years ahead must
    not empty the trash. From outside that looks as if the program had not run for years, so neither is believed before the
    program has run for a day with that clock.
    """
    if now - last.wall <= MOST_AHEAD or last.waited + ran >= _DAY:
        return True, Look(now, 0)
    return False, Look(last.wall, last.waited + ran)


class Trash:
    """Works on the deleted entries of one namespace. Thread-safe."""

    def __init__(
        self,
        journal: Journal,
        database: Database,
        keys: NamespaceKeys,
        open_files: OpenFiles,
        listeners: ChangeListeners,
        clock: Clock,
    ) -> None:
        self._journal, self._database, self._keys = journal, database, keys
        self._open_files, self._listeners = open_files, listeners
        self._clock = clock
        self._looked: float | None = None
        self._temporary: set[ChunkId] = set()

    def items(self) -> list[TrashItem]:
        """Return what is in the trash, the newest first."""
        with self._database.reading() as connection:
            places = FormerPlaces(connection)
            return [
                _item(connection, deleted, _target(connection, places, deleted))
                for deleted in trash_queries.deleted_entries(connection)
            ]

    def restore(self, wanted: bytes) -> bytes:
        """Put an entry back, by its id or its path (the newest of several); return its path, durably. Raises NotFound.

        It goes below its parent's present path, else where it was, and directories that are missing are made. If its name is
        taken, it gets another.
        """
        with self._database.reading() as connection:
            entry = _find(connection, wanted)

        def work(change: Change) -> tuple[bytes, list[tuple[Inode | None, Inode, bytes]]]:
            return self._restore(change, entry)

        path, changed = self._journal.change(work, durable=True)
        for inode, parent, name in changed:
            self._listeners.notify(inode, parent, name)
        return path

    def _restore(self, change: Change, entry: EntryId) -> tuple[bytes, list[tuple[Inode | None, Inode, bytes]]]:
        connection = change.connection
        deleted = trash_queries.deleted_entry(connection, entry)
        node = None if deleted is None else queries.attributes(connection, deleted.inode)
        if deleted is None or node is None:
            raise NotFound("it is not in the trash any more")
        target = _target(connection, FormerPlaces(connection), deleted)
        changed: list[tuple[Inode | None, Inode, bytes]] = []
        parent = changes.require_directory(change, target.directory)
        for name, former in target.missing:
            changed.append((None, parent.inode, name))
            parent = self._make_directory(change, parent, name, former)
        change.emit(Place(entry, node.node, parent.node, target.name))
        changed.append((node.inode, parent.inode, target.name))
        return target.path, changed

    def _make_directory(self, change: Change, parent: Attributes, name: bytes, former: NodeId) -> Attributes:
        """Make a directory anew, with the mode and owner that it had if that is known."""
        known = queries.attributes_of(change.connection, former)
        mode = _NEW_DIRECTORY_MODE if known is None else known.mode
        like = parent if known is None else known
        made = changes.make(change, self._keys, parent, name, DIRECTORY, mode, Owner(like.uid, like.gid))
        return changes.made(change, made)

    def empty(self, before: int | None = None, progress: Callable[[int], None] | None = None) -> int:
        """Delete for good what was deleted before a time (ns; None: all); return how many entries that was, durably.

        ``progress`` is called with the number so far.
        """
        done, limit = 0, _ALL if before is None else before
        while purged := self._journal.change(lambda change: _purge(change, limit)):
            done += purged
            failpoint("trash.purged")
            if progress is not None:
                progress(done)
        self._database.writer.sync()
        self.sweep()
        return done

    def purge_expired(self) -> None:
        """Purge what has been in the trash for longer than the policy says; call it periodically.

        Raises TgdavError while the clock is not believed: it has gone far ahead since the last call.
        """
        now, monotonic = self._clock.now_ns(), self._clock.monotonic()
        ran = 0 if self._looked is None else round((monotonic - self._looked) * _SECOND)
        self._looked = monotonic
        with self._database.reading() as connection:
            days = settings.get(connection, settings.TRASH_POLICY, self._journal.history.retention_days)
            last = _last_look(connection, now)
            is_due = bool(trash_queries.deleted_before(connection, now - days * _DAY, 1))
        is_believed, look = believe_clock(last, now, ran)
        self._database.writer.run(lambda transaction: settings.put(transaction, settings.TRASH_LOOK, look))
        if is_due and (is_believed or not days):
            self.empty(now - days * _DAY)
        elif is_due:
            raise TgdavError(
                f"the clock is {(now - last.wall) // _DAY} days ahead of the last time that the trash was looked at",
                hint="what expired is deleted once tgdav has run for a day with this clock",
            )

    def sweep(self) -> None:
        """Remove the rows of purged entries, except of files that are open: they stay until a later sweep."""
        with self._database.reading() as connection:
            is_pending = purging.is_pending(connection)
        # A step may purge entries that sort before it, so it is repeated from the start while that does something.
        while is_pending:
            is_pending = self._sweep_once()

    def _sweep_once(self) -> bool:
        after: purging.Key | None = purging.FIRST
        rows = 0
        while after is not None:
            step = self._journal.change(lambda change, after=after: self._sweep_step(change, after))  # type: ignore[misc]
            after, rows = step.after, rows + step.rows
            failpoint("trash.swept")
        return rows > 0

    def _sweep_step(self, change: Change, after: purging.Key) -> purging.Swept:
        swept = purging.sweep(change.transaction, change.changes, self._is_open, after=after, most=PURGED_AT_ONCE)
        for manifest in swept.temporary:
            self._temporary.update(decode(manifest).chunk_ids())
        return swept

    def take_temporary(self) -> set[ChunkId]:
        """Return chunks that temporary files named, which the sweep has removed since the last call. Others may name them too."""
        taken, self._temporary = self._temporary, set()
        return taken

    def _is_open(self, inode: Inode) -> bool:
        return self._open_files.find(inode) is not None


def _last_look(connection: Connection, now: int) -> Look:
    """Return the last look; before the first one, the time of the newest change that was sent."""
    found = settings.get(connection, settings.TRASH_LOOK)
    if found is not None:
        return Look(*found)
    row = connection.one(_NEWEST_STAMP)
    return Look(stamp_time_ns(row[0]) if row is not None and row[0] else now, 0)


def chunks_of_local_files(connection: Connection) -> set[ChunkId]:
    """Return the chunks that files name which stay on this machine."""
    return {chunk for manifest in queries.local_contents(connection) for chunk in decode(manifest).chunk_ids()}


def _purge(change: Change, before: int) -> int:
    found = trash_queries.deleted_before(change.connection, before, PURGED_AT_ONCE)
    if found:
        change.emit(Purge(tuple(deleted.entry for deleted in found)))
    return len(found)


def _item(connection: Connection, deleted: DeletedEntry, target: _Target) -> TrashItem:
    size = trash_queries.size_of(connection, deleted.inode)
    return TrashItem(deleted.entry, target.path, target.former, deleted.deleted, size)


def _find(connection: Connection, wanted: bytes) -> EntryId:
    """Return the entry in the trash with this id, else the newest with this path. Raises NotFound."""
    if _ID.fullmatch(wanted):
        found = trash_queries.deleted_entry(connection, EntryId(bytes.fromhex(wanted.decode())))
        if found is not None:
            return found.entry
    path = b"/" + wanted.strip(b"/")
    places = FormerPlaces(connection)
    for deleted in trash_queries.deleted_entries(connection):
        target = _target(connection, places, deleted)
        if path in (target.former, target.path):
            return deleted.entry
    raise NotFound(f"nothing in the trash has the id or path {os.fsdecode(wanted)}")


def _target(connection: Connection, places: FormerPlaces, deleted: DeletedEntry) -> _Target:
    place = places.of(deleted.parent)
    names = tuple(name for name, _ in place.path)
    former = _path(*names, deleted.name)
    if place.inode is not None:
        name = _free_name(connection, place.inode, deleted.name)
        return _Target(place.inode, names, (), name, former)
    directory, missing = Inode(ROOT_INODE), list(place.path)
    above: tuple[bytes, ...] = ()
    while missing:
        found = queries.find_entry(connection, directory, missing[0][0])
        if found is None or not found.attributes.is_directory:
            break
        directory, above = found.attributes.inode, (*above, missing.pop(0)[0])
    if not missing:
        return _Target(directory, above, (), _free_name(connection, directory, deleted.name), former)
    first = (_free_name(connection, directory, missing[0][0]), missing[0][1])
    return _Target(directory, above, (first, *missing[1:]), deleted.name, former)


def _free_name(connection: Connection, directory: Inode, name: bytes) -> bytes:
    """Return a name, or if it is taken ``NAME (restored)``, ``NAME (restored 2)``…"""
    free, number = name, 1
    while queries.find_entry(connection, directory, free) is not None:
        free = with_suffix(name, _RESTORED if number == 1 else f" (restored {number})".encode())
        number += 1
    return free


def _path(*names: bytes) -> bytes:
    return b"/" + b"/".join(names)
