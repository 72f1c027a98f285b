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
Progress = Callable[[int], None] | None

MAX_ATTEMPTS = 6
"""After this many failures in a row a transfer raises; its caller may repeat it later."""
MAX_SILENCES = 2
"""After this many failures without any response in a row it raises too: each takes the whole patience, and the second
used a new connection.
"""
MAX_BACKOFF = 30.0
"""The longest wait inside a transfer, in seconds; if Telegram requires more, it raises."""
FIRST_BACKOFF = 0.1

PART_BYTES = 512 * 1024
MAX_PARTS = 4000
SMALL_FILE_BYTES = 10 * 1024 * 1024
_EMPTY = b"\0"

UNIT = 1024
WINDOW = 1024 * 1024
_MAX_SHORT_READS = 3
_MAX_RENEWALS = 3


class RequestPipeline(Generic[Item]):
    """Submits a request per item, up to the window's width concurrently, and handles the results in order.

    ``submit`` sends the request of an item; ``handle`` is called with the item and its result, or raises
    StoreUnavailable if the result is not good. All callbacks run on the caller's thread, in the order of the items.
    ``recover`` may remove the cause of an error and return True: then the request is repeated without backoff.
    """

    def __init__(
        self,
        session: Session,
        window: RequestWindow,
        submit: Callable[[Item], PendingResponse],
        handle: Callable[[Item, Any], None],
        recover: Callable[[Item, StoreUnavailable], bool] | None = None,
    ) -> None:
        self._session = session
        self._submit = submit
        self._handle = handle
        self._recover = recover
        self._window = window
        self._silences = 0
        self._in_flight: deque[tuple[Item, PendingResponse]] = deque()

    def run(self, items: Iterable[Item]) -> None:
        """Process all items. After an error no request remains in flight."""
        remaining = iter(items)
        failures = 0
        try:
            while True:
                self._fill(remaining)
                if not self._in_flight:
                    return
                item, response = self._in_flight.popleft()
                try:
                    self._handle(item, self._session.result(response))
                    failures = self._silences = 0
                    self._window.on_success()
                except StoreUnavailable as error:
                    failures += 1
                    self._prepare_retry(item, error, failures)
                    self._in_flight.appendleft((item, self._submit(item)))
        finally:
            for _, response in self._in_flight:
                response.cancel()

    def _fill(self, remaining: Iterable[Item]) -> None:
        if len(self._in_flight) >= self._window.width:
            return
        for item in remaining:
            self._in_flight.append((item, self._submit(item)))
            if len(self._in_flight) >= self._window.width:
                return

    def _prepare_retry(self, item: Item, error: StoreUnavailable, failures: int) -> None:
        """Recover or wait, then resubmit the other failed requests; or raise the error."""
        self._silences += isinstance(error, NoResponse)
        if error.retry_after is not None:
            self._window.on_flood_wait(error.retry_after)
        if failures >= MAX_ATTEMPTS or self._silences >= MAX_SILENCES or (error.retry_after or 0) > MAX_BACKOFF:
            raise error
        if not (self._recover and self._recover(item, error)):
            self._session.pause(error.retry_after or FIRST_BACKOFF * 2.0 ** (failures - 1))
        # One cause usually fails everything in flight: without this each of these would count as another failure.
        for position, (other, response) in enumerate(self._in_flight):
            if response.done() and isinstance(response.exception(), StoreUnavailable):
                self._in_flight[position] = (other, self._submit(other))


def random_id(name: BlobName, generation: int) -> int:
    """Return the ``random_id`` of a blob's message, by which Telegram recognises a repeated message.

    ``generation`` counts the deleted or edited messages of this name: Telegram still knows their ``random_id``.
    """
    digest = hashlib.blake2b(name + generation.to_bytes(4, "big"), digest_size=8, person=b"tgdav random id").digest()
    return int.from_bytes(digest, "big", signed=True) or 1  # 0 would mean that there is no random_id


