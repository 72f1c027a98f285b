"""Many requests of one kind in flight at once, each repeated by itself when it fails."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from tgdav.blobs.telegram.errors import Silence
from tgdav.blobs.telegram.rests import Window
from tgdav.blobs.telegram.session import Answer, Session
from tgdav.errors import StoreUnavailable

Item = TypeVar("Item")

ATTEMPTS = 6
"""After this many failures of one request in a row the transfer gives up; whoever asked for it may go on later."""
SILENT_ATTEMPTS = 2
"""After so many without any answer in a row too: each takes the whole patience, and the second went down a new line."""
LONGEST_REST = 30.0
"""Seconds of rest asked for by Telegram that are waited here; a longer one ends the transfer."""
FIRST_REST = 0.1


class Transfer(Generic[Item]):
    """Runs ``begin`` for each item with at most the window's width under way, and ``finish`` with the item and its answer.

    Both run on the caller's thread and in the items' order. ``mend`` may put an error right (True: ask again at once).
    """

    def __init__(
        self,
        session: Session,
        window: Window,
        begin: Callable[[Item], Answer],
        finish: Callable[[Item, Any], None],
        mend: Callable[[Item, StoreUnavailable], bool] | None = None,
    ) -> None:
        self._session = session
        self._begin = begin
        self._finish = finish
        self._mend = mend
        self._window = window
        self._silences = 0
        self._flight: deque[tuple[Item, Answer]] = deque()

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
                    self._finish(item, self._session.wait(answer))
                    failures = self._silences = 0
                    self._window.passed()
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
        self._silences += isinstance(error, Silence)
        if error.retry_after is not None:
            self._window.refused(error.retry_after)
        if failures >= ATTEMPTS or self._silences >= SILENT_ATTEMPTS or (error.retry_after or 0) > LONGEST_REST:
            raise error
        if not (self._mend and self._mend(item, error)):
            self._session.pause(error.retry_after or FIRST_REST * 2.0 ** (failures - 1))
        for place, (other, answer) in enumerate(self._flight):
            if answer.done() and isinstance(answer.exception(), StoreUnavailable):
                self._flight[place] = (other, self._begin(other))
