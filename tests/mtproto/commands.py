"""What a test may ask of a running server: its switches, its numbers, and what the user does in other applications.

Every public method is a command; arguments and results are plain JSON values, so the same commands work in a thread and
over a pipe.
"""

import base64
import os
from dataclasses import asdict
from typing import Any

from tests.mtproto.methods.channels import found_channel
from tests.mtproto.methods.editing import remove
from tests.mtproto.methods.login_tokens import scan
from tests.mtproto.methods.sending import make_noise
from tests.mtproto.server import LoopServer
from tests.mtproto.state.boxes import Draft
from tests.mtproto.world import HOME_DC


class Commands:
    """Runs in the server's loop.

    `peer` is None for Saved Messages, a user id, or a channel id (positive, as the API has it) with `channel=True`.
    """

    def __init__(self, server: LoopServer) -> None:
        self._server = server

    # Switches.

    def arm(self, kind: str, method: str | None = None, after: int = 0, count: int = 1, **parameters: Any) -> None:
        """The next fitting calls suffer a fault (see tests.mtproto.faults.KINDS)."""
        self._server.faults.arm(kind, method, after=after, count=count, **parameters)

    def set_rates(self, rates: dict[str, float], seconds: tuple[int, int] = (1, 3)) -> None:
        """Draws faults at random from the server's seed, each kind at its probability a call.

        `seconds` are the shortest and the longest flood wait.
        """
        self._server.faults.set_rates(rates)
        self._server.faults.seconds = seconds

    def disarm(self) -> None:
        """Nothing goes wrong any more."""
        self._server.faults.disarm()

    def set_line(
        self, latency: float | None = None, jitter: float | None = None, bandwidth: float | None = None
    ) -> None:
        """Round trip and jitter in seconds, bandwidth in bytes a second and direction (0: any)."""
        for name, value in (("latency", latency), ("jitter", jitter), ("bandwidth", bandwidth)):
            if value is not None:
                setattr(self._server.faults, name, value)

    def set_rules(self, **rules: Any) -> None:
        """Changes settings of tests.mtproto.rules.Rules."""
        for name, value in rules.items():
            if name not in asdict(self._server.rules):
                raise ValueError(f"no rule is called {name!r}")
            setattr(self._server.rules, name, value)

    def fault_counts(self) -> dict[str, int]:
        """How often each kind struck."""
        return dict(self._server.faults.counts)

    def statistics(self) -> dict[str, Any]:
        """Calls, errors, violations, bytes, messages."""
        return self._server.statistics.as_json()

    def ports(self) -> dict[str, list[int]]:
        """DC → [main port, media-only port]."""
        return {str(dc): list(pair) for dc, pair in self._server.world.ports.items()}

    def public_key_file(self) -> str:
        """The file that holds the public key as PKCS#1 PEM."""
        return str(self._server.world.key.public_file)

    # The line.

    def drop_connections(self) -> int:
        """Cuts every connection."""
        return self._server.drop_connections()

    def silence_connections(self) -> int:
        """Leaves every connection half open."""
        online = list(self._server.world.online)
        for connection in online:
            connection.go_silent()
        return len(online)

    def accept_silently(self, silent: bool = True) -> None:
        """New connections are accepted and never answered, as behind a broken router; or normal again."""
        self._server.silent = silent

    def online(self) -> int:
        """Connections that have sent an encrypted message."""
        return len(self._server.world.online)

    def restart(self, pause: float = 0.0) -> None:
        """Goes away, comes back after `pause` seconds with what the folder holds."""
        self._server.restart(pause)

    def advance(self, seconds: float) -> None:
        """Moves the server's calendar (expiries, message dates; not the wire's clock)."""
        self._server.world.shift += seconds

    def skew(self, seconds: float) -> None:
        """Moves the clock that message ids are checked against."""
        self._server.world.skew = seconds

    # Accounts.

    def add_account(
        self,
        phone: str,
        code: str = "22222",
        password: str | None = None,
        name: str = "Test",
        premium: bool = False,
        dc: int = HOME_DC,
    ) -> dict[str, Any]:
        """Creates an account."""
        world = self._server.world
        return asdict(world.accounts.add(phone.lstrip("+"), code, password, name, premium, dc, world.now()))

    def accounts(self) -> list[dict[str, Any]]:
        """All accounts."""
        return [asdict(it) for it in self._server.world.accounts.all()]

    def make_login(self, phone: str, dc: int = HOME_DC) -> str:
        """Logs an account in without any client; the authorization key in base 64."""
        authorizations, key = self._server.world.authorizations, os.urandom(256)
        authorizations.log_in(authorizations.add(dc, key), self._user(phone))
        return base64.b64encode(key).decode()

    def set_status(self, phone: str, status: str) -> None:
        """ "frozen", "banned", the name of a 401 error, or "" for normal."""
        self._server.world.accounts.set_status(self._user(phone), status)

    def end_logins(self, phone: str, refusal: str = "401 AUTH_KEY_UNREGISTERED") -> int:
        """Ends every login of an account with an error ("401 SESSION_REVOKED", …); how many."""
        authorizations = self._server.world.authorizations
        ended = authorizations.of(self._user(phone))
        for it in ended:
            authorizations.end(it, refusal)
        return len(ended)

    def forget_keys(self, phone: str) -> int:
        """Forgets the account's authorization keys: transport error -404."""
        authorizations = self._server.world.authorizations
        known = authorizations.of(self._user(phone))
        for it in known:
            authorizations.forget(it)
        for connection in list(self._server.world.online):
            if connection.authorization in known:
                connection.abort()
        return len(known)

    def scan(self, token: str, phone: str) -> None:
        """The account's owner scans a QR code: its `tg://login?token=…` address, or the token in URL-safe base 64."""
        text = token.rpartition("=")[2] if token.startswith("tg://") else token
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        scan(self._server.world, raw, self._user(phone))

    def _user(self, phone: str) -> int:
        return self._server.world.account_of(phone).user

    # Messages, as another application of the user would touch them.

    def _place(self, phone: str, peer: int | None, channel: bool) -> tuple[int, int]:
        user = self._user(phone)
        if channel and peer is not None:
            return -peer, -peer
        return user, user if peer is None else peer

    def messages(self, phone: str, peer: int | None = None, channel: bool = False) -> list[dict[str, Any]]:
        """Every message of a dialog, oldest first, with the size and name of its document."""
        world = self._server.world
        box, where = self._place(phone, peer, channel)
        shown = []
        for it in world.boxes.get(box, world.boxes.ids(box, where)).values():
            document = None if it.document is None else world.documents.find(it.document)
            more = {} if document is None else {"size": document.size, "name": document.name, "dc": document.dc}
            shown.append({**asdict(it), **more})
        return shown

    def noise(self, phone: str, count: int = 1, peer: int | None = None, channel: bool = False) -> list[int]:
        """Messages of the user's own; their ids."""
        return make_noise(self._server.world, self._user(phone), count, *self._place(phone, peer, channel))

    def plant(
        self, phone: str, entries: list[dict[str, Any]], peer: int | None = None, channel: bool = False
    ) -> list[int]:
        """Many messages at once, unannounced: `text`, and for a document `data` in base 64 and `name`; their ids."""
        world = self._server.world
        box, where = self._place(phone, peer, channel)
        drafts = []
        with world.database.together():
            for entry in entries:
                document = None
                if "data" in entry:
                    data = base64.b64decode(entry["data"])
                    document = world.documents.plant(data, HOME_DC, entry.get("name", ""), world.now(), "planted")
                drafts.append(Draft(where, box if box > 0 else 0, world.now(), entry.get("text", ""), document))
            return world.boxes.plant(box, drafts)

    def delete(self, phone: str, ids: list[int], peer: int | None = None, channel: bool = False) -> None:
        """The user deletes messages."""
        remove(self._server.world, self._place(phone, peer, channel)[0], ids)

    def edit(self, phone: str, identity: int, text: str, peer: int | None = None, channel: bool = False) -> None:
        """The user edits a message."""
        world = self._server.world
        box = self._place(phone, peer, channel)[0]
        world.publish(box, world.boxes.edit(box, identity, text, world.now()))

    def damage(
        self, phone: str, identity: int, position: int = 0, peer: int | None = None, channel: bool = False
    ) -> None:
        """Flips a bit of a stored document."""
        world = self._server.world
        stored = world.boxes.get(self._place(phone, peer, channel)[0], [identity])[identity]
        assert stored.document is not None
        world.documents.damage(stored.document, position)

    def age_references(self) -> None:
        """Makes every file reference given out so far stale."""
        self._server.world.documents.age()

    def expire_uploads(self) -> int:
        """Forgets all unfinished uploads; how many."""
        return self._server.world.uploads.expire(self._server.world.now() + 1)

    def create_channel(
        self,
        phone: str,
        title: str,
        megagroup: bool = False,
        username: str | None = None,
        members: list[str] | None = None,
    ) -> int:
        """A private channel of the account, or with `username` a public one; its id, positive, without any -100."""
        world = self._server.world
        channel = found_channel(world, self._user(phone), title, megagroup=megagroup, username=username)
        for member in members or []:
            world.channels.join(channel.channel, self._user(member))
        return channel.channel
