"""The barrier's descriptor on SQLite's write-ahead log."""

import os
from contextlib import suppress
from pathlib import Path

from tgdav.disk import Disk
from tgdav.errors import LocalFailure

_GROWTH = bytes(1 << 20)


class WriteAheadLog:
    """Makes committed transactions durable by syncing the ``-wal`` file.

    One sync after a commit is enough, wherever SQLite stands in the log. With ``synchronous=NORMAL`` SQLite syncs the log
    before it folds pages back, syncs the database before it starts the log anew, and syncs the log's new header before the
    first frames that follow it. So at any moment each committed page is in the synced database or in this file, and the
    frames before it in this file are intact.
    """

    def __init__(self, database: Path, disk: Disk) -> None:
        """Open the log of the connected ``database`` and make its name durable. Raises LocalFailure."""
        self._disk = disk
        path = database.with_name(database.name + "-wal")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            disk.sync_directory(database.parent)
        except OSError as error:
            raise LocalFailure(f"the local database's log could not be opened: {error.strerror}") from error
        self._grown = 0

    def sync(self) -> None:
        """Return when all that is committed survives a power cut. Raises OSError. To be called in the writer's turn."""
        self._grow_ahead()
        self._disk.sync(self._descriptor)

    def _grow_ahead(self) -> None:
        """Once SQLite has made the file longer, put room for the next commits behind its end.

        A sync of a file that grew also syncs its new size, which takes more than twice as long. SQLite writes over the
        zeros, and reads no further than the last valid frame.
        """
        size = os.fstat(self._descriptor).st_size
        if size <= self._grown:
            return
        self._grown = size + len(_GROWTH)
        # On a full disk there is no room ahead, and nothing is lost; whatever else is wrong, the sync says.
        with suppress(OSError):
            self._disk.write(self._descriptor, _GROWTH, size)

    def close(self) -> None:
        """Close the descriptor; the log carries no locks that this could drop."""
        os.close(self._descriptor)
