"""Learn of messages that other sessions of the account add to the chat or delete from it.

Updates only save time; nothing relies on them. A gap, a new connection and a long silence each make the watcher request
the difference since the last event. If Telegram no longer keeps it, the watcher reads the history after the last
message that it saw (https://core.telegram.org/api/updates).
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from telethon.tl import functions, types

from tgdav.blobs.interface import BlobInfo
from tgdav.blobs.telegram.history import BlobIndex
from tgdav.blobs.telegram.messages import Chat
from tgdav.blobs.telegram.session import Session
from tgdav.errors import AccessError, StoreRejected, StoreUnavailable, TgdavError
from tgdav.ids import BlobId
from tgdav.threads import Guard, Worker


class PtsTracker:
    """How far the events of a box were seen. ``channel`` is a channel's number, None for the account's own box."""

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self.pts = 0
        self.date: Any = None

    def take(self, updates: Any) -> tuple[list[Any], list[int], bool]:
        """Return what a push from Telegram brings: new messages, ids that are gone, and whether something was missed."""
        new: list[Any] = []
        gone: list[int] = []
        missed = isinstance(updates, types.UpdatesTooLong | types.UpdateShortMessage | types.UpdateShortChatMessage)
        for update in _each(updates):
            if not self._is_here(update):
                continue
            if update.pts <= self.pts:
                continue
            if self.pts + update.pts_count != update.pts:
                missed = True
                continue
            self.pts = update.pts
            read(update, new, gone)
        return new, gone, missed

    def _is_here(self, update: Any) -> bool:
        """Whether an update counts in this box."""
        if isinstance(update, types.UpdateChannelTooLong) or getattr(update, "pts_count", None) is None:
            return False
        message = getattr(update, "message", None)
        channel = getattr(getattr(message, "peer_id", None), "channel_id", None) or getattr(update, "channel_id", None)
        return bool(channel == self._channel)


def _each(updates: Any) -> Iterator[Any]:
    if isinstance(updates, types.UpdateShort):
        yield updates.update
    elif isinstance(updates, types.Updates | types.UpdatesCombined):
        yield from updates.updates


def read(update: Any, new: list[Any], gone: list[int]) -> None:
    """Sort an update's content into new messages and ids that are gone."""
    if isinstance(update, types.UpdateNewMessage | types.UpdateNewChannelMessage):
        new.append(update.message)
    elif isinstance(update, types.UpdateDeleteMessages | types.UpdateDeleteChannelMessages):
        gone += update.messages


log = logging.getLogger(__name__)
SILENCE = 900.0
"""Seconds without news after which to ask, as https://core.telegram.org/api/updates#recovering-gaps has it."""
RETRY = 5.0
"""Seconds after a failure."""
LARGEST_DIFFERENCE = 100
_DIFFERENCES = (
    types.updates.Difference,
    types.updates.DifferenceSlice,
    types.updates.DifferenceEmpty,
    types.updates.ChannelDifference,
    types.updates.ChannelDifferenceEmpty,
)
_AGAIN = object()
_STOP = object()


