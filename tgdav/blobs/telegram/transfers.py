"""Upload a blob in parts and download ranges of it, with many requests in flight.

An upload sends parts of 512 KiB (the largest allowed), then the message that makes a document of them. Up to 10 MiB
are sent as a small file with its MD5, more as a big file (https://core.telegram.org/api/files#uploading-files).

A download requests windows of up to 1 MiB. With ``precise``, offset and length are multiples of 1 KiB, and a request
must not cross a multiple of 1 MiB (https://core.telegram.org/api/files#downloading-files).
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import msgspec
from telethon.tl import functions, types

from tgdav.blobs.interface import Source
from tgdav.blobs.telegram.errors import FileRefused, NoResponse, OtherDc, ReferenceStale, ShortRead
from tgdav.blobs.telegram.flood_waits import RequestWindow
from tgdav.blobs.telegram.messages import MIME_TYPE, BlobDocument, file_name
from tgdav.blobs.telegram.session import PendingResponse, Session
from tgdav.blobs.validation import check_source_end, read_source
from tgdav.errors import BlobMissing, DamageError, StoreUnavailable
from tgdav.ids import BlobName

Item = TypeVar("Item")

ATTEMPTS = 6
"""After this many failures of one request in a row the transfer gives up; whoever asked for it may go on later."""
SILENT_ATTEMPTS = 2
"""After so many without any answer in a row too: each takes the whole patience, and the second went down a new line."""
LONGEST_REST = 30.0
"""Seconds of rest asked for by Telegram that are waited here; a longer one ends the transfer."""
FIRST_REST = 0.1


class RequestPipeline(Generic[Item]):
    """Runs ``begin`` for each item with at most the window's width under way, and ``finish`` with the item and its answer.

    Both run on the caller's thread and in the items' order. ``mend`` may put an error right (True: ask again at once).
    """

    def __init__(
        self,
        session: Session,
        window: RequestWindow,
        begin: Callable[[Item], PendingResponse],
        finish: Callable[[Item, Any], None],
        mend: Callable[[Item, StoreUnavailable], bool] | None = None,
    ) -> None:
        self._session = session
        self._begin = begin
        self._finish = finish
        self._mend = mend
        self._window = window
        self._silences = 0
        self._flight: deque[tuple[Item, PendingResponse]] = deque()

    def run(self, items: Iterable[Item]) -> None:
        """Go through all items. Raises what cannot be mended; nothing stays under way then."""
        left = iter(items)
        failures = 0
        try:
            while True:
                self._fill(left)
                if not self._flight:
                    return
                item, answer = self._flight.popleft()
                try:
                    self._finish(item, self._session.result(answer))
                    failures = self._silences = 0
                    self._window.on_success()
                except StoreUnavailable as error:
                    failures += 1
                    self._repair(item, error, failures)
                    self._flight.appendleft((item, self._begin(item)))
        finally:
            for _, answer in self._flight:
                answer.cancel()

    def _fill(self, left: "Iterable[Item]") -> None:
        if len(self._flight) >= self._window.width:
            return
        for item in left:
            self._flight.append((item, self._begin(item)))
            if len(self._flight) >= self._window.width:
                return

    def _repair(self, item: Item, error: StoreUnavailable, failures: int) -> None:
        """Get ready to ask for an item again, with all that failed in the meantime; or raise."""
        self._silences += isinstance(error, NoResponse)
        if error.retry_after is not None:
            self._window.on_flood_wait(error.retry_after)
        if failures >= ATTEMPTS or self._silences >= SILENT_ATTEMPTS or (error.retry_after or 0) > LONGEST_REST:
            raise error
        if not (self._mend and self._mend(item, error)):
            self._session.pause(error.retry_after or FIRST_REST * 2.0 ** (failures - 1))
        for place, (other, answer) in enumerate(self._flight):
            if answer.done() and isinstance(answer.exception(), StoreUnavailable):
                self._flight[place] = (other, self._begin(other))


PART_BYTES = 512 * 1024
MOST_PARTS = 4000
SMALL_FILE_BYTES = 10 * 1024 * 1024
_EMPTY = b"\0"
Progress = Callable[[int], None] | None


def random_id(name: BlobName, generation: int) -> int:
    """Return the number that makes sending the same blob twice one message.

    ``generation`` counts the messages of this name that were deleted: their numbers are used up.
    """
    digest = hashlib.blake2b(name + generation.to_bytes(4, "big"), digest_size=8, person=b"tgdav random id").digest()
    return int.from_bytes(digest, "big", signed=True) or 1


class BlobUpload:
    """One blob's way to the server. May be run again after StoreUnavailable: parts that arrived are not sent again."""

    def __init__(self, session: Session, name: BlobName, source: Source, file_id: int) -> None:
        self._session = session
        self._name = name
        self._source = source
        self._file_id = file_id
        self._sent: set[int] = set()
        self._digest: str = ""

    def fits(self, source: Source) -> bool:
        """Whether a source has surely the bytes that were sent: the same object, or the same closed file."""
        mine = self._source
        return source is mine or (source.path is not None and source.path == mine.path and source.size == mine.size)

    @property
    def _is_big(self) -> bool:
        return self._source.size > SMALL_FILE_BYTES

    @property
    def parts(self) -> int:
        """How many parts it has."""
        return max(1, -(-self._source.size // PART_BYTES))

    def start_over(self, file_id: int) -> None:
        """Forget what was sent."""
        self._file_id = file_id
        self._sent.clear()

    def lose(self, part: int) -> None:
        """A part is not there any more."""
        self._sent.discard(part)

    def run(self, progress: Progress) -> None:
        """Send all parts that are not there. The source's and the progress callback's errors pass through."""
        if not self._is_big:
            self._digest = self._whole_digest()
        done = sum(self._length(part) for part in self._sent)

        def finish(part: int, arrived: Any) -> None:
            nonlocal done
            if not arrived:
                raise StoreUnavailable("Telegram did not take a part")
            self._sent.add(part)
            done += self._length(part)
            if progress:
                progress(done)

        if progress and (not self._source.size or len(self._sent) == self.parts):
            progress(done)
        missing = [part for part in range(self.parts) if part not in self._sent]
        RequestPipeline(self._session, self._session.window("upload"), self._begin, finish).run(missing)
        check_source_end(self._name, self._source)

    def _length(self, part: int) -> int:
        return min(PART_BYTES, self._source.size - part * PART_BYTES)

    def _read(self, part: int) -> bytes:
        if not self._source.size:
            return _EMPTY
        return read_source(self._name, self._source, part * PART_BYTES, self._length(part))

    def _whole_digest(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        for part in range(self.parts):
            digest.update(self._read(part))
        return digest.hexdigest()

    def _begin(self, part: int) -> PendingResponse:
        data = self._read(part)
        if self._is_big:
            return self._session.submit(functions.upload.SaveBigFilePartRequest(self._file_id, part, self.parts, data))
        return self._session.submit(functions.upload.SaveFilePartRequest(self._file_id, part, data))

    def message(self, peer: Any, label: str, generation: int) -> Any:
        """Return the request that makes the parts a blob."""
        called = file_name(self._name, self._source.size)
        if self._is_big:
            file: Any = types.InputFileBig(self._file_id, self.parts, called)
        else:
            file = types.InputFile(self._file_id, self.parts, called, self._digest)
        media = types.InputMediaUploadedDocument(
            file, MIME_TYPE, [types.DocumentAttributeFilename(called)], force_file=True
        )
        return functions.messages.SendMediaRequest(
            peer, media, label, random_id=random_id(self._name, generation), silent=True
        )


UNIT = 1024
WINDOW = 1024 * 1024
_SHORT_READS = 3
_RENEWALS = 3


def windows(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield the (offset, limit) of the requests that cover a range."""
    position = offset - offset % UNIT
    end = offset + length
    while position < end:
        limit = min(WINDOW - position % WINDOW, end - position)
        limit += -limit % UNIT
        yield position, limit
        position += limit


class BlobDownload:
    """One read. ``refetch`` gives the document anew, with a fresh reference; it raises BlobMissing if it is gone."""

    def __init__(self, session: Session, document: BlobDocument, refetch: Callable[[], BlobDocument]) -> None:
        self._session = session
        self._document = document
        self._refetch = refetch
        self._used: dict[int, bytes] = {}
        self._short: dict[int, int] = {}
        self._renewed: dict[int, int] = {}
        self._refused: dict[int, int] = {}

    def run(self, offset: int, length: int) -> bytes:
        """Return exactly the range, which lies within the document."""
        pieces: list[bytes | memoryview] = []
        size = self._document.info.size

        def finish(window: tuple[int, int], answer: Any) -> None:
            start, limit = window
            got = getattr(answer, "bytes", b"")
            if len(got) < min(limit, size - start):
                raise ShortRead("Telegram gave fewer bytes than asked for")
            first, last = max(start, offset), min(start + limit, offset + length)
            pieces.append(got if last - first == len(got) else memoryview(got)[first - start : last - start])

        window = self._session.window("download")
        RequestPipeline(self._session, window, self._begin, finish, self._mend).run(windows(offset, length))
        return b"".join(pieces)

    def _begin(self, window: tuple[int, int]) -> PendingResponse:
        start, limit = window
        it = self._document
        self._used[start] = it.reference
        location = types.InputDocumentFileLocation(it.id, it.access_hash, it.reference, "")
        return self._session.submit(
            functions.upload.GetFileRequest(location, start, limit, precise=True, cdn_supported=False), dc=it.dc
        )

    def _mend(self, window: tuple[int, int], error: StoreUnavailable) -> bool:
        """Put right what asking again would not."""
        info = self._document.info
        if isinstance(error, OtherDc):
            self._document = msgspec.structs.replace(self._document, dc=error.dc)
            return True
        if isinstance(error, ReferenceStale):
            self._renew(window[0], error)
            return True
        if isinstance(error, ShortRead):
            self._short[window[0]] = self._short.get(window[0], 0) + 1
            if self._short[window[0]] >= _SHORT_READS:
                raise DamageError(f"blob {info.id} ends before its {info.size} bytes", blob=info.name.hex())
        return False

    def _renew(self, start: int, error: ReferenceStale) -> None:
        """Take a fresh reference, unless another window did so meanwhile.

        A window whose file is refused with fresh references too has lost it, though the message is there. A reference
        that goes stale again and again is no loss: that is left to whoever retries.
        """
        times = self._refused if isinstance(error, FileRefused) else self._renewed
        times[start] = times.get(start, 0) + 1
        if times[start] > _RENEWALS:
            if times is self._refused:
                raise BlobMissing(f"Telegram has no file for blob {self._document.info.id} any more")
            raise error
        if self._used[start] == self._document.reference:
            self._document = msgspec.structs.replace(self._refetch(), dc=self._document.dc)
