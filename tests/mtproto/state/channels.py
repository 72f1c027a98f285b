"""Private channels: members, rights, and the objects that show them."""

from dataclasses import dataclass
from typing import Any

from telethon.tl import types

from tests.mtproto.errors import RpcFailure, bad
from tests.mtproto.state.accounts import random_long
from tests.mtproto.state.database import Database

_FIRST = 1_900_000_000


@dataclass(frozen=True)
class Channel:
    """A channel; `owner` alone posts, unless it is a megagroup."""

    channel: int
    access_hash: int
    title: str
    about: str
    username: str | None
    megagroup: bool
    owner: int
    created: int

    @property
    def box(self) -> int:
        """The name of its message box."""
        return -self.channel

    def as_chat(self, viewer: int) -> Any:
        """The `channel` object that `viewer` sees."""
        rights = types.ChatAdminRights(post_messages=True, edit_messages=True, delete_messages=True, other=True)
        return types.Channel(
            self.channel,
            self.title,
            types.ChatPhotoEmpty(),
            self.created,
            creator=self.owner == viewer,
            broadcast=not self.megagroup,
            megagroup=self.megagroup,
            access_hash=self.access_hash,
            username=self.username,
            admin_rights=rights if self.owner == viewer else None,
        )


class Channels:
    """All channels of the server."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, owner: int, title: str, about: str, date: int, *, megagroup: bool = False, username: str | None = None
    ) -> Channel:
        """A new channel with its owner as the only member."""
        channel = _FIRST + self._database.number("SELECT count(*) FROM channels") + 1
        values = (channel, random_long(), title, about, username, int(megagroup), owner, date)
        self._database.run("INSERT INTO channels VALUES (?,?,?,?,?,?,?,?)", *values)
        self.join(channel, owner)
        return self.get(channel)

    def join(self, channel: int, user: int) -> None:
        """Makes a user a member."""
        self._database.run("INSERT OR IGNORE INTO members VALUES (?,?)", channel, user)

    def get(self, channel: int) -> Channel:
        """The channel of that id; CHANNEL_INVALID if there is none."""
        row = self._database.row("SELECT * FROM channels WHERE channel=?", channel)
        if row is None:
            raise bad("CHANNEL_INVALID")
        names = row["channel"], row["access_hash"], row["title"], row["about"], row["username"]
        return Channel(*names, bool(row["megagroup"]), row["owner"], row["created"])

    def named(self, username: str) -> Channel | None:
        """The channel of a public name, or None."""
        row = self._database.row("SELECT channel FROM channels WHERE lower(username)=?", username.lower())
        return None if row is None else self.get(row["channel"])

    def of(self, user: int) -> list[Channel]:
        """The channels that a user is in."""
        return [
            self.get(row["channel"]) for row in self._database.rows("SELECT channel FROM members WHERE user=?", user)
        ]

    def members(self, channel: int) -> set[int]:
        """The user ids of a channel's members."""
        return {row["user"] for row in self._database.rows("SELECT user FROM members WHERE channel=?", channel)}

    def enter(self, user: int, given: Any) -> Channel:
        """The channel that an input channel or input peer names, for a member; CHANNEL_INVALID, CHANNEL_PRIVATE otherwise."""
        if not isinstance(given, types.InputChannel | types.InputPeerChannel):
            raise bad("CHANNEL_INVALID")
        channel = self.get(given.channel_id)
        if channel.access_hash != given.access_hash:
            raise bad("CHANNEL_INVALID")
        if user not in self.members(channel.channel):
            raise bad("CHANNEL_PRIVATE")
        return channel


def may_post(channel: Channel, user: int) -> None:
    """Raises CHAT_WRITE_FORBIDDEN unless `user` may send to the channel."""
    if channel.owner != user and not channel.megagroup:
        raise RpcFailure(403, "CHAT_WRITE_FORBIDDEN")


def may_manage(channel: Channel, user: int) -> None:
    """Raises CHAT_ADMIN_REQUIRED unless `user` may edit and delete."""
    if channel.owner != user:
        raise bad("CHAT_ADMIN_REQUIRED")
