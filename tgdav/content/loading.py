"""From chunk ids to checked plaintext: where each chunk is, the nearest copy first.

A row of the database, the staging folder, the disk cache, the store. A local copy that fails a check is passed over; when
the last copy fails, and no other place became known meanwhile, that is damage. Nothing is remembered as lost: the next
read tries again.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.content import index, pack_rows
from tgdav.content.cache import DiskCache
from tgdav.content.health import Health
from tgdav.content.memory import Settle
from tgdav.content.ranges import Run, coalesced, is_small, run_of, window, windows
from tgdav.content.sealer import ChunkSealer
from tgdav.content.staging import Staging
from tgdav.content.types import ChunkPlace, PackState
from tgdav.db.database import Database
from tgdav.errors import BlobMissing, DamageError, LocalFailure, StoreError, TgdavError
from tgdav.ids import BlobId, ChunkId
from tgdav.keyed_locks import KeyedLocks

_LOST = "the store has lost a pack"
_PASSES = 4
"""How often a chunk is looked up anew because it moved while it was being read."""

Data = bytes | memoryview
Failures = list["Failure"]


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
            place = index.find(connection, chunk)
        if place is None or place.pack_name is None or place.file is not None or place.blob is None:
            return False
        return not self._cache.holds(place.pack_name, place.offset, place.stored)

    def _find(self, chunks: Iterable[ChunkId], settle: Settle) -> Iterator[ChunkPlace]:
        with self._database.reading() as connection:
            found = [(chunk, index.find(connection, chunk)) for chunk in chunks]
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
            fresh = [index.find(connection, failure.place.id) for failure in failures]
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
            row = pack_rows.pack(connection, place.pack)
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
