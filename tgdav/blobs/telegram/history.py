"""Read a chat's history, and index the blobs found in it by name and id: Telegram cannot search for a blob.

A page begins after a message id and has at most 100 messages, so the start of the next page is known only once the
page arrived. But ids grow: up to the newest id the range can be cut into spans whose pages are requested in parallel.
The width of a span is adapted to the density of the chat's messages, because in Saved Messages most ids belong to
other chats.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import msgspec

from tgdav.blobs.telegram.messages import PAGE, BlobDocument, Chat
from tgdav.blobs.telegram.session import PendingResponse
from tgdav.ids import BlobId, BlobName

SPANS_IN_FLIGHT = 8
_FILL_TARGET = 0.9
"""The share of a page that a span is expected to fill: with more, spans need a second request more often."""
_MAX_WIDTH = 1_000_000


class Span(msgspec.Struct, frozen=True):
    """The ids greater than ``after``, up to and including ``last``."""

    after: int
    last: int


class Density:
    """The number of messages per id, as an exponential average over the spans read so far."""

    def __init__(self) -> None:
        self._messages = 1.0
        self._ids = 1.0

    def record(self, messages: int, ids: int) -> None:
        """Record that ``messages`` were found among ``ids`` consecutive ids."""
        self._messages = self._messages / 2 + messages
        self._ids = self._ids / 2 + ids

    @property
    def width(self) -> int:
        """The number of ids to request in one span."""
        return int(min(max(_FILL_TARGET * PAGE * self._ids / max(self._messages, 1e-3), PAGE), _MAX_WIDTH))


class HistoryReader:
    """Reads all messages of a chat."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def pages(self, after: int) -> Iterator[list[Any]]:
        """Yield lists of the messages with ids greater than ``after``, oldest first, until there are no more."""
        page = self._chat.page_after(after)
        if len(page) == PAGE:
            yield page
            # The range up to the newest id is requested in spans; what arrived meanwhile follows page by page.
            density = Density()
            density.record(PAGE, page[-1].id - max(after, page[0].id - 1))
            after = page[-1].id
            newest = max((message.id for message in self._chat.newest()), default=after)
            for found in self._spans(after, newest, density):
                if found:
                    yield found
            after = max(after, newest)
            page = self._chat.page_after(after)
        while page:
            yield page
            page = self._chat.page_after(page[-1].id)

    def _spans(self, after: int, newest: int, density: Density) -> Iterator[list[Any]]:
        in_flight: deque[tuple[Span, PendingResponse]] = deque()
        try:
            while after < newest or in_flight:
                while after < newest and len(in_flight) < SPANS_IN_FLIGHT:
                    span = Span(after, min(after + density.width, newest))
                    in_flight.append((span, self._chat.session.submit(self._chat.after(span.after))))
                    after = span.last
                span, response = in_flight.popleft()
                found = self._complete_span(span, list(self._chat.session.result(response).messages))
                density.record(len(found), span.last - span.after)
                yield found
        finally:
            for _, response in in_flight:
                response.cancel()

    def _complete_span(self, span: Span, found: list[Any]) -> list[Any]:
        """Return all messages of a span, given its first page."""
        messages: list[Any] = []
        while found:
            page = sorted(found, key=lambda message: message.id)
            messages += [message for message in page if message.id <= span.last]
            if page[-1].id >= span.last:
                break
            found = self._chat.page_after(page[-1].id)
        return messages


RECENT_PAGES = 20
"""Pages read before the first append, to find blobs that an earlier process sent without receiving the response."""
KEPT_DOCUMENTS = 4096


class BlobIndex:
    """The known blobs of a chat, by name and id. Thread-safe; no lock is held during requests."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._history = HistoryReader(chat)
        self._lock = threading.Lock()
        self._survey_lock = threading.Lock()
        self._names: dict[BlobName, tuple[BlobId, ...]] = {}
        self._documents: OrderedDict[BlobId, BlobDocument] = OrderedDict()
        self._newest = 0
        self._surveyed = False
        self._complete = False

    def walk(self, after: int) -> Iterator[BlobDocument]:
        """Yield all blobs with ids greater than ``after``, oldest first, and record them."""
        start = after
        for page in self._history.pages(after):
            for message in page:
                found = self._chat.blob(message)
                if found is not None:
                    self.add(found)
                    yield found
            after = page[-1].id
        # All blobs up to _newest are known, from the start of the history or since the survey. Only a walk that
        # leaves no gap after it may move it.
        with self._lock:
            from_start = start <= 0
            if from_start or (self._surveyed and start <= self._newest):
                self._newest = max(self._newest, after)
            self._complete = self._complete or from_start
            self._surveyed = self._surveyed or from_start

    def add(self, document: BlobDocument) -> None:
        """Record a blob."""
        info = document.info
        with self._lock:
            known = self._names.get(info.name, ())
            if info.id not in known:
                self._names[info.name] = tuple(sorted((*known, info.id)))
            self._documents[info.id] = document
            self._documents.move_to_end(info.id)
            while len(self._documents) > KEPT_DOCUMENTS:
                self._documents.popitem(last=False)

    def remove(self, blob_id: BlobId, name: BlobName | None = None) -> None:
        """Remove a deleted blob; ``name`` helps if its document is no longer cached."""
        with self._lock:
            document = self._documents.pop(blob_id, None)
            name = document.info.name if document else name
            if name is not None and (left := tuple(it for it in self._names.get(name, ()) if it != blob_id)):
                self._names[name] = left
            elif name is not None:
                self._names.pop(name, None)

    def document(self, blob_id: BlobId) -> BlobDocument | None:
        """Return a blob's cached document; the blob may have been deleted since."""
        with self._lock:
            return self._documents.get(blob_id)

    def first(self, name: BlobName) -> BlobDocument | None:
        """Return the first known blob of a name that still exists: its message is fetched."""
        while True:
            with self._lock:
                known = self._names.get(name, ())
            if not known:
                return None
            found = self._chat.fetch(known[:1]).get(known[0])
            if found is not None and found.info.name == name:
                self.add(found)
                return found
            self.remove(known[0], name)

    def survey(self) -> None:
        """Read the newest pages, at the first call."""
        with self._survey_lock:
            if not self._surveyed:
                newest = self._read_newest_pages()
                with self._lock:
                    self._newest = max(self._newest, newest)
                    self._surveyed = True

    def _read_newest_pages(self) -> int:
        """Record the blobs of the newest pages; return the highest message id."""
        newest = before = 0
        for _ in range(RECENT_PAGES):
            page = self._chat.page_before(before)
            for message in page:
                if (found := self._chat.blob(message)) is not None:
                    self.add(found)
            if page:
                newest, before = max(newest, page[0].id), page[-1].id
            if len(page) < PAGE:
                break
        return newest

    def refresh(self) -> None:
        """Read the messages that are new since the last read."""
        self.survey()
        for _ in self.walk(self._newest):
            pass

    def complete(self) -> None:
        """Read everything that was not read before."""
        for _ in self.walk(self._newest if self._complete else 0):
            pass