class UpdateWatcher:
    """Tells ``on_blob`` of each blob that another session appends after ``start``, oldest first.

    A blob may be told of twice, and one of this session's own once, when history had to be read. ``on_logout`` is told when the
    login has ended, and the watch with it. Both run on the watch's own thread; what they raise is noted and passed over, as
    is an answer that makes no sense. ``silence`` and ``retry`` in seconds.
    """

    def __init__(
        self,
        session: Session,
        chat: Chat,
        listing: BlobIndex,
        on_blob: Callable[[BlobInfo], None],
        *,
        on_logout: Callable[[AccessError], None],
        silence: float = SILENCE,
        retry: float = RETRY,
    ) -> None:
        self._session, self._chat, self._listing, self._on_blob = session, chat, listing, on_blob
        self._on_logout = on_logout
        self._silence, self._retry = silence, retry
        self._box: PtsTracker | None = None
        self._last = 0
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._guard = Guard("telegram-watch")
        self._thread = Worker("telegram-watch", self._run, guard=self._guard)
        self.caught_up = threading.Event()
        """Set while nothing is known to be missing."""

    def start(self) -> None:
        """Begin. Returns at once; the network is asked on the watch's thread."""
        self._session.set_handlers(self._news.put, lambda: self._news.put(_AGAIN))
        self._thread.start()

    def close(self) -> None:
        """End, once what is under way is done. Idempotent."""
        self._session.set_handlers(None, None)
        self._news.put(_STOP)
        if self._thread.is_alive() and not self._thread.is_current():
            self._thread.join()

    def _run(self) -> None:
        wait, again = 0.0, self._retry
        while True:
            try:
                news = self._news.get(timeout=wait) if wait else _AGAIN
            except queue.Empty:
                news = _AGAIN
            if news is _STOP:
                return
            try:
                self._take(news)
                wait, again = self._silence, self._retry
                self._guard.clear()
                self.caught_up.set()
            except StoreUnavailable as error:
                wait = max(self._retry, error.retry_after or 0.0)
                self.caught_up.clear()
            except AccessError as error:
                self.caught_up.clear()
                self._on_logout(error)
                return
            except TgdavError as error:
                log.debug("other sessions' changes are not watched for now: %s", error.message)
                wait = self._silence
                self.caught_up.clear()
            except Exception as error:  # an answer that nobody expected: the history tells what it may have told
                self._guard.record(error)
                self.caught_up.clear()
                self._box, wait, again = None, again, min(2 * again, self._silence)

    def _take(self, news: Any) -> None:
        if self._box is None:
            last = self._last
            self._box = self._begin()
            if last:
                self._read_history(last)
        elif news is _AGAIN:
            self._catch_up(self._box)
        else:
            new, gone, missed = self._box.take(news)
            own = getattr(news, "_self_outgoing", False)  # Telethon's mark on the answers to our own requests
            self._tell(() if own else new, gone)
            if missed:
                self._catch_up(self._box)

    def _begin(self) -> PtsTracker:
        """Where to go on from: the box's number first, so that what comes meanwhile is told of rather than missed."""
        box = PtsTracker(self._chat.peer().channel_id if self._chat.is_channel else None)
        if not self._chat.is_channel:
            state = self._session.invoke(functions.updates.GetStateRequest(), subscribe=True)
            box.pts, box.date = state.pts, state.date
        newest = self._session.invoke(self._chat.history(limit=1), subscribe=True)
        if self._chat.is_channel:
            box.pts = newest.pts
        self._last = max((message.id for message in newest.messages), default=0)
        return box

    def _catch_up(self, box: PtsTracker) -> None:
        """Ask for the difference until there is none."""
        while True:
            request = self._difference(box)
            try:
                answer = self._session.invoke(request, subscribe=True)
            except StoreUnavailable:
                raise
            except StoreRejected:
                self._start_anew(box)
                return
            if isinstance(answer, types.updates.DifferenceTooLong | types.updates.ChannelDifferenceTooLong):
                self._start_anew(box)
                return
            if not isinstance(answer, _DIFFERENCES):
                raise TypeError(f"the difference is a {type(answer).__name__}")
            gone: list[int] = []
            new = list(getattr(answer, "new_messages", []))
            for update in getattr(answer, "other_updates", []):
                read(update, new, gone)
            self._tell(new, gone)
            _go_on(box, answer)
            if not isinstance(answer, types.updates.DifferenceSlice) and getattr(answer, "final", True):
                return

    def _difference(self, box: PtsTracker) -> Any:
        if not self._chat.is_channel:
            return functions.updates.GetDifferenceRequest(box.pts, box.date, qts=0)
        peer = self._chat.peer()
        channel = types.InputChannel(peer.channel_id, peer.access_hash)
        return functions.updates.GetChannelDifferenceRequest(
            channel, types.ChannelMessagesFilterEmpty(), box.pts, LARGEST_DIFFERENCE
        )

    def _start_anew(self, box: PtsTracker) -> None:
        """Telegram does not know what came since: read the history."""
        last, fresh = self._last, self._begin()
        box.pts, box.date = fresh.pts, fresh.date
        self._read_history(last)

    def _read_history(self, last: int) -> None:
        """Tell of the blobs after message ``last``."""
        self._last = last
        for document in self._listing.walk(last):
            self._last = max(self._last, document.info.id)
            self._on_blob(document.info)

    def _tell(self, new: Iterable[Any], gone: Iterable[int]) -> None:
        for identity in gone:
            self._listing.forget(BlobId(identity))
        for message in new:
            document = self._chat.document(message)
            if document is None:
                continue
            self._last = max(self._last, document.info.id)
            if self._listing.document(document.info.id) is None:
                self._listing.note(document)
                self._on_blob(document.info)


def _go_on(box: PtsTracker, answer: Any) -> None:
    """Move a box to where a difference ends."""
    state = getattr(answer, "state", None) or getattr(answer, "intermediate_state", None)
    if state is not None:
        box.pts, box.date = max(box.pts, state.pts), state.date
    else:
        box.pts = max(box.pts, getattr(answer, "pts", 0))
