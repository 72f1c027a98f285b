"""The trash of a namespace: what is in it, putting it back, deleting it for good."""

import os
import re
from collections.abc import Callable

import msgspec

from tgdav.crdt.ops import Place, Purge
from tgdav.crypto.keys import NamespaceKeys
from tgdav.db import Connection, Database
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import NotFound
from tgdav.fs import changes
from tgdav.fs.api import Owner
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.listeners import ChangeListeners
from tgdav.ids import EntryId, Inode, NodeId
from tgdav.metadata import purging, queries
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


class Trash:
    """Works on the deleted entries of one namespace. Thread-safe."""

    def __init__(
        self,
        journal: Journal,
        database: Database,
        keys: NamespaceKeys,
        open_files: OpenFiles,
        listeners: ChangeListeners,
    ) -> None:
        self._journal, self._database, self._keys = journal, database, keys
        self._open_files, self._listeners = open_files, listeners

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
            if progress is not None:
                progress(done)
        self._database.writer.sync()
        self.sweep()
        return done

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
        return rows > 0

    def _sweep_step(self, change: Change, after: purging.Key) -> purging.Swept:
        return purging.sweep(change.transaction, change.changes, self._is_open, after=after, most=PURGED_AT_ONCE)

    def _is_open(self, inode: Inode) -> bool:
        return self._open_files.find(inode) is not None


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
