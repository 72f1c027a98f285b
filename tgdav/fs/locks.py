"""Keeping WebDAV locks over a restart; what they mean is the WebDAV front end's business."""

from tgdav.clock import Clock
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.fs.api import LockRecord
from tgdav.ids import Inode
from tgdav.metadata.types import nearest_time


class LockTable:
    """The ``locks`` table."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def load(self) -> list[LockRecord]:
        """Return the locks kept, expired ones left out."""
        with self._database.reading() as connection:
            rows = connection.all(
                "SELECT token, ino, expires, data FROM locks WHERE expires > ?", (self._clock.now_ns(),)
            )
        return [LockRecord(token, Inode(inode), expires, data) for token, inode, expires, data in rows]

    def save(self, record: LockRecord) -> None:
        """Keep a lock, durably, and forget those that expired."""
        row = (record.token, record.inode, nearest_time(record.expires), record.data)
        now = (self._clock.now_ns(),)

        def work(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM locks WHERE expires <= ?", now)
            transaction.execute("INSERT OR REPLACE INTO locks (token, ino, expires, data) VALUES (?, ?, ?, ?)", row)

        self._database.writer.run(work, durable=True)

    def delete(self, token: str) -> None:
        """Forget a lock."""
        self._database.writer.run(lambda t: t.execute("DELETE FROM locks WHERE token = ?", (token,)))
