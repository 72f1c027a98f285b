"""From chunk ids to checked plaintext: where each chunk is, the nearest copy first.

A row of the database, the staging folder, the disk cache, the store. A local copy that fails a check is passed over; when
the last copy fails, and no other place became known meanwhile, that is damage. Nothing is remembered as lost: the next
read tries again.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.content import chunk_table, pack_table
from tgdav.content.chunk_table import ChunkPlace
from tgdav.content.format.chunk import SMALL_CHUNK
from tgdav.content.format.sealer import ChunkSealer
from tgdav.content.pack_table import PackState
from tgdav.content.read.chunk_cache import Settle
from tgdav.content.read.damage_log import Health
from tgdav.content.read.disk_cache import DiskCache
from tgdav.content.staging.pack_file import Staging
from tgdav.crypto.sealing import OVERHEAD
from tgdav.db.database import Database
from tgdav.errors import BlobMissing, DamageError, LocalFailure, StoreError, TgdavError
from tgdav.ids import BlobId, ChunkId
from tgdav.keyed_locks import KeyedLocks

_LOST = "the store has lost a pack"
_PASSES = 4
"""How often a chunk is looked up anew because it moved while it was being read."""

Data = bytes | memoryview
Failures = list["Failure"]


WINDOW = 256 * 1024
"""Bytes fetched at once around a small chunk: small files tend to be opened in the order of their packs."""
_OVERHANG = SMALL_CHUNK + OVERHEAD
"""How far a small chunk that begins in a window may reach beyond it; fetched with it."""
_MOST = 8 * 1024 * 1024
"""Bytes asked for at once."""
_GAP = 64 * 1024
"""Dead bytes between two chunks that are cheaper to fetch than another request."""


class Run(msgspec.Struct, frozen=True):
    """Bytes [start, end) of one pack; ``places``: the chunks wanted from it, by offset."""

    places: list[ChunkPlace]
    start: int
    end: int

    def alone(self) -> Iterator["Run"]:
        """Go through the chunks as runs of their own, exactly as long as each."""
        for place in self.places:
            yield run_of([place])

    @property
    def is_exact(self) -> bool:
        """Whether it is one chunk and nothing else."""
        return len(self.places) == 1 and self.end - self.start == self.places[0].stored


def run_of(places: list[ChunkPlace]) -> Run:
    """Return the run from the first to the last of ``places``."""
    return Run(places, places[0].offset, places[-1].offset + places[-1].stored)


def is_small(place: ChunkPlace) -> bool:
    """Whether a chunk is likely to lie among small ones, and a window to hold some of them."""
    return place.length <= SMALL_CHUNK


def coalesced(places: Iterable[ChunkPlace]) -> Iterator[Run]:
    """Join chunks that lie side by side in one pack."""
    joined: list[ChunkPlace] = []
    for place in sorted(places, key=lambda place: (place.blob or 0, place.offset)):
        if joined and not _goes_on(joined, place):
            yield run_of(joined)
            joined = []
        joined.append(place)
    if joined:
        yield run_of(joined)


def _goes_on(joined: list[ChunkPlace], place: ChunkPlace) -> bool:
    last = joined[-1]
    gap = place.offset - (last.offset + last.stored)
    total = place.offset + place.stored - joined[0].offset
    return place.blob == last.blob and gap <= _GAP and total <= _MOST


def windows(places: Iterable[ChunkPlace]) -> dict[tuple[int, int], list[ChunkPlace]]:
    """Group small chunks by (blob, number of the window that they begin in), each group by offset."""
    grouped: dict[tuple[int, int], list[ChunkPlace]] = {}
    for place in sorted(places, key=lambda place: (place.blob or 0, place.offset)):
        grouped.setdefault((place.blob or 0, place.offset // WINDOW), []).append(place)
    return grouped


def window(places: list[ChunkPlace], size: int) -> Run:
    """Return the run that is the window around ``places``, within a pack of ``size`` bytes (0: not known)."""
    exact = run_of(places)
    start = places[0].offset // WINDOW * WINDOW
    return Run(places, start, max(exact.end, min(start + WINDOW + _OVERHANG, size)))


class Failure(msgspec.Struct, frozen=True):
    """A chunk that could not be had from ``place``; ``kind``: of the damage, empty if it is none."""

    place: ChunkPlace
    error: TgdavError
    kind: str
    is_whole: bool = False
    """The whole blob is missing."""


class ChunkLoader:
    """Thread-safe. Makes no thread and keeps no plaintext."""

    def __init__(
        self,
        database: Database,
        staging: Staging,
        store: BlobStore,
        cache: DiskCache,
        sealer: ChunkSealer,
        health: Health,
    ) -> None:
        self._database = database
        self._staging = staging
        self._store = store
        self._cache = cache
        self._sealer = sealer
        self._health = health
        self._windows = KeyedLocks()
        self.keeps_copies = bool(cache.max_bytes) and not store.traits.is_local

    def load(self, chunks: list[ChunkId], settle: Settle) -> None:
        """Settle every chunk: its plaintext, or DamageError, StoreError or LocalFailure."""
        places = list(self._find(chunks, settle))
        for left in reversed(range(_PASSES)):
            failures: Failures = []
            self._pass(places, settle, failures)
            if not failures:
                return
            places = self._moved(failures, settle, try_again=left > 0)

    def is_far(self, chunk: ChunkId) -> bool:
        """Whether a chunk must come from the store."""
        with self._database.reading() as connection:
            place = chunk_table.find(connection, chunk)
        if place is None or place.pack_name is None or place.file is not None or place.blob is None:
            return False
        return not self._cache.holds(place.pack_name, place.offset, place.stored)

    def _find(self, chunks: Iterable[ChunkId], settle: Settle) -> Iterator[ChunkPlace]:
        with self._database.reading() as connection:
            found = [(chunk, chunk_table.find(connection, chunk)) for chunk in chunks]
        for chunk, place in found:
            if place is not None:
                yield place
            else:
                blob, reason = f"chunk {chunk.hex()}", "a chunk is in no known pack"
                self._health.failed(blob, "database", reason, chunk)
                settle(chunk, DamageError(reason, blob=blob))

    def _moved(self, failures: Failures, settle: Settle, *, try_again: bool) -> list[ChunkPlace]:
        """Return the new places of the chunks that have one; settle the others."""
        again = []
        with self._database.reading() as connection:
            fresh = [chunk_table.find(connection, failure.place.id) for failure in failures]
        for failure, place in zip(failures, fresh, strict=True):
            if try_again and place is not None and _where(place) != _where(failure.place):
                again.append(place)
                continue
            if failure.kind:
                blob, chunk = _blob_of(failure.place), None if failure.is_whole else failure.place.id
                self._health.failed(blob, failure.kind, str(failure.error.message), chunk)
            settle(failure.place.id, failure.error)
        return again

    def _pass(self, places: Sequence[ChunkPlace], settle: Settle, failures: Failures) -> None:
        far = []
        for place in places:
            try:
                plaintext = self._near(place)
            except DamageError as error:
                failures.append(Failure(place, error, _kind_of(place), is_whole=_is_lost(place)))
            except LocalFailure as error:
                failures.append(Failure(place, error, ""))
            else:
                if plaintext is None:
                    far.append(place)
                else:
                    self._settle_well(place, plaintext, settle)
        self._far(far, settle, failures)

    def _near(self, place: ChunkPlace) -> bytes | None:
        """Return a chunk from this machine, None if only the store has it. Raises when its only copy fails."""
        if place.data is not None:
            return self._opened(place, place.data)
        if place.file is not None:
            try:
                sealed = self._staging.read(place.file, place.offset, place.stored)
                if sealed is not None:
                    return self._opened(place, sealed)
            except (DamageError, LocalFailure):
                if place.blob is None:
                    raise
        if place.blob is None and not _is_lost(place):
            raise DamageError("a staged pack is gone", blob=_blob_of(place))
        cached = self._cached(place)
        if cached is None and place.blob is None:
            raise DamageError(_LOST, blob=_blob_of(place))
        return cached

    def _cached(self, place: ChunkPlace, *, counted: bool = True) -> bytes | None:
        if place.pack_name is None:
            return None
        sealed = self._cache.get(place.pack_name, place.offset, place.stored, counted=counted)
        if sealed is None:
            return None
        try:
            return self._opened(place, sealed)
        except DamageError:
            self._cache.drop(place.pack_name, place.offset, place.stored)
            return None

    def _far(self, places: list[ChunkPlace], settle: Settle, failures: Failures) -> None:
        small = [place for place in places if self.keeps_copies and is_small(place)]
        for run in coalesced(place for place in places if not (self.keeps_copies and is_small(place))):
            self._fetch(run, settle, failures)
        for key, wanted in windows(small).items():
            # Whoever comes second finds the window in the cache.
            with self._windows.holding(key):
                self._fetch_window(wanted, settle, failures)

    def _fetch_window(self, wanted: list[ChunkPlace], settle: Settle, failures: Failures) -> None:
        missing = []
        for place in wanted:
            plaintext = self._cached(place, counted=False)
            if plaintext is None:
                missing.append(place)
            else:
                self._settle_well(place, plaintext, settle)
        if missing:
            self._fetch(window(missing, self._size(missing[0])), settle, failures)

    def _size(self, place: ChunkPlace) -> int:
        assert place.pack is not None
        with self._database.reading() as connection:
            row = pack_table.pack(connection, place.pack)
        return row.size if row is not None else 0

    def _fetch(self, run: Run, settle: Settle, failures: Failures) -> None:
        """Take a run from the store. What it does not give as a whole is asked for piece by piece."""
        first = run.places[0]
        assert first.blob is not None
        try:
            data = self._store.read(BlobId(first.blob), run.start, run.end - run.start)
        except DamageError as error:
            if not run.is_exact:
                for one in run.alone():
                    self._fetch(one, settle, failures)
                return
            failures.append(Failure(first, DamageError(error.message, blob=_blob_of(first)), "pack"))
        except BlobMissing:
            missing = DamageError(_LOST, blob=_blob_of(first))
            failures.extend(Failure(place, missing, "pack", is_whole=True) for place in run.places)
        except StoreError as error:
            failures.extend(Failure(place, error, "") for place in run.places)
        else:
            self._take(run, data, settle, failures)

    def _take(self, run: Run, data: bytes, settle: Settle, failures: Failures) -> None:
        """Check and settle the chunks of a run, and keep what is good in the cache."""
        view = memoryview(data)
        good = []
        for place in run.places:
            start = place.offset - run.start
            try:
                plaintext = self._opened(place, view[start : start + place.stored])
            except DamageError as error:
                failures.append(Failure(place, error, "pack"))
            else:
                good.append(place)
                self._settle_well(place, plaintext, settle)
        if self.keeps_copies:
            self._keep(run, view, good)

    def _keep(self, run: Run, view: memoryview, good: list[ChunkPlace]) -> None:
        is_window = is_small(run.places[0])
        if is_window and len(good) == len(run.places):
            _put(self._cache, run, run, view)
            return
        for place in good:
            _put(self._cache, run, run_of([place]), view)

    def _settle_well(self, place: ChunkPlace, plaintext: bytes, settle: Settle) -> None:
        settle(place.id, plaintext)
        self._health.read_well(_blob_of(place), place.id)

    def _opened(self, place: ChunkPlace, sealed: Data) -> bytes:
        return self._sealer.open(place.id, place.epoch, place.codec, place.length, sealed, _blob_of(place))


def _put(cache: DiskCache, run: Run, part: Run, view: memoryview) -> None:
    name = run.places[0].pack_name
    assert name is not None
    cache.put(name, part.start, view[part.start - run.start : part.end - run.start])


def _where(place: ChunkPlace) -> tuple[object, ...]:
    return place.pack, place.offset, place.file, place.blob


def _is_lost(place: ChunkPlace) -> bool:
    """Whether a chunk's pack was in the store once, and no blob of it is known: so it is after a join that did not find it."""
    return place.blob is None and place.state is not None and place.state >= PackState.STORED


def _kind_of(place: ChunkPlace) -> str:
    """Return the kind of damage that a chunk's last local copy is."""
    if place.pack_name is None:
        return "database"
    return "pack" if _is_lost(place) else "staging"


def _blob_of(place: ChunkPlace) -> str:
    return "database" if place.pack_name is None else place.pack_name.hex()
