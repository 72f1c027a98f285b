"""From chunk ids to checked plaintext: finds where each chunk is and reads the nearest copy.

The order is: a row of the database, a staging file, the disk cache, the store. A local copy that fails a check is skipped.
When the last copy fails, and the chunk did not move meanwhile, that is damage. It is not remembered as lost: the next read
tries again.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.content import chunk_table, pack_table
from tgdav.content.chunk_table import ChunkLocation
from tgdav.content.format.chunk import SMALL_CHUNK
from tgdav.content.format.sealer import ChunkSealer
from tgdav.content.pack_table import PackState
from tgdav.content.read.chunk_cache import Deliver
from tgdav.content.read.damage_log import DamageLog
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.staging.pack_file import StagingDirectory
from tgdav.crypto.sealing import OVERHEAD
from tgdav.db.database import Database
from tgdav.errors import BlobMissing, DamageError, LocalFailure, StoreError, TgdavError
from tgdav.ids import BlobId, ChunkId
from tgdav.keyed_locks import KeyedLocks

WINDOW = 256 * 1024
"""Bytes fetched at once around a small chunk: small files tend to be read in the order of their packs."""
_OVERHANG = SMALL_CHUNK + OVERHEAD
"""How far a small chunk that begins in a window may reach beyond it; fetched with the window."""
_MAX_REQUEST = 8 * 1024 * 1024
"""Bytes requested at once."""
_MAX_GAP = 64 * 1024
"""Bytes between two chunks that are cheaper to fetch than another request."""
_ATTEMPTS = 4
"""How often a chunk is looked up again because it moved while it was being read."""
_LOST = "the store has lost a pack"

Data = bytes | memoryview
Failures = list["Failure"]


# ---- which ranges to request (pure) ----------------------------------------------------------------------------------


class Run(msgspec.Struct, frozen=True):
    """Bytes [start, end) of one pack; ``wanted``: the chunks to take from it, by offset."""

    wanted: list[ChunkLocation]
    start: int
    end: int

    def split(self) -> Iterator["Run"]:
        """Yield each chunk as a run of its own."""
        for location in self.wanted:
            yield run_of([location])

    @property
    def is_exact(self) -> bool:
        """Whether it is one chunk and nothing else."""
        return len(self.wanted) == 1 and self.end - self.start == self.wanted[0].stored


def run_of(wanted: list[ChunkLocation]) -> Run:
    """Return the run from the first to the last chunk of ``wanted``."""
    return Run(wanted, wanted[0].offset, wanted[-1].offset + wanted[-1].stored)


def is_small(location: ChunkLocation) -> bool:
    """Whether a chunk probably has small neighbours, so that fetching a window around it pays."""
    return location.length <= SMALL_CHUNK


def coalesced(locations: Iterable[ChunkLocation]) -> Iterator[Run]:
    """Join chunks that are near each other in one pack."""
    joined: list[ChunkLocation] = []
    for location in sorted(locations, key=_by_offset):
        if joined and not _joins(joined, location):
            yield run_of(joined)
            joined = []
        joined.append(location)
    if joined:
        yield run_of(joined)


def _joins(joined: list[ChunkLocation], location: ChunkLocation) -> bool:
    last = joined[-1]
    gap = location.offset - (last.offset + last.stored)
    total = location.offset + location.stored - joined[0].offset
    return location.blob == last.blob and gap <= _MAX_GAP and total <= _MAX_REQUEST


def windows(locations: Iterable[ChunkLocation]) -> dict[tuple[int, int], list[ChunkLocation]]:
    """Group small chunks by (blob, number of the window in which they begin), each group by offset."""
    grouped: dict[tuple[int, int], list[ChunkLocation]] = {}
    for location in sorted(locations, key=_by_offset):
        grouped.setdefault((location.blob or 0, location.offset // WINDOW), []).append(location)
    return grouped


def window(wanted: list[ChunkLocation], size: int) -> Run:
    """Return the window around ``wanted`` as a run, within a pack of ``size`` bytes (0: unknown)."""
    exact = run_of(wanted)
    start = wanted[0].offset // WINDOW * WINDOW
    return Run(wanted, start, max(exact.end, min(start + WINDOW + _OVERHANG, size)))


def _by_offset(location: ChunkLocation) -> tuple[int, int]:
    return location.blob or 0, location.offset


# ---- loading ---------------------------------------------------------------------------------------------------------


class Failure(msgspec.Struct, frozen=True):
    """A chunk that could not be read from ``location``; ``kind``: of the damage, empty if it is none."""

    location: ChunkLocation
    error: TgdavError
    kind: str
    is_whole: bool = False
    """The whole blob is missing."""


class ChunkLoader:
    """Thread-safe. Starts no thread and keeps no plaintext."""

    def __init__(
        self,
        database: Database,
        staging: StagingDirectory,
        store: BlobStore,
        cache: DiskCache,
        sealer: ChunkSealer,
        damage_log: DamageLog,
    ) -> None:
        self.cache = cache
        self.damage_log = damage_log
        self.is_store_local = store.traits.is_local
        self._database = database
        self._staging = staging
        self._store = store
        self._sealer = sealer
        self._windows = KeyedLocks()
        # Copies of a local store would only take disk space; staged packs still enter the cache, as hard links.
        self._fills_cache = bool(cache.max_bytes) and not self.is_store_local

    def load(self, chunks: list[ChunkId], deliver: Deliver) -> None:
        """Deliver for every chunk its plaintext, or a DamageError, StoreError or LocalFailure."""
        locations = list(self._find(chunks, deliver))
        for left in reversed(range(_ATTEMPTS)):
            failures: Failures = []
            self._load_once(locations, deliver, failures)
            if not failures:
                return
            locations = self._moved(failures, deliver, try_again=left > 0)

    def is_remote(self, chunk: ChunkId) -> bool:
        """Return whether a chunk must come from the store."""
        # A chunk of a pending lazy commit is not found, and it is local. So that commit need not be forced, as each
        # read-ahead beside a burst of creates would do.
        with self._database.autocommit_reader(committed=True) as connection:
            location = chunk_table.find(connection, chunk)
        if location is None or location.pack_name is None or location.file is not None or location.blob is None:
            return False
        return not self.cache.holds(location.pack_name, location.offset, location.stored)

    def _find(self, chunks: Iterable[ChunkId], deliver: Deliver) -> Iterator[ChunkLocation]:
        # What is committed is nearly always enough, and it forces no pending lazy commit. A chunk that has moved in a
        # pending one fails at its old location, and is then looked up again.
        with self._database.autocommit_reader(committed=True) as connection:
            found = {chunk: chunk_table.find(connection, chunk) for chunk in chunks}
        if missing := [chunk for chunk, location in found.items() if location is None]:
            with self._database.reading() as connection:
                found |= {chunk: chunk_table.find(connection, chunk) for chunk in missing}
        for chunk, location in found.items():
            if location is not None:
                yield location
            else:
                blob, reason = f"chunk {chunk.hex()}", "a chunk is in no known pack"
                self.damage_log.failed(blob, "database", reason, chunk)
                deliver(chunk, DamageError(reason, blob=blob))

    def _moved(self, failures: Failures, deliver: Deliver, *, try_again: bool) -> list[ChunkLocation]:
        """Return the new locations of the chunks that moved; deliver the errors of the others."""
        moved = []
        with self._database.reading() as connection:
            current = [chunk_table.find(connection, failure.location.id) for failure in failures]
        for failure, location in zip(failures, current, strict=True):
            if try_again and location is not None and _copies(location) != _copies(failure.location):
                moved.append(location)
                continue
            if failure.kind:
                blob, chunk = _blob_of(failure.location), None if failure.is_whole else failure.location.id
                self.damage_log.failed(blob, failure.kind, str(failure.error.message), chunk)
            deliver(failure.location.id, failure.error)
        return moved

    def _load_once(self, locations: Sequence[ChunkLocation], deliver: Deliver, failures: Failures) -> None:
        remote = []
        for location in locations:
            try:
                plaintext = self._read_local(location)
            except DamageError as error:
                failures.append(Failure(location, error, _kind_of(location), is_whole=_is_lost(location)))
            except LocalFailure as error:
                failures.append(Failure(location, error, ""))
            else:
                if plaintext is None:
                    remote.append(location)
                else:
                    self._deliver(location, plaintext, deliver)
        if remote:
            self._load_remote(remote, deliver, failures)

    # ---- copies on this machine ------------------------------------------------------------------------------------------

    def _read_local(self, location: ChunkLocation) -> bytes | None:
        """Return a chunk from this machine, None if only the store has it. Raises when its only copy fails."""
        if location.data is not None:
            return self._open(location, location.data)
        if location.file is not None:
            try:
                sealed = self._staging.read(location.file, location.offset, location.stored)
                if sealed is not None:
                    return self._open(location, sealed)
            except (DamageError, LocalFailure):
                if location.blob is None:
                    raise  # otherwise the store has another copy
        if location.blob is None and not _is_lost(location):
            raise DamageError("a staged pack is gone", blob=_blob_of(location))
        cached = self._read_cached(location)
        if cached is None and location.blob is None:
            raise DamageError(_LOST, blob=_blob_of(location))
        return cached

    def _read_cached(self, location: ChunkLocation, *, counted: bool = True) -> bytes | None:
        if location.pack_name is None:
            return None
        sealed = self.cache.get(location.pack_name, location.offset, location.stored, counted=counted)
        if sealed is None:
            return None
        try:
            return self._open(location, sealed)
        except DamageError:
            self.cache.drop(location.pack_name, location.offset, location.stored)
            return None

    # ---- copies in the store ---------------------------------------------------------------------------------------------

    def _load_remote(self, locations: list[ChunkLocation], deliver: Deliver, failures: Failures) -> None:
        # Without a cache the rest of a window would be thrown away.
        small = [location for location in locations if self._fills_cache and is_small(location)]
        large = [location for location in locations if not (self._fills_cache and is_small(location))]
        for run in coalesced(large):
            self._fetch(run, deliver, failures)
        for key, wanted in windows(small).items():
            # The second thread that wants a window finds it in the cache.
            with self._windows.holding(key):
                self._fetch_window(wanted, deliver, failures)

    def _fetch_window(self, wanted: list[ChunkLocation], deliver: Deliver, failures: Failures) -> None:
        missing = []
        for location in wanted:
            plaintext = self._read_cached(location, counted=False)
            if plaintext is None:
                missing.append(location)
            else:
                self._deliver(location, plaintext, deliver)
        if missing:
            self._fetch(window(missing, self._pack_size(missing[0])), deliver, failures)

    def _pack_size(self, location: ChunkLocation) -> int:
        assert location.pack is not None
        with self._database.reading() as connection:
            row = pack_table.pack(connection, location.pack)
        return row.size if row is not None else 0

    def _fetch(self, run: Run, deliver: Deliver, failures: Failures) -> None:
        """Read a run from the store; if that fails a check of the store, read its chunks one by one."""
        first = run.wanted[0]
        assert first.blob is not None
        try:
            data = self._store.read(BlobId(first.blob), run.start, run.end - run.start)
        except DamageError as error:
            if not run.is_exact:
                for one in run.split():
                    self._fetch(one, deliver, failures)
                return
            failures.append(Failure(first, DamageError(error.message, blob=_blob_of(first)), "pack"))
        except BlobMissing:
            missing = DamageError(_LOST, blob=_blob_of(first))
            failures.extend(Failure(location, missing, "pack", is_whole=True) for location in run.wanted)
        except StoreError as error:
            failures.extend(Failure(location, error, "") for location in run.wanted)
        else:
            self._open_run(run, data, deliver, failures)

    def _open_run(self, run: Run, data: bytes, deliver: Deliver, failures: Failures) -> None:
        """Check and deliver the chunks of a run, and cache the good ones."""
        view = memoryview(data)
        good = []
        for location in run.wanted:
            start = location.offset - run.start
            try:
                plaintext = self._open(location, view[start : start + location.stored])
            except DamageError as error:
                failures.append(Failure(location, error, "pack"))
            else:
                good.append(location)
                self._deliver(location, plaintext, deliver)
        if self._fills_cache:
            self._fill_cache(run, view, good)

    def _fill_cache(self, run: Run, view: memoryview, good: list[ChunkLocation]) -> None:
        is_window = is_small(run.wanted[0])
        if is_window and len(good) == len(run.wanted):
            _put(self.cache, run, run, view)
            return
        for location in good:
            _put(self.cache, run, run_of([location]), view)

    def _deliver(self, location: ChunkLocation, plaintext: bytes, deliver: Deliver) -> None:
        deliver(location.id, plaintext)
        self.damage_log.read_well(_blob_of(location), location.id)

    def _open(self, location: ChunkLocation, sealed: Data) -> bytes:
        return self._sealer.open(location.binding, sealed, _blob_of(location))


def _put(cache: DiskCache, run: Run, part: Run, view: memoryview) -> None:
    name = run.wanted[0].pack_name
    assert name is not None
    cache.put(name, part.start, view[part.start - run.start : part.end - run.start])


def _copies(location: ChunkLocation) -> tuple[object, ...]:
    """Return what changes when a chunk gets another copy."""
    return location.pack, location.offset, location.file, location.blob


def _is_lost(location: ChunkLocation) -> bool:
    """Whether a chunk's pack was stored once and its blob is unknown: a join did not find it in the store."""
    return location.blob is None and location.state is not None and location.state >= PackState.STORED


def _kind_of(location: ChunkLocation) -> str:
    """Return the kind of damage if a chunk's last local copy fails."""
    if location.pack_name is None:
        return "database"
    return "pack" if _is_lost(location) else "staging"


def _blob_of(location: ChunkLocation) -> str:
    return "database" if location.pack_name is None else location.pack_name.hex()
