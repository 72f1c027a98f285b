"""The local database: SQLite through SQLCipher, its schema, and the one writer with its durability barrier.

``Database.open`` gives ``reading()`` for consistent reads from any thread and ``writer.run(work, durable=, sync=)``, the only
way to change anything.
"""

from tgdav.db.connection import Connection
from tgdav.db.database import Database
from tgdav.db.deferred import Inserts
from tgdav.db.statements import compiled
from tgdav.db.transaction import Transaction
from tgdav.db.writer import Syncable, Writer

__all__ = ["Connection", "Database", "Inserts", "Syncable", "Transaction", "Writer", "compiled"]
