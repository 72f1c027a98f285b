"""Restores a part of the tree as a snapshot shows it: in bounded changes, continued after a crash, verified at the end."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Lock

import msgspec

from tgdav.content.format.manifest import EMPTY, decode
from tgdav.crypto.keys import NamespaceKeys
from tgdav.db import Connection, Transaction
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import FileSystemError, TgdavError, UsageError
from tgdav.failpoints import failpoint
from tgdav.fs import changes
from tgdav.fs.api import Owner
from tgdav.fs.files.open_file import OpenFile
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.listeners import ChangeListeners
from tgdav.fs.names import JunkPolicy, check_new_name
from tgdav.fs.restore_steps import Removal, State, Step, Steps
from tgdav.ids import EntryId, Inode, NodeId, Position
from tgdav.metadata import as_of, queries, settings, snapshots
from tgdav.metadata.change import Change
from tgdav.metadata.difference import ADDED, NOW, REMOVED, Comparison, Difference, Names, Side, path_of
from tgdav.metadata.restore_plan import Plan, Planner, Scope, then_entry
from tgdav.metadata.types import Attributes, Kind
from tgdav.wording import shown_path

STEPS = 100
"""Steps of one change: with a few operations each, other writers wait some 10 ms."""
PASSES = 8
"""How often a restore begins again because the tree differs after all: somebody else changes it meanwhile."""

PENDING = "restore.pending"
"""The restore that was begun and is not done: a ``_Restore``."""

Progress = Callable[[str, int, int], None]


class Restored(msgspec.Struct, frozen=True):
    """How many paths were brought back, or changed back, and how many were sent to the trash."""

    restored: int
    removed: int


class _Restore(msgspec.Struct, array_like=True, frozen=True):
    """What to restore. ``path`` is that in the snapshot, ``to`` another path of its own for it, else None."""

    id: bytes
    snapshot: bytes
    path: tuple[bytes, ...]
    to: tuple[bytes, ...] | None


class Restorer:
    """Restores parts of one namespace, one at a time. Thread-safe.

    ``may_be_pending``: a restore was interrupted, or it is not known yet.
    """

    def __init__(
        self, open_files: OpenFiles, keys: NamespaceKeys, listeners: ChangeListeners, junk: JunkPolicy
    ) -> None:
        self._context, self._open_files, self._keys = open_files.context, open_files, keys
        self._journal, self._database = self._context.journal, self._context.database
        self._listeners, self._junk = listeners, junk
        self._lock = Lock()
        self.may_be_pending = True

    def differences(self, snapshot: str, path: Names, to: Names | None) -> list[Difference]:
        """Return what a restore would change, as the difference from the snapshot to the present.

        With ``to``, everything is missing. Raises UsageError (no such snapshot or path, or ``to`` exists).
        """
        self._open_files.flush_queued()
        with self._database.reading() as connection:
            wanted = self._request(connection, snapshot, path, to)
            self._refuse_taken(connection, wanted)
            return self._compare(connection, wanted)

    def restore(self, snapshot: str, path: Names, to: Names | None, progress: Progress) -> Restored:
        """Make ``path`` as the snapshot shows it, or with ``to`` a copy of it there; durable when it returns.

        A restore that was interrupted is finished first. Raises UsageError (no such snapshot or path, or ``to`` exists),
        ReadOnly, TgdavError (the tree is being changed all the time), LocalFailure, NoSpace.
        """
        with self._lock:
            self._resume(progress)
            found = self.differences(snapshot, path, to)
            with self._database.reading() as connection:
                wanted = self._request(connection, snapshot, path, to)
            self.may_be_pending = True
            self._journal.change(lambda change: _save(change.transaction, wanted), durable=True)
            failpoint("restore.begun")
            self._run(wanted, progress)
        added = sum(each.change == ADDED for each in found)
        return Restored(len(found) - added, added)

    def resume(self) -> None:
        """Finish the restore that was interrupted, unless another thread does. Raises as ``restore``."""
        if self._lock.acquire(blocking=False):
            try:
                self._resume(lambda _stage, _done, _total: None)
            finally:
                self._lock.release()

    def _resume(self, progress: Progress) -> None:
        with self._database.reading() as connection:
            known = settings.get(connection, PENDING)
            wanted = None if known is None else msgspec.convert(known, _Restore)
            exists = wanted is not None and _position(connection, wanted) is not None
        self.may_be_pending = wanted is not None
        # Without its snapshot there is nothing to restore any more.
        if wanted is not None and exists:
            self._run(wanted, progress)
        elif wanted is not None:
            self._finish()

    # ---- what is asked -------------------------------------------------------------------------------------------

    def _request(self, connection: Connection, snapshot: str, path: Names, to: Names | None) -> _Restore:
        row = snapshots.find(connection, snapshot)
        if row is None:
            raise UsageError(f"there is no snapshot '{snapshot}'", hint="'tgdav snapshots' lists them")
        if _find(_whole(connection, row.position), path) is None:
            raise UsageError(f"the snapshot '{snapshot}' has no {shown_path(path_of(path))}")
        self._check_names(to or ())
        _check_base(_whole(connection, NOW), path if to is None else to)
        return _Restore(self._context.entropy.bytes(16), row.id, path, to)

    def _check_names(self, names: Names) -> None:
        """Raise UsageError if a new path cannot have these names."""
        for number, name in enumerate(names):
            try:
                is_junk = check_new_name(Inode(-1 if number else ROOT_INODE), name, self._junk)
            except FileSystemError as error:
                raise UsageError(f"{shown_path(path_of(names))}: {error.message}") from error
            if is_junk:
                raise UsageError(f"{shown_path(name)} is a name of files that stay on this machine")

    def _refuse_taken(self, connection: Connection, wanted: _Restore) -> None:
        place = wanted.to
        if place is not None and _find(_whole(connection, NOW), place) is not None:
            raise UsageError(f"{shown_path(path_of(place))} exists", hint="give another path, or move it away first")

    # ---- doing it ------------------------------------------------------------------------------------------------

    def _run(self, wanted: _Restore, progress: Progress) -> None:
        try:
            self._repeat(wanted, progress)
        except UsageError:
            self._finish()  # it could not be continued later, either
            raise

    def _repeat(self, wanted: _Restore, progress: Progress) -> None:
        self._open_files.flush_or_fsync()
        for _ in range(PASSES):
            self._make_base(wanted)
            self._pass(wanted, progress)
            with self._database.reading() as connection:
                left = self._compare(connection, wanted, times=True)
            if not left:
                self._finish()
                return
        self._finish()
        where = shown_path(path_of(left[0].names, path_of(wanted.to or wanted.path)))
        raise TgdavError(
            f"the restore is not complete: {where} is being changed", hint="restore again when it is quiet"
        )

    def _finish(self) -> None:
        self._database.writer.run(lambda transaction: settings.remove(transaction, PENDING), durable=True)
        self.may_be_pending = False

    def _make_base(self, wanted: _Restore) -> None:
        """Make the directories above the top that are missing: as they were then, or for a copy plain ones."""
        names = (wanted.path if wanted.to is None else wanted.to)[:-1]

        def work(change: Change) -> list[tuple[Inode, bytes]]:
            made: list[tuple[Inode, bytes]] = []
            parent = changes.require_directory(change, Inode(ROOT_INODE))
            then = _whole(change.connection, _known(change.connection, wanted))
            for number, name in enumerate(names, 1):
                entry = changes.find(change, parent.inode, name)
                if entry is not None:
                    if not entry.attributes.is_directory:
                        raise _no_directory(names[:number])
                    parent = entry.attributes
                    continue
                known = _find(then, names[:number]) if wanted.to is None else None
                mode, owner = (0o755, Owner()) if known is None else (known.mode, Owner(known.uid, known.gid))
                made.append((parent.inode, name))
                node = changes.make(change, self._keys, parent, name, Kind.DIRECTORY, mode, owner)
                parent = changes.made(change, node)
            return made

        for directory, name in self._journal.change(work):
            self._listeners.notify(None, directory, name)

    def _compare(self, connection: Connection, wanted: _Restore, *, times: bool = False) -> list[Difference]:
        """Return what differs from the snapshot to the present, below the top. ``times``: those of directories count too."""
        at = _known(connection, wanted)
        then, now = _whole(connection, at), _whole(connection, NOW)
        top, place = _find(then, wanted.path), _find(now, wanted.path if wanted.to is None else wanted.to)
        assert top is not None, "the request was checked"
        if place is not None:
            return Comparison(Side(connection, at, top), Side(connection, NOW, place), times=times).run()
        missing = [Difference((), REMOVED, top.size)]
        below = as_of.walk(connection, at, top.inode) if top.is_directory else iter(())
        return missing + [Difference(names, REMOVED, entry.attributes.size) for names, entry in below]

    def _scope(self, connection: Connection, wanted: _Restore) -> Scope:
        at, place = _known(connection, wanted), wanted.path if wanted.to is None else wanted.to
        then, now = _whole(connection, at), _whole(connection, NOW)
        top, copies = _find(then, wanted.path), wanted.to is not None
        assert top is not None, "the request was checked"
        if not place:
            return Scope(at, top, _find(now, ()), None, b"", EntryId(b""), copies=False, restore=wanted.id)
        base = _find(now, place[:-1])
        assert base is not None, "it was just made"
        present = None if copies else _find(now, place)
        above = _find(then, wanted.path[:-1]) if wanted.path else None
        row = None if above is None else then_entry(connection, at, above.inode, wanted.path[-1])
        entry = EntryId(top.node) if row is None else row.id
        return Scope(at, top, present, base.node, place[-1], entry, copies=copies, restore=wanted.id)

    def _pass(self, wanted: _Restore, progress: Progress) -> None:
        with self._database.reading() as connection:
            scope = self._scope(connection, wanted)
            plan = Planner(connection, scope).plan()
        steps: list[Step] = [*plan.wants, *map(State, plan.nodes), *map(Removal, plan.removals)]
        done = 0
        made: set[NodeId] = set()
        while done < len(steps):
            batch = steps[done : done + STEPS]
            steps += self._take(scope, plan, batch, made)
            done += len(batch)
            failpoint("restore.batch")
            progress("restoring", done, len(steps))

    def _take(self, scope: Scope, plan: Plan, batch: Sequence[Step], made: set[NodeId]) -> list[Step]:
        """Take some steps in one change; return those that must follow after all others. ``made``: nodes made so far."""
        with ExitStack() as locks:
            # From here to the end of the change nobody writes to them.
            for file in self._files(plan, batch):
                locks.enter_context(file.lock)
                file.flush()

            def work(change: Change) -> Steps:
                steps = Steps(change, scope, plan, made)
                for step in batch:
                    steps.take(step)
                return steps

            taken = self._journal.change(work)
            for ino, (manifest, tag) in taken.written.items():
                found = self._open_files.find(ino)
                if found is not None:
                    found.replaced(decode(manifest) if manifest else EMPTY, tag)
        for each in taken.told:
            self._listeners.notify(*each)
        return taken.later

    def _files(self, plan: Plan, batch: Sequence[Step]) -> list[OpenFile]:
        """Return the open files whose content the steps may replace."""
        if not self._open_files:
            return []
        with self._database.reading() as connection:
            nodes = [plan.nodes[step.then].node for step in batch if isinstance(step, State)]
            inodes = [queries.inode_of(connection, node) for node in nodes]
        found = (self._open_files.find(ino) for ino in inodes if ino is not None)
        return [file for file in found if file is not None]


def _save(transaction: Transaction, wanted: _Restore) -> None:
    settings.put(transaction, PENDING, wanted)


def _position(connection: Connection, wanted: _Restore) -> Position | None:
    """Return the position of the snapshot, None if it was deleted."""
    found = (row.position for row in snapshots.listed(connection) if row.id == wanted.snapshot)
    return next(found, None)


def _known(connection: Connection, wanted: _Restore) -> Position:
    position = _position(connection, wanted)
    if position is None:
        raise UsageError("the snapshot was deleted while it was being restored")
    return position


def _whole(connection: Connection, at: Position) -> Side:
    """Return the whole tree as of a position."""
    root = as_of.attributes(connection, at, Inode(ROOT_INODE))
    assert root is not None, "every state has a root"
    return Side(connection, at, root)


def _check_base(now: Side, place: Names) -> None:
    """Raise UsageError if something else is where a directory above a place must be."""
    for length in range(1, len(place)):
        found = _find(now, place[:length])
        if found is not None and not found.is_directory:
            raise _no_directory(place[:length])


def _no_directory(names: Names) -> UsageError:
    return UsageError(f"{shown_path(path_of(names))} is not a directory", hint="move it away first")


def _find(side: Side, names: Names) -> Attributes | None:
    entry = side.find(names)
    return None if entry is None else entry.attributes
