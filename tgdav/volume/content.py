"""Putting the content store together, as the configuration wants it."""

from tgdav.blobs.interface import BlobStore
from tgdav.config import Config, StatePaths
from tgdav.content.format.sealer import ContentIdentity
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.read.reader import ReadSettings
from tgdav.content.staging.context import ContentSettings
from tgdav.content.store import ContentStore
from tgdav.db.database import Database
from tgdav.platform import Platform
from tgdav.replication.identity import LogIdentity


def open_content(
    places: StatePaths, config: Config, platform: Platform, database: Database, store: BlobStore, log: LogIdentity
) -> ContentStore:
    """Open the content store of a namespace. Raises LocalFailure, NoSpace, UsageError."""
    chunk, cache = config.chunk, config.cache
    return ContentStore.open(
        database,
        store,
        places.state / "staging",
        ContentIdentity(vault_keys=log.vault_keys, keys=log.keys, machine=log.machine_id, incarnation=log.incarnation),
        ContentSettings(
            chunk_size=chunk.chunk_size,
            average_size=chunk.average_size,
            compression_enabled=chunk.compression_enabled,
            dedup_enabled=chunk.dedup_enabled,
            max_concurrent_uploads=config.telegram.max_concurrent_uploads,
            staging_bytes=_staging_bytes(config),
        ),
        clock=platform.clock,
        entropy=platform.entropy,
        disk=platform.disk,
        cache=DiskCache(places.cache, cache.max_bytes, disk=platform.disk, clock=platform.clock),
        read_settings=ReadSettings(prefetch_enabled=cache.prefetch_enabled, prefetch_count=cache.prefetch_count),
    )


def _staging_bytes(config: Config) -> int | None:
    wanted = config.staging.max_size_gb
    return None if wanted is None else int(wanted * 1024**3)
