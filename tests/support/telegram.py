"""Telegram stores on the MTProto test server."""

import itertools

from tests.mtproto.harness import Server, ServerProcess
from tgdav.blobs.telegram import FloodWaits, Session, TelegramSettings, TelegramStore, TelegramTestServer
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy

API_ID = 1234567
API_HASH = "0123456789abcdef0123456789abcdef"
_numbers = itertools.count(1)


def settings(server: Server | ServerProcess, **changes: object) -> TelegramSettings:
    """Settings that reach the server."""
    where = server.test_server
    place = TelegramTestServer(where.address, where.port, where.dc, server.public_key)
    return TelegramSettings(**{"api_id": API_ID, "api_hash": API_HASH, "test_server": place, **changes})  # type: ignore[arg-type]


class TelegramAccount:
    """A new account with an empty Saved Messages, and with ``channel`` an empty channel of its own."""

    def __init__(self, server: Server | ServerProcess, *, channel: bool = False, **changes: object) -> None:
        self.server = server
        self.phone = f"99966{next(_numbers):05d}"
        self.user_id: int = server.add_account(self.phone)["user"]
        self.channel: int | None = server.create_channel(self.phone, "blobs") if channel else None
        self.peer = f"-100{self.channel}" if channel else "me"
        self._changes = changes

    def session(self, **changes: object) -> Session:
        """A fresh login of the account."""
        return self.session_of(self.server.session(self.phone), **changes)

    def session_of(self, login: str, *, flood_waits: FloodWaits | None = None, **changes: object) -> Session:
        """A session of a login that is there."""
        made = settings(self.server, **{**self._changes, **changes})
        return Session(made, login, clock=SystemClock(), user_id=self.user_id, flood_waits=flood_waits)

    def open(self, **changes: object) -> TelegramStore:
        """A store with a fresh login."""
        return TelegramStore(self.session(**changes), peer=self.peer, entropy=SystemEntropy())
