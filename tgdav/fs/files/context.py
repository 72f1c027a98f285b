"""What the open files of one file system share."""

from pathlib import Path

from tgdav.clock import Clock
from tgdav.content.store import ContentStore
from tgdav.crypto.keys import NamespaceKeys
from tgdav.crypto.machine import MachineIdentity
from tgdav.db.database import Database
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import ReadOnly
from tgdav.fs.files.sequential_buffer import BufferBudget
from tgdav.metadata.journal import Journal


def require_writable(journal: Journal) -> None:
    """Raises ReadOnly where another machine became the writer."""
    if journal.read_only is not None:
        raise ReadOnly(journal.read_only)


class OpenFileContext:
    """What open files work with; made once by the file system."""

    def __init__(
        self,
        journal: Journal,
        database: Database,
        content: ContentStore,
        keys: NamespaceKeys,
        identity: MachineIdentity,
        folder: Path,
        *,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
    ) -> None:
        self.journal, self.database, self.content, self.keys = journal, database, content, keys
        self.identity, self.folder, self.clock, self.entropy, self.disk = identity, folder, clock, entropy, disk
        self.buffer_budget = BufferBudget()
        self.last_flush = object()
