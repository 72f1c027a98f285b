"""Reading a range of a document: windows of up to 1 MiB, several in flight.

With ``precise``, offset and length are multiples of 1 KiB, and a request stays within one MiB
(https://core.telegram.org/api/files#downloading-files).
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from telethon.tl import functions, types

from tgdav.blobs.telegram.errors import FileRefused, OtherDc, ReferenceStale, ShortRead
from tgdav.blobs.telegram.messages import Document
from tgdav.blobs.telegram.session import Answer, Session
from tgdav.blobs.telegram.transfer import Transfer
from tgdav.errors import BlobMissing, DamageError, StoreUnavailable

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


class Download:
    """One read. ``refetch`` gives the document anew, with a fresh reference; it raises BlobMissing if it is gone."""

    def __init__(self, session: Session, document: Document, refetch: Callable[[], Document]) -> None:
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
        Transfer(self._session, window, self._begin, finish, self._mend).run(windows(offset, length))
        return b"".join(pieces)

    def _begin(self, window: tuple[int, int]) -> Answer:
        start, limit = window
        it = self._document
        self._used[start] = it.reference
        location = types.InputDocumentFileLocation(it.id, it.access_hash, it.reference, "")
        return self._session.begin(
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
