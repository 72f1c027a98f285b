"""How to connect to Telegram: application id, proxy, timeouts. The login is not part of it."""

import msgspec
from telethon.crypto import rsa

from tgdav.config import Config
from tgdav.errors import StoreRejected, UsageError


class TelegramProxy(msgspec.Struct, frozen=True):
    """A proxy for all connections; ``type`` is socks5, socks4 or http."""

    type: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"TelegramProxy({self.type}, {self.host}, {self.port})"

    def as_telethon(self) -> dict[str, object]:
        """Return Telethon's form of it. Raises StoreRejected if python-socks is missing."""
        # Without that package Telethon logs a warning and connects directly, around the proxy.
        try:
            import python_socks  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        except ImportError:
            raise StoreRejected("a proxy needs the package python-socks", hint="pip install python-socks") from None
        login = {"username": self.username, "password": self.password}
        return {"proxy_type": self.type, "addr": self.host, "port": self.port, "rdns": True, **login}


class TelegramTestServer(msgspec.Struct, frozen=True):
    """A server to use instead of Telegram's. ``public_key`` is PKCS#1 in PEM."""

    __test__ = False  # pytest collects classes by their names

    address: str
    port: int
    dc: int
    public_key: str


class TelegramSettings(msgspec.Struct, frozen=True):
    """``patience``: seconds without any response after which a connection counts as broken. Times are in seconds."""

    api_id: int
    api_hash: str
    proxy: TelegramProxy | None = None
    test_server: TelegramTestServer | None = None
    patience: float = 20.0
    connect_timeout: float = 10.0
    parts_in_flight: int = 16
    """Concurrent requests of one upload (parts of 512 KiB) or one read (ranges of up to 1 MiB)."""

    transport_backoff: float = 120.0
    """Seconds without connection attempts after the transport answered 429; Telegram documents no number."""

    def __repr__(self) -> str:
        return f"TelegramSettings(api_id={self.api_id})"

    def trust_test_server(self) -> None:
        """Make Telethon accept the key of the test server, if there is one."""
        if self.test_server is not None:
            rsa.add_key(self.test_server.public_key, old=False)


def telegram_settings(config: Config) -> TelegramSettings:
    """Return the settings of a configuration. Raises UsageError for missing values."""
    telegram = config.telegram
    if telegram.api_id is None or telegram.api_hash is None:
        raise UsageError(
            "telegram.api_id and telegram.api_hash must be set",
            hint="take them from https://my.telegram.org, and give them to 'tgdav init' or to the configuration",
        )
    return TelegramSettings(telegram.api_id, telegram.api_hash.get_secret_value(), _proxy(config), _test_server(config))


def _proxy(config: Config) -> TelegramProxy | None:
    proxy = config.telegram.proxy
    if proxy is None:
        return None
    password = None if proxy.password is None else proxy.password.get_secret_value()
    return TelegramProxy(proxy.type, proxy.host, proxy.port, proxy.username, password)


def _test_server(config: Config) -> TelegramTestServer | None:
    server = config.telegram.test_server
    if server is None:
        return None
    try:
        key = server.public_key_file.read_text(encoding="ascii") if server.public_key_file else ""
    except (OSError, UnicodeDecodeError):
        key = ""
    if not key:
        raise UsageError(
            "telegram.test_server.public_key_file cannot be read as a PEM key", hint="correct the configuration"
        )
    return TelegramTestServer(server.address, server.port, server.dc, key)