class BlobUpload:
    """The upload of one blob. After StoreUnavailable ``run`` may be called again; it sends only the missing parts."""

    def __init__(self, session: Session, name: BlobName, source: Source, file_id: int) -> None:
        self._session = session
        self._name = name
        self._source = source
        self._file_id = file_id
        self._sent: set[int] = set()
        self._digest: str = ""

    def matches(self, source: Source) -> bool:
        """Return whether a source certainly has the same bytes: the same object, or the same immutable file."""
        mine = self._source
        return source is mine or (source.path is not None and source.path == mine.path and source.size == mine.size)

    @property
    def _is_big(self) -> bool:
        return self._source.size > SMALL_FILE_BYTES

    @property
    def parts(self) -> int:
        """The number of parts."""
        return max(1, -(-self._source.size // PART_BYTES))

    def start_over(self, file_id: int) -> None:
        """Send all parts again, under another file id."""
        self._file_id = file_id
        self._sent.clear()

    def mark_lost(self, part: int) -> None:
        """Send a part again that the server lost."""
        self._sent.discard(part)

    def run(self, progress: Progress) -> None:
        """Send all missing parts. Errors of the source and of the progress callback pass through."""
        if not self._is_big:
            self._digest = self._md5()
        done = sum(self._length(part) for part in self._sent)

        def record(part: int, accepted: Any) -> None:
            nonlocal done
            if not accepted:
                raise StoreUnavailable("Telegram did not accept a part")
            self._sent.add(part)
            done += self._length(part)
            if progress:
                progress(done)

        if progress and (not self._source.size or len(self._sent) == self.parts):
            progress(done)
        missing = [part for part in range(self.parts) if part not in self._sent]
        RequestPipeline(self._session, self._session.window("upload"), self._submit, record).run(missing)
        check_source_end(self._name, self._source)

    def _length(self, part: int) -> int:
        return min(PART_BYTES, self._source.size - part * PART_BYTES)

    def _read(self, part: int) -> bytes:
        if not self._source.size:
            return _EMPTY  # Telegram has no empty documents; the file name marks this one as empty
        return read_source(self._name, self._source, part * PART_BYTES, self._length(part))

    def _md5(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        for part in range(self.parts):
            digest.update(self._read(part))
        return digest.hexdigest()

    def _submit(self, part: int) -> PendingResponse:
        data = self._read(part)
        if self._is_big:
            return self._session.submit(functions.upload.SaveBigFilePartRequest(self._file_id, part, self.parts, data))
        return self._session.submit(functions.upload.SaveFilePartRequest(self._file_id, part, data))

    def message(self, peer: Any, label: str, generation: int) -> Any:
        """Return the request for the message that makes a document of the parts."""
        document_name = file_name(self._name, self._source.size)
        if self._is_big:
            file: Any = types.InputFileBig(self._file_id, self.parts, document_name)
        else:
            file = types.InputFile(self._file_id, self.parts, document_name, self._digest)
        # force_file: Telegram must not turn the document into a photo or a video, whatever its bytes look like.
        media = types.InputMediaUploadedDocument(
            file, MIME_TYPE, [types.DocumentAttributeFilename(document_name)], force_file=True
        )
        return functions.messages.SendMediaRequest(
            peer, media, label, random_id=random_id(self._name, generation), silent=True
        )


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
    """One read. ``refetch`` returns the document with a fresh file reference; it raises BlobMissing if it is deleted."""

    def __init__(self, session: Session, document: BlobDocument, refetch: Callable[[], BlobDocument]) -> None:
        self._session = session
        self._document = document
        self._refetch = refetch
        # All by the offset of a window:
        self._used_references: dict[int, bytes] = {}
        self._short_reads: dict[int, int] = {}
        self._renewals: dict[int, int] = {}
        self._refusals: dict[int, int] = {}

    def run(self, offset: int, length: int) -> bytes:
        """Return exactly the range, which must be within the document."""
        pieces: list[bytes | memoryview] = []
        size = self._document.info.size

        def append(window: tuple[int, int], result: Any) -> None:
            start, limit = window
            data = getattr(result, "bytes", b"")
            if len(data) < min(limit, size - start):
                raise ShortRead("Telegram sent fewer bytes than requested")
            first, last = max(start, offset), min(start + limit, offset + length)
            pieces.append(data if last - first == len(data) else memoryview(data)[first - start : last - start])

        window = self._session.window("download")
        RequestPipeline(self._session, window, self._submit, append, self._recover).run(windows(offset, length))
        return b"".join(pieces)

    def _submit(self, window: tuple[int, int]) -> PendingResponse:
        start, limit = window
        document = self._document
        self._used_references[start] = document.reference
        location = types.InputDocumentFileLocation(document.id, document.access_hash, document.reference, "")
        return self._session.submit(
            functions.upload.GetFileRequest(location, start, limit, precise=True, cdn_supported=False), dc=document.dc
        )

    def _recover(self, window: tuple[int, int], error: StoreUnavailable) -> bool:
        info = self._document.info
        if isinstance(error, OtherDc):
            self._document = msgspec.structs.replace(self._document, dc=error.dc)
            return True
        if isinstance(error, ReferenceStale):
            self._renew_reference(window[0], error)
            return True
        if isinstance(error, ShortRead):
            self._short_reads[window[0]] = self._short_reads.get(window[0], 0) + 1
            if self._short_reads[window[0]] >= _MAX_SHORT_READS:
                raise DamageError(f"blob {info.id} ends before its {info.size} bytes", blob=info.name.hex())
        return False

    def _renew_reference(self, start: int, error: ReferenceStale) -> None:
        """Get a fresh reference, unless another window did so meanwhile.

        If fresh references are refused too, the file is lost although its message exists: BlobMissing. A reference
        that expires again and again does not mean that, so it is left to the caller to retry.
        """
        counts = self._refusals if isinstance(error, FileRefused) else self._renewals
        counts[start] = counts.get(start, 0) + 1
        if counts[start] > _MAX_RENEWALS:
            if counts is self._refusals:
                raise BlobMissing(f"Telegram no longer has the file of blob {self._document.info.id}")
            raise error
        if self._used_references[start] == self._document.reference:
            # The data centre is kept: it may have been corrected by OtherDc, and the message still names the wrong one.
            self._document = msgspec.structs.replace(self._refetch(), dc=self._document.dc)
