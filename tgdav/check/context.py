"""What checking, repairing and the drill work with: the parts of an open volume."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tgdav.blobs.interface import BlobStore
from tgdav.config import Config
from tgdav.content.store import ContentStore
from tgdav.db.database import Database
from tgdav.platform import Platform
from tgdav.replication.replicator import Replicator
from tgdav.vault.headers import HeaderKeeper


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The parts of a volume. ``scratch`` is the directory for the databases of drills; it is empty between them.

    ``sweep`` removes the rows of entries that were purged from the trash.
    """

    database: Database
    store: BlobStore
    headers: HeaderKeeper
    content: ContentStore
    replicator: Replicator
    platform: Platform
    config: Config
    scratch: Path
    sweep: Callable[[], None]
