"""Logging in by code, password and QR code, and the errors when it is refused."""

import gc
import logging

import pytest

from tests.mtproto.harness import CODE, PHONE, Server
from tests.support.telegram import API_HASH, API_ID, TelegramAccount, settings
from tgdav.blobs.telegram import Session, TelegramProxy, TelegramStore
from tgdav.blobs.telegram.login import Login, log_in_by_code, log_in_by_qr, log_out
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy
from tgdav.errors import AccessError, StoreUnavailable, TgdavError

NUMBER = "9996625555"


class Typing:
    """A user whose input is prepared."""

    def __init__(self, phone: str, *codes: str, passwords: tuple[str, ...] = (), scanned_by: Server | None = None):
        self._phone = phone
        self._codes = [*codes]
        self._passwords = [*passwords]
        self._scanner = scanned_by
        self.errors: list[str] = []
        self.shown: list[str] = []

    def phone(self) -> str:
        return self._phone

    def code(self) -> str:
        return self._codes.pop(0)

    def password(self, hint: str) -> str:
        return self._passwords.pop(0)

    def show_qr(self, address: str) -> None:
        self.shown.append(address)
        if self._scanner is not None:
            self._scanner.scan(address, self._phone)

    def show_error(self, text: str) -> None:
        self.errors.append(text)


def opens(server: Server, login: Login) -> bool:
    session = Session(settings(server), login.session, clock=SystemClock(), user_id=login.user_id)
    store = TelegramStore(session, peer="me", entropy=SystemEntropy())
    try:
        return [*store.list()] == []
    finally:
        store.close()


class TestByCode:
    def test_logs_in(self, server: Server) -> None:
        login = log_in_by_code(settings(server), Typing(PHONE, CODE))
        assert login.name == "Test"
        assert opens(server, login)

    def test_with_a_password(self, server: Server) -> None:
        server.add_account(NUMBER, "12345", "hunter2")
        user = Typing(NUMBER, "12345", passwords=("wrong", " hunter2 "))
        assert opens(server, log_in_by_code(settings(server), user))
        assert user.errors == ["the password is wrong"]

    def test_mistyped_once(self, server: Server) -> None:
        user = Typing(PHONE, "99999", CODE)
        assert opens(server, log_in_by_code(settings(server), user))
        assert user.errors == ["the code is wrong"]

    def test_mistyped_three_times(self, server: Server) -> None:
        with pytest.raises(AccessError, match="the code is wrong"):
            log_in_by_code(settings(server), Typing(PHONE, "1", "2", "3"))

    def test_of_an_account_in_another_data_centre(self, server: Server) -> None:
        server.add_account(NUMBER, "44444", dc=4)
        assert opens(server, log_in_by_code(settings(server), Typing(NUMBER, "44444")))

    @pytest.mark.parametrize(
        ("phone", "api_id", "api_hash", "message"),
        [
            ("123456", API_ID, API_HASH, "does not know this phone number"),
            (NUMBER, API_ID, API_HASH, "banned this phone number"),
            ("9996629999", API_ID, API_HASH, "has no Telegram account"),
            (PHONE, 2040, API_HASH, "published"),
            (PHONE, API_ID, "short", "does not know this api_id"),
        ],
    )
    def test_refused(self, server: Server, phone: str, api_id: int, api_hash: str, message: str) -> None:
        server.add_account(NUMBER)
        server.set_status(NUMBER, "banned")
        with pytest.raises(AccessError, match=message):
            log_in_by_code(settings(server, api_id=api_id, api_hash=api_hash), Typing(phone, CODE))

    def test_rate_limited(self, server: Server) -> None:
        server.arm("flood_wait", "auth.sendCode", seconds=500)
        with pytest.raises(StoreUnavailable, match="9 minutes") as caught:
            log_in_by_code(settings(server), Typing(PHONE, CODE))
        assert caught.value.retry_after == 500

    def test_with_an_unreachable_server(self, server: Server) -> None:
        server.stop_listening()
        with pytest.raises(StoreUnavailable):
            log_in_by_code(settings(server, connect_timeout=1.0), Typing(PHONE, CODE))

    def test_writes_no_secret_to_the_log(self, server: Server, caplog: pytest.LogCaptureFixture) -> None:
        server.add_account(NUMBER, "87654", "hunter2")
        with caplog.at_level(logging.DEBUG):
            login = log_in_by_code(settings(server), Typing(NUMBER, "87654", passwords=("hunter2",)))
            opens(server, login)
        assert "telethon" in caplog.text
        for secret in (NUMBER, "87654", "hunter2", API_HASH, login.session, login.session[20:60]):
            assert secret not in caplog.text
        assert login.session not in repr(login)
        assert API_HASH not in repr(settings(server))


def test_a_proxy_that_cannot_be_used_is_not_bypassed(server: Server) -> None:
    """Without python-socks Telethon would connect directly, with a warning only."""
    proxy = TelegramProxy("socks5", "127.0.0.1", 9, "name", "a secret")
    assert "a secret" not in repr(proxy)
    with pytest.raises(TgdavError):
        log_in_by_code(settings(server, proxy=proxy, connect_timeout=1.0), Typing(PHONE, CODE))
    assert server.statistics()["connections"] == 0


class TestByQr:
    @pytest.mark.parametrize("password", [None, "hunter2"])
    @pytest.mark.parametrize("dc", [2, 4])
    def test_logs_in(self, server: Server, password: str | None, dc: int) -> None:
        server.add_account(NUMBER, "12345", password, dc=dc)
        user = Typing(NUMBER, passwords=("hunter2",), scanned_by=server)
        assert opens(server, log_in_by_qr(settings(server), user))
        assert user.shown[0].startswith("tg://login?token=")


class TestOut:
    def test_ends_the_login(self, server: Server) -> None:
        account = TelegramAccount(server)
        login = Login(server.session(account.phone), account.user_id, "")
        assert opens(server, login)
        log_out(settings(server), login.session)
        with pytest.raises(AccessError, match="tgdav auth"):
            opens(server, login)

    def test_twice_is_fine(self, server: Server) -> None:
        login = server.session(PHONE)
        log_out(settings(server), login)
        log_out(settings(server), login)

    def test_whose_key_is_forgotten_leaves_no_trace_in_the_log(
        self, server: Server, account: TelegramAccount, caplog: pytest.LogCaptureFixture
    ) -> None:
        """asyncio logs a future whose exception was never retrieved when it is garbage-collected."""
        login = server.session(account.phone)
        server.forget_keys(account.phone)
        with pytest.raises(AccessError):
            log_out(settings(server), login)
        gc.collect()
        assert "never retrieved" not in caplog.text

    def test_of_a_malformed_login(self, server: Server) -> None:
        with pytest.raises(TgdavError):
            log_out(settings(server), "1nonsense")
