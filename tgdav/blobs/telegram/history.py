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
from tgdav.blobs.telegram.session import PendingResponse, Session
from tgdav.ids import BlobId, BlobName

SPANS_IN_FLIGHT = 8
_FILLED = 0.9
"""The part of a page that a span aims at: fuller ones take a second request more often."""
_WIDEST = 1_000_000


class Span(msgspec.Struct, frozen=True):
    """The ids above ``after`` up to ``last``."""

    after: int
    last: int


class Density:
    """How many messages there are to an id, learnt from what was read."""

    def __init__(self) -> None:
        self._messages = 1.0
        self._ids = 1.0

    def note(self, messages: int, ids: int) -> None:
        """So many messages were found among so many ids; what was found earlier counts less and less."""
        self._messages = self._messages / 2 + messages
        self._ids = self._ids / 2 + ids

    @property
    def width(self) -> int:
        """How many ids to ask for at once."""
        return int(min(max(_FILLED * PAGE * self._ids / max(self._messages, 1e-3), PAGE), _WIDEST))


class HistoryReader:
    """The messages of a chat."""

    def __init__(self, session: Session, chat: Chat) -> None:
        self._session = session
        self._chat = chat

    def pages(self, after: int) -> Iterator[list[Any]]:
        """Yield the messages with ids above ``after`` in lists, oldest first, to the end."""
        page = self._chat.page_after(after)
        if len(page) == PAGE:
            yield page
            density = Density()
            density.note(PAGE, page[-1].id - max(after, page[0].id - 1))
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
        flight: deque[tuple[Span, PendingResponse]] = deque()
        try:
            while after < newest or flight:
                while after < newest and len(flight) < SPANS_IN_FLIGHT:
                    span = Span(after, min(after + density.width, newest))
                    flight.append((span, self._session.submit(self._chat.after(span.after))))
                    after = span.last
                span, answer = flight.popleft()
                found = self._whole(span, list(self._session.result(answer).messages))
                density.note(len(found), span.last - span.after)
                yield found
        finally:
            for _, answer in flight:
                answer.cancel()

    def _whole(self, span: Span, found: list[Any]) -> list[Any]:
        """Return all of a span's messages, given its first page."""
        whole: list[Any] = []
        while found:
            page = sorted(found, key=lambda message: message.id)
            whole += [message for message in page if message.id <= span.last]
            if page[-1].id >= span.last:
                break
            found = self._chat.page_after(page[-1].id)
        return whole


RECENT_PAGES = 20
"""Before the first append so many pages of a hundred messages are looked at for what an earlier run sent unanswered."""
KEPT_DOCUMENTS = 4096


class BlobIndex:
    """What is known of a chat's blobs. Thread-safe; the network is asked without holding the lock."""

    def __init__(self, session: Session, chat: Chat) -> None:
        self._chat = chat
        self._history = HistoryReader(session, chat)
        self._lock = threading.Lock()
        self._surveying = threading.Lock()
        self._names: dict[BlobName, tuple[BlobId, ...]] = {}
        self._documents: OrderedDict[BlobId, BlobDocument] = OrderedDict()
        self._newest = 0
        self._surveyed = False
        self._complete = False

    def walk(self, after: int) -> Iterator[BlobDocument]:
        """Go through all blobs with ids above ``after``, oldest first, a page at a time."""
        start = after
        for page in self._history.pages(after):
            for message in page:
                found = self._chat.document(message)
                if found is not None:
                    self.note(found)
                    yield found
            after = page[-1].id
        with self._lock:
            from_start = start <= 0
            if from_start or (self._surveyed and start <= self._newest):
                self._newest = max(self._newest, after)
            self._complete = self._complete or from_start
            self._surveyed = self._surveyed or from_start

    def note(self, document: BlobDocument) -> None:
        """Remember a blob."""
        info = document.info
        with self._lock:
            known = self._names.get(info.name, ())
            if info.id not in known:
                self._names[info.name] = tuple(sorted((*known, info.id)))
            self._documents[info.id] = document
            self._documents.move_to_end(info.id)
            while len(self._documents) > KEPT_DOCUMENTS:
                self._documents.popitem(last=False)

    def forget(self, blob_id: BlobId, name: BlobName | None = None) -> None:
        """A blob is gone."""
        with self._lock:
            document = self._documents.pop(blob_id, None)
            name = document.info.name if document else name
            if name is not None and (left := tuple(it for it in self._names.get(name, ()) if it != blob_id)):
                self._names[name] = left
            elif name is not None:
                self._names.pop(name, None)

    def document(self, blob_id: BlobId) -> BlobDocument | None:
        """Return what is remembered of a blob; it may be gone by now."""
        with self._lock:
            return self._documents.get(blob_id)

    def first(self, name: BlobName) -> BlobDocument | None:
        """Return the first blob of a name among those known; asks whether it is still there."""
        while True:
            with self._lock:
                known = self._names.get(name, ())
            if not known:
                return None
            found = self._chat.fetch(known[:1]).get(known[0])
            if found is not None and found.info.name == name:
                self.note(found)
                return found
            self.forget(known[0], name)

    def survey(self) -> None:
        """Read the newest pages, once."""
        with self._surveying:
            if not self._surveyed:
                newest = self._read_newest_pages()
                with self._lock:
                    self._newest = max(self._newest, newest)
                    self._surveyed = True

    def _read_newest_pages(self) -> int:
        """Return the highest id."""
        newest = before = 0
        for _ in range(RECENT_PAGES):
            page = self._chat.page_before(before)
            for message in page:
                if (found := self._chat.document(message)) is not None:
                    self.note(found)
            if page:
                newest, before = max(newest, page[0].id), page[-1].id
            if len(page) < PAGE:
                break
        return newest

    def refresh(self) -> None:
        """Read what came since the last look."""
        self.survey()
        for _ in self.walk(self._newest):
            pass

    def complete(self) -> None:
        """Read everything that was not read yet."""
        for _ in self.walk(self._newest if self._complete else 0):
            pass
