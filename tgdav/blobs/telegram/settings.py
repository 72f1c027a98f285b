"""What a connection to Telegram is made of, apart from the login."""

import msgspec
from telethon.crypto import rsa

from tgdav.errors import StoreRejected


class TelegramProxy(msgspec.Struct, frozen=True):
    """The way out; ``type`` is socks5, socks4 or http."""

    type: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"TelegramProxy({self.type}, {self.host}, {self.port})"

    def as_telethon(self) -> dict[str, object]:
        """Return what Telethon wants. Raises StoreRejected without python-socks: Telethon would go round the proxy."""
        try:
            import python_socks  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        except ImportError:
            raise StoreRejected("a proxy needs the package python-socks", hint="pip install python-socks") from None
        login = {"username": self.username, "password": self.password}
        return {"proxy_type": self.type, "addr": self.host, "port": self.port, "rdns": True, **login}


class TelegramTestServer(msgspec.Struct, frozen=True):
    """A server of one's own. ``public_key`` is PKCS#1 PEM text."""

    __test__ = False

    address: str
    port: int
    dc: int
    public_key: str


class TelegramSettings(msgspec.Struct, frozen=True):
    """``patience``: seconds without any answer after which a connection counts as broken; ``connect_timeout`` too."""

    api_id: int
    api_hash: str
    proxy: TelegramProxy | None = None
    test_server: TelegramTestServer | None = None
    patience: float = 20.0
    connect_timeout: float = 10.0
    parts_in_flight: int = 16
    """Parts of 512 KiB that an upload has under way, and ranges of up to 1 MiB that a read has, at once."""

    transport_rest: float = 120.0
    """Seconds of rest after the transport itself refused a connection; Telegram gives no number."""

    def __repr__(self) -> str:
        return f"TelegramSettings(api_id={self.api_id})"

    def trust_test_server(self) -> None:
        """Make Telethon accept the test server's key, if there is one."""
        if self.test_server is not None:
            rsa.add_key(self.test_server.public_key, old=False)
