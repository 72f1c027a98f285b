"""From the configuration to a blob store."""

import threading
from collections.abc import Callable

import msgspec

from tgdav.blobs.contract import BlobStore
from tgdav.blobs.counting import CountingStore
from tgdav.blobs.directory import DirectoryStore
from tgdav.blobs.retry import RetryPolicy, RetryStore
from tgdav.config import Config, Places
from tgdav.errors import UsageError
from tgdav.volume.seams import Seams

_PATIENCE = RetryPolicy(give_up_after=5.0)
"""A folder that is away is away at once and comes back by hand: who asked is told soon, background work tries again."""


class Stores(msgspec.Struct, frozen=True):
    """The store in its wrappers: ``store`` is what to use, the others tell how it goes."""

    store: BlobStore
    retrying: RetryStore
    counting: CountingStore
    stopping: threading.Event


def open_store(config: Config, places: Places, seams: Seams, *, create: bool = False) -> Stores:
    """Return the configured store; with ``create`` an embedded one is made where there is none."""
    backend = config.backend()
    if backend != "directory":
        raise UsageError(
            f"the {backend} store is not built in this version",
            hint="set storage.backend: directory in the configuration",
        )
    make: Callable[..., DirectoryStore] = DirectoryStore.create if create else DirectoryStore
    path = places.for_config(config).store
    inner = make(path, disk=seams.disk, clock=seams.clock, entropy=seams.entropy)
    counting = CountingStore(inner)
    stopping = threading.Event()
    retrying = RetryStore(
        counting, clock=seams.clock, entropy=seams.entropy, wait=stopping.wait, stop=stopping, policy=_PATIENCE
    )
    return Stores(retrying, retrying, counting, stopping)
