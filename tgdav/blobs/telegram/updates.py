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
from tgdav.errors import AccessError, StoreRejected, StoreUnavailable, TgdavError
from tgdav.ids import BlobId
from tgdav.threads import Guard, Worker

log = logging.getLogger(__name__)

SILENCE = 900.0
"""Seconds without updates after which to request the difference (https://core.telegram.org/api/updates#recovering-gaps)."""
RETRY = 5.0
"""Seconds to wait after a failure."""
MAX_DIFFERENCE = 100
_DIFFERENCES = (
    types.updates.Difference,
    types.updates.DifferenceSlice,
    types.updates.DifferenceEmpty,
    types.updates.ChannelDifference,
    types.updates.ChannelDifferenceEmpty,
)
_CATCH_UP = object()
"""Queued to request the difference."""
_STOP = object()


class PtsTracker:
    """The state (``pts``) of a sequence of updates: that of a channel, or the account's own if ``channel`` is None.

    Each update has the ``pts`` after it and the ``pts_count`` of its events. It is applied if it continues the local
    state; one that is behind is a repetition; one that is ahead shows a gap
    (https://core.telegram.org/api/updates#update-handling). All private chats, Saved Messages included, share one
    sequence; each channel has its own.
    """

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self.pts = 0
        self.date: Any = None

    def apply(self, updates: Any) -> tuple[list[Any], list[int], bool]:
        """Return the new messages and the deleted ids in the updates received, and whether there is a gap."""
        new: list[Any] = []
        deleted: list[int] = []
        # Short messages are not blobs, but they move pts; their place in the sequence is not evaluated here.
        has_gap = isinstance(updates, types.UpdatesTooLong | types.UpdateShortMessage | types.UpdateShortChatMessage)
        for update in _each(updates):
            if not self._is_in_sequence(update) or update.pts <= self.pts:
                continue
            if self.pts + update.pts_count != update.pts:
                has_gap = True
                continue
            self.pts = update.pts
            collect(update, new, deleted)
        return new, deleted, has_gap

    def move_past(self, difference: Any) -> None:
        """Set the state to the end of a difference."""
        state = getattr(difference, "state", None) or getattr(difference, "intermediate_state", None)
        if state is not None:
            self.pts, self.date = max(self.pts, state.pts), state.date
        else:
            self.pts = max(self.pts, getattr(difference, "pts", 0))

    def _is_in_sequence(self, update: Any) -> bool:
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


def collect(update: Any, new: list[Any], deleted: list[int]) -> None:
    """Add an update's new messages and deleted ids to the lists."""
    if isinstance(update, types.UpdateNewMessage | types.UpdateNewChannelMessage):
        new.append(update.message)
    elif isinstance(update, types.UpdateDeleteMessages | types.UpdateDeleteChannelMessages):
        deleted += update.messages


