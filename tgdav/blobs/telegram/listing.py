"""Names of blobs, learnt from the history as far as it was read: Telegram itself finds nothing by name."""

import threading
from collections import OrderedDict
from collections.abc import Iterator

from tgdav.blobs.telegram.history import History
from tgdav.blobs.telegram.messages import PAGE, Chat, Document
from tgdav.blobs.telegram.session import Session
from tgdav.ids import BlobId, BlobName

RECENT_PAGES = 20
"""Before the first append so many pages of a hundred messages are looked at for what an earlier run sent unanswered."""
KEPT_DOCUMENTS = 4096


class Listing:
    """What is known of a chat's blobs. Thread-safe; the network is asked without holding the lock."""

    def __init__(self, session: Session, chat: Chat) -> None:
        self._chat = chat
        self._history = History(session, chat)
        self._lock = threading.Lock()
        self._surveying = threading.Lock()
        self._names: dict[BlobName, tuple[BlobId, ...]] = {}
        self._documents: OrderedDict[BlobId, Document] = OrderedDict()
        self._newest = 0
        self._surveyed = False
        self._complete = False

    def walk(self, after: int) -> Iterator[Document]:
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

    def note(self, document: Document) -> None:
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

    def document(self, blob_id: BlobId) -> Document | None:
        """Return what is remembered of a blob; it may be gone by now."""
        with self._lock:
            return self._documents.get(blob_id)

    def first(self, name: BlobName) -> Document | None:
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
