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
from tgdav.fs.departures import Departures
from tgdav.fs.files.sequential_buffer import BufferBudget
from tgdav.metadata.journal import Journal


class OpenFileContext:
    """The services that open files use; the file system makes it once.

    ``overlay_directory`` holds the overlays. ``last_flush`` is replaced by a new object each time a file is committed.
    """

    def __init__(
        self,
        journal: Journal,
        database: Database,
        content: ContentStore,
        keys: NamespaceKeys,
        identity: MachineIdentity,
        overlay_directory: Path,
        *,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
    ) -> None:
        self.journal, self.database, self.content, self.keys = journal, database, content, keys
        self.identity, self.overlay_directory = identity, overlay_directory
        self.clock, self.entropy, self.disk = clock, entropy, disk
        self.departures = Departures()
        self.buffer_budget = BufferBudget()
        # An object, not a counter: comparing identities needs no lock.
        self.last_flush = object()


def require_writable(journal: Journal) -> None:
    """Raise ReadOnly if another machine has become the writer."""
    if journal.read_only is not None:
        raise ReadOnly(journal.read_only)