class UpdateWatcher:
    """Calls ``on_blob`` for each blob that another session appends after ``start``, oldest first.

    A blob may be reported twice, and after the history was read also one of this session's own. ``on_logout`` is
    called when the login has ended, which ends the watcher. Both run on the watcher's thread. Exceptions in them, and
    responses that make no sense, are recorded; then the watcher starts again from the history. ``silence`` and
    ``retry`` are in seconds.
    """

    def __init__(
        self,
        chat: Chat,
        index: BlobIndex,
        on_blob: Callable[[BlobInfo], None],
        *,
        on_logout: Callable[[AccessError], None],
        silence: float = SILENCE,
        retry: float = RETRY,
    ) -> None:
        self._session, self._chat, self._index, self._on_blob = chat.session, chat, index, on_blob
        self._on_logout = on_logout
        self._silence, self._retry = silence, retry
        self._tracker: PtsTracker | None = None
        self._last_id = 0
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._guard = Guard("telegram-watch")
        self._thread = Worker("telegram-watch", self._run, guard=self._guard)
        self.caught_up = threading.Event()
        """Set while no gap is known."""

    def start(self) -> None:
        """Start the thread, which makes all requests."""
        self._session.set_handlers(self._queue.put, lambda: self._queue.put(_CATCH_UP))
        self._thread.start()

    def close(self) -> None:
        """Stop after the current request. Idempotent."""
        self._session.set_handlers(None, None)
        self._queue.put(_STOP)
        if self._thread.is_alive() and not self._thread.is_current():
            self._thread.join()

    def _run(self) -> None:
        wait, backoff = 0.0, self._retry
        while True:
            try:
                item = self._queue.get(timeout=wait) if wait else _CATCH_UP
            except queue.Empty:
                item = _CATCH_UP
            if item is _STOP:
                return
            try:
                self._handle(item)
                wait, backoff = self._silence, self._retry
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
                log.debug("updates of other sessions are not received for now: %s", error.message)
                wait = self._silence
                self.caught_up.clear()
            except Exception as error:  # an unexpected response: the history has what it may have reported
                self._guard.record(error)
                self.caught_up.clear()
                self._tracker, wait, backoff = None, backoff, min(2 * backoff, self._silence)

    def _handle(self, item: Any) -> None:
        if self._tracker is None:
            last = self._last_id
            self._tracker = self._start_tracker()
            if last:
                self._read_history(last)
        elif item is _CATCH_UP:
            self._catch_up(self._tracker)
        else:
            new, deleted, has_gap = self._tracker.apply(item)
            is_own = getattr(item, "_self_outgoing", False)  # Telethon's mark on results of this session's requests
            self._report(() if is_own else new, deleted)
            if has_gap:
                self._catch_up(self._tracker)

    def _start_tracker(self) -> PtsTracker:
        """Return a tracker at the current state.

        The state is requested before the newest message, so that a message between the two is reported, not missed.
        """
        tracker = PtsTracker(self._chat.peer().channel_id if self._chat.is_channel else None)
        if not self._chat.is_channel:
            state = self._session.invoke(functions.updates.GetStateRequest(), subscribe=True)
            tracker.pts, tracker.date = state.pts, state.date
        newest = self._session.invoke(self._chat.history(limit=1), subscribe=True)
        if self._chat.is_channel:
            tracker.pts = newest.pts
        self._last_id = max((message.id for message in newest.messages), default=0)
        return tracker

    def _catch_up(self, tracker: PtsTracker) -> None:
        """Request differences until there is none left."""
        while True:
            request = self._difference(tracker)
            try:
                difference = self._session.invoke(request, subscribe=True)
            except StoreUnavailable:
                raise
            except StoreRejected:  # Telegram refuses a state that is too old
                self._restart(tracker)
                return
            if isinstance(difference, types.updates.DifferenceTooLong | types.updates.ChannelDifferenceTooLong):
                self._restart(tracker)
                return
            if not isinstance(difference, _DIFFERENCES):
                raise TypeError(f"the difference is a {type(difference).__name__}")
            deleted: list[int] = []
            new = list(getattr(difference, "new_messages", []))
            for update in getattr(difference, "other_updates", []):
                collect(update, new, deleted)
            self._report(new, deleted)
            tracker.move_past(difference)
            if not isinstance(difference, types.updates.DifferenceSlice) and getattr(difference, "final", True):
                return

    def _difference(self, tracker: PtsTracker) -> Any:
        if not self._chat.is_channel:
            return functions.updates.GetDifferenceRequest(tracker.pts, tracker.date, qts=0)
        peer = self._chat.peer()
        channel = types.InputChannel(peer.channel_id, peer.access_hash)
        return functions.updates.GetChannelDifferenceRequest(
            channel, types.ChannelMessagesFilterEmpty(), tracker.pts, MAX_DIFFERENCE
        )

    def _restart(self, tracker: PtsTracker) -> None:
        """Continue from the current state, after reading the history since the last message that was seen."""
        last, current = self._last_id, self._start_tracker()
        tracker.pts, tracker.date = current.pts, current.date
        self._read_history(last)

    def _read_history(self, last: int) -> None:
        """Report the blobs after message ``last``."""
        self._last_id = last
        for document in self._index.walk(last):
            self._last_id = max(self._last_id, document.info.id)
            self._on_blob(document.info)

    def _report(self, new: Iterable[Any], deleted: Iterable[int]) -> None:
        for blob_id in deleted:
            self._index.remove(BlobId(blob_id))
        for message in new:
            document = self._chat.blob(message)
            if document is None:
                continue
            self._last_id = max(self._last_id, document.info.id)
            if self._index.document(document.info.id) is None:
                self._index.add(document)
                self._on_blob(document.info)
