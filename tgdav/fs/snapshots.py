"""Snapshots as users see them: made after what is finished was flushed, listed with counts, deleted."""

from collections.abc import Iterator
from contextlib import suppress

from tgdav.crdt.ops import Snapshot, Unsnapshot, is_snapshot_name
from tgdav.db import Connection
from tgdav.db.schema import ROOT_INODE
from tgdav.errors import DamageError, StoreError, UsageError
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.history import TOPS
from tgdav.fs.listeners import ChangeListeners
from tgdav.ids import Inode, Position, SnapshotId
from tgdav.metadata import as_of, snapshots
from tgdav.metadata.change import Change
from tgdav.metadata.difference import NOW, Comparison, Difference, Side
from tgdav.metadata.snapshot_counts import SnapshotCounter
from tgdav.metadata.snapshots import SnapshotRow
from tgdav.metadata.sweep import sweep, sweep_all
from tgdav.metadata.types import Attributes


class Snapshots:
    """The snapshots of one namespace. Thread-safe, except for ``upkeep``."""

    def __init__(self, open_files: OpenFiles, listeners: ChangeListeners) -> None:
        self._context, self._open_files, self._listeners = open_files.context, open_files, listeners
        self._journal, self._database = self._context.journal, self._context.database
        self._counter = SnapshotCounter(self._database)

    def make(self, name: str) -> SnapshotRow:
        """Make a snapshot of the present state, durably.

        It contains every file that was closed before this call. A file that is being written shows its last committed content.
        Raises UsageError (the name is taken, or cannot be a name), ReadOnly, LocalFailure, NoSpace.
        """
        if not is_snapshot_name(name):
            raise UsageError(
                f"'{name}' cannot be the name of a snapshot", hint="use 1 to 255 bytes of text without '/'"
            )
        self._flush_finished()
        identity = SnapshotId(self._context.entropy.bytes(16))

        def work(change: Change) -> None:
            if snapshots.find(change.connection, name) is not None:
                raise UsageError(
                    f"there is a snapshot '{name}' already", hint="delete it first, or choose another name"
                )
            settled = not self._open_files.has_unflushed()
            change.emit(Snapshot(identity, name, change.time, settled))

        self._journal.change(work, durable=True)
        self._tell(name)
        return self.find(name)

    def _tell(self, name: str) -> None:
        self._listeners.notify(None, TOPS[b".snapshots"], name.encode())

    def _flush_finished(self) -> None:
        self._open_files.flush_queued()
        # What cannot be flushed now stays as it is, and the snapshot shows what was committed last.
        with suppress(DamageError, StoreError):
            self._open_files.flush_finished(self._context.clock.monotonic())

    def delete(self, name: str) -> None:
        """Delete a snapshot, durably. Raises UsageError (there is none of this name), ReadOnly, LocalFailure, NoSpace."""

        def work(change: Change) -> None:
            found = snapshots.find(change.connection, name)
            if found is None:
                raise unknown(name)
            change.emit(Unsnapshot(found.id))

        self._journal.change(work, durable=True)
        self._tell(name)

    def listed(self) -> list[SnapshotRow]:
        """Return all snapshots, the oldest first."""
        with self._database.reading() as connection:
            return snapshots.listed(connection)

    def find(self, name: str) -> SnapshotRow:
        """Return the snapshot of this name. Raises UsageError if there is none."""
        with self._database.reading() as connection:
            found = snapshots.find(connection, name)
        if found is None:
            raise unknown(name)
        return found

    def diff(self, first: str, second: str | None) -> list[Difference]:
        """Return what differs between two snapshots, or between one and the present, sorted by path.

        Raises UsageError for an unknown name, LocalFailure, DamageError.
        """
        if second is None:
            self._flush_finished()
        with self._database.reading() as connection:
            sides = [Side(connection, at, _root(connection, at)) for at in self._positions(connection, first, second)]
            return Comparison(*sides).run()

    def _positions(self, connection: Connection, *names: str | None) -> Iterator[Position]:
        for name in names:
            found = None if name is None else snapshots.find(connection, name)
            if name is not None and found is None:
                raise unknown(name)
            yield NOW if found is None else found.position

    def sweep(self) -> None:
        """Delete all rows that no snapshot needs any more: they still name contents."""
        sweep_all(self._database)

    def upkeep(self) -> bool:
        """Do a part of the work that follows changes of snapshots; return whether there may be more.

        It counts files and bytes, and deletes rows that no snapshot needs any more.
        """
        return sweep(self._database) or self._counter.step()


def _root(connection: Connection, at: Position) -> Attributes:
    root = as_of.attributes(connection, at, Inode(ROOT_INODE))
    assert root is not None, "every state has a root"
    return root


def unknown(name: str) -> UsageError:
    """Return the error for a snapshot that does not exist."""
    return UsageError(f"there is no snapshot '{name}'", hint="'tgdav snapshots' lists them")
