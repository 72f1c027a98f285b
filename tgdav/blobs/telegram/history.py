"""Reading a chat's messages oldest first, several pages at once.

A page begins after a message's id and holds 100 at most, so where the next one begins is known only when a page is
there. But ids only grow: whoever knows the newest can cut the ids up to it into spans and ask for all of them at once.
How many ids hold a page full is learnt on the way, for in Saved Messages other chats take most of them.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from tgdav.blobs.telegram.messages import PAGE, Chat
from tgdav.blobs.telegram.session import Answer, Session

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


class History:
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
        flight: deque[tuple[Span, Answer]] = deque()
        try:
            while after < newest or flight:
                while after < newest and len(flight) < SPANS_IN_FLIGHT:
                    span = Span(after, min(after + density.width, newest))
                    flight.append((span, self._session.begin(self._chat.after(span.after))))
                    after = span.last
                span, answer = flight.popleft()
                found = self._whole(span, list(self._session.wait(answer).messages))
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
