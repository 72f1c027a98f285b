"""All that the connections of a server share: its state, its rules, its faults, its clock, and who is online."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from telethon.tl import types

from tests.mtproto.errors import bad
from tests.mtproto.faults import Faults
from tests.mtproto.rules import Rules
from tests.mtproto.state.accounts import Account, Accounts
from tests.mtproto.state.authorizations import Authorization, Authorizations
from tests.mtproto.state.boxes import Boxes, Event, Stored
from tests.mtproto.state.channels import Channel, Channels
from tests.mtproto.state.database import Database
from tests.mtproto.state.documents import Documents
from tests.mtproto.state.spool import Spool
from tests.mtproto.state.uploads import Uploads
from tests.mtproto.statistics import Statistics
from tests.mtproto.wire.keys import ServerKey

HOME_DC = 2
OTHER_DC = 4


@dataclass
class LoginToken:
    """A shown QR code: the key that shows it, when it ends, and the user that scanned it."""

    shown_by: Authorization
    expires: float
    user: int | None = None


class Online(Protocol):
    """A connection as the methods see it."""

    dc: int
    media: bool
    wants_updates: bool
    authorization: Authorization | None

    def push(self, update: Any) -> None:
        """Sends an update."""

    def abort(self) -> None:
        """Ends the connection at once."""

    def go_silent(self) -> None:
        """Never answers again."""


class World:
    """One server's knowledge. `ports` maps a DC to its (main, media-only) port."""

    def __init__(self, folder: Path, faults: Faults, rules: Rules, statistics: Statistics) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.faults = faults
        self.rules = rules
        self.statistics = statistics
        self.key = ServerKey(folder)
        self.database = Database(folder)
        self.spool = Spool(folder / "files")
        self.accounts = Accounts(self.database)
        self.authorizations = Authorizations(self.database)
        self.boxes = Boxes(self.database, faults.chance)
        self.channels = Channels(self.database)
        self.documents = Documents(self.database, self.spool)
        self.uploads = Uploads(self.database, self.spool)
        self.online: list[Online] = []
        self.ports: dict[int, tuple[int, int]] = {}
        self.shift = 0.0
        self.skew = 0.0
        self.flooded: dict[tuple[int, str], float] = {}
        """When each flood wait of a user for a method is over, on the monotonic clock: skew must not stretch it."""
        self.sent: dict[int, list[float]] = {}
        self.traffic: Counter[int] = Counter()
        self.codes: dict[str, tuple[str, float]] = {}
        self.login_tokens: dict[bytes, LoginToken] = {}
        self.exported: dict[bytes, tuple[int, int]] = {}
        self.sessions: set[tuple[bytes, int]] = set()
        self.restart: Callable[[float], None] = lambda pause: None

    def now(self) -> int:
        """Seconds since 1970 by the server's calendar, which a test can move."""
        return int(time.time() + self.shift)

    def wire_time(self) -> float:
        """The clock that message ids are checked against."""
        return time.time() + self.skew

    def close(self) -> None:
        """Closes files; everything is on disk already."""
        self.spool.close()
        self.database.close()

    # Showing things.

    def show(self, it: Stored, viewer: int) -> Any:
        """A stored message as the API's object."""
        peer = types.PeerUser(it.peer) if it.peer > 0 else types.PeerChannel(-it.peer)
        if it.action is not None:
            action = types.MessageActionChannelCreate(it.action)
            return types.MessageService(it.id, peer, it.date, action=action, post=True)
        media = None if it.document is None else self.documents.as_media(it.document, self.now())
        return types.Message(
            it.id,
            peer,
            it.date,
            it.text,
            out=True if it.box > 0 and it.sender == viewer and it.peer != viewer else None,
            post=True if it.box < 0 else None,
            pinned=bool(it.pinned) or None,
            from_id=types.PeerUser(it.sender) if it.sender else None,
            media=media,
            edit_date=it.edited,
        )

    def people(self, box: int, viewer: int) -> tuple[list[Any], list[Any]]:
        """The users and chats that go with messages of a box."""
        users = [self.accounts.get(viewer).as_user(viewer)]
        return users, [] if box > 0 else [self.channels.get(-box).as_chat(viewer)]

    def shown_event(self, box: int, event: Event, viewer: int) -> list[Any]:
        """An event as updates; nothing for messages deleted since."""
        if event.kind == "delete":
            if box > 0:
                return [types.UpdateDeleteMessages(list(event.ids), event.pts, event.count)]
            return [types.UpdateDeleteChannelMessages(-box, list(event.ids), event.pts, event.count)]
        kinds = {
            ("new", True): types.UpdateNewMessage,
            ("new", False): types.UpdateNewChannelMessage,
            ("edit", True): types.UpdateEditMessage,
            ("edit", False): types.UpdateEditChannelMessage,
        }
        make = kinds[event.kind, box > 0]
        return [
            make(self.show(it, viewer), event.pts, event.count) for it in self.boxes.get(box, list(event.ids)).values()
        ]

    def updates(self, box: int, updates: list[Any], viewer: int) -> Any:
        """An `updates` object of a box."""
        users, chats = self.people(box, viewer)
        return types.Updates(updates, users, chats, self.now(), 0)

    # Telling others.

    def watchers(self, box: int) -> Iterable[Online]:
        """The connections that get updates of a box."""
        users = {box} if box > 0 else self.channels.members(-box)
        for connection in list(self.online):
            it = connection.authorization
            if it is not None and it.user in users and connection.wants_updates and not connection.media:
                yield connection

    def publish(self, box: int, event: Event, but: Online | None = None) -> None:
        """Pushes an event to every session of those who see the box, the caller's own left out."""
        for connection in self.watchers(box):
            if connection is but:
                continue
            assert connection.authorization is not None
            assert connection.authorization.user is not None
            viewer = connection.authorization.user
            stroke = self.faults.strike("updates", ("update_lost", "update_late", "updates_too_long"))
            update = self.updates(box, self.shown_event(box, event, viewer), viewer)
            if stroke is None:
                connection.push(update)
            elif stroke.kind == "update_late":
                asyncio.get_running_loop().call_later(
                    float(stroke.parameters.get("seconds", 0.2)), connection.push, update
                )
            elif stroke.kind == "updates_too_long":
                connection.push(types.UpdatesTooLong())

    # Finding things.

    def peer(self, user: int, given: Any) -> tuple[int, int, Channel | None]:
        """(box, peer, channel) of an input peer; PEER_ID_INVALID, CHANNEL_INVALID, CHANNEL_PRIVATE."""
        if isinstance(given, types.InputPeerSelf):
            return user, user, None
        if isinstance(given, types.InputPeerUser):
            if self.accounts.get(given.user_id).access_hash != given.access_hash and given.user_id != user:
                raise bad("PEER_ID_INVALID")
            return user, given.user_id, None
        if isinstance(given, types.InputPeerChannel):
            channel = self.channels.enter(user, given)
            return channel.box, channel.box, channel
        raise bad("PEER_ID_INVALID")

    def account_of(self, phone: str) -> Account:
        """The account of a phone number that exists."""
        account = self.accounts.find(phone)
        if account is None:
            raise KeyError(phone)
        return account
