"""Which events of a message box were seen: the arithmetic of ``pts``.

Each event moves a box's number ``pts`` on by its count. An update whose number fits the last one is applied; one that
is behind was seen; one ahead shows a gap, and the difference has to be asked for
(https://core.telegram.org/api/updates#update-handling). Private chats of an account, Saved Messages among them, are
one box; a channel is a box of its own.
"""

from collections.abc import Iterator
from typing import Any

from telethon.tl import types


class Box:
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
