"""Logging in and out, with the unmodified client."""

import asyncio
import time

import pytest
from telethon import errors, functions

from tests.mtproto.conftest import API_HASH, Run, connected, logged_in, logged_in_by_code, make_client, until
from tests.mtproto.harness import CODE, PHONE, Server


def test_code(server: Server, run: Run) -> None:
    async def work() -> None:
        async with connected(server) as client:
            assert not await client.is_user_authorized()
            await client.send_code_request(PHONE)
            with pytest.raises(errors.PhoneCodeInvalidError):
                await client.sign_in(PHONE, "99999")
            me = await client.sign_in(PHONE, CODE)
            assert me.phone == PHONE
            session = client.session.save()
        async with connected(server, session) as again:
            assert (await again.get_me()).id == me.id
        assert server.statistics()["handshakes"] == 1

    run(work())


def test_password(server: Server, run: Run) -> None:
    server.add_account("9996625555", "12345", "hunter2")

    async def work() -> None:
        async with connected(server) as client:
            await client.send_code_request("9996625555")
            with pytest.raises(errors.SessionPasswordNeededError):
                await client.sign_in("9996625555", "12345")
            with pytest.raises(errors.PasswordHashInvalidError):
                await client.sign_in(password="wrong")
            assert (await client.sign_in(password="hunter2")).phone == "9996625555"

    run(work())


@pytest.mark.parametrize("password", [None, "hunter2"])
def test_qr_code(server: Server, run: Run, password: str | None) -> None:
    server.add_account("9996625556", "12345", password)

    async def work() -> None:
        async with connected(server) as client:
            shown = await client.qr_login()
            waiting = asyncio.ensure_future(shown.wait(10))
            await until(lambda: client.list_event_handlers())
            server.scan(shown.url, "9996625556")
            if password is not None:
                with pytest.raises(errors.SessionPasswordNeededError):
                    await waiting
                await client.sign_in(password=password)
            else:
                await waiting
            assert (await client.get_me()).phone == "9996625556"

    run(work())


def test_qr_code_expires(server: Server, run: Run) -> None:
    async def work() -> None:
        async with connected(server) as client:
            shown = await client.qr_login()
            server.advance(31)
            with pytest.raises(errors.AuthTokenExpiredError):
                async with logged_in(server) as other:
                    await other(functions.auth.AcceptLoginTokenRequest(shown.token))

    run(work())


def test_account_of_another_dc(server: Server, run: Run) -> None:
    server.add_account("9996645555", "44444", dc=4)

    async def work() -> None:
        async with logged_in_by_code(server, "9996645555", "44444") as client:
            assert client.session.dc_id == 4
            assert client.session.port != server.port
        async with connected(server) as client:
            shown = await client.qr_login()
            waiting = asyncio.ensure_future(shown.wait(10))
            await until(lambda: client.list_event_handlers())
            server.scan(shown.url, "9996645555")
            assert (await waiting).phone == "9996645555"
            assert client.session.dc_id == 4

    run(work())


@pytest.mark.parametrize(
    ("phone", "status", "expected"),
    [
        ("123", "", errors.PhoneNumberInvalidError),
        ("9996625557", "banned", errors.PhoneNumberBannedError),
    ],
)
def test_refused_numbers(server: Server, run: Run, phone: str, status: str, expected: type[Exception]) -> None:
    server.add_account("9996625557")
    server.set_status("9996625557", status)

    async def work() -> None:
        async with connected(server) as client:
            with pytest.raises(expected):
                await client.send_code_request(phone)

    run(work())


def test_unknown_number(server: Server, run: Run) -> None:
    async def work() -> None:
        async with connected(server) as client:
            await client.send_code_request("9996629999")
            with pytest.raises(errors.PhoneNumberUnoccupiedError):
                await client.sign_in("9996629999", "12345")

    run(work())


def test_application_ids(server: Server, run: Run) -> None:
    async def refused(api_id: int, api_hash: str, expected: type[Exception]) -> None:
        client = make_client(server)
        client.api_id, client.api_hash = api_id, api_hash
        await client.connect()
        with pytest.raises(expected):
            await client.send_code_request(PHONE)
        await client.disconnect()

    async def work() -> None:
        await refused(2040, API_HASH, errors.ApiIdPublishedFloodError)
        await refused(12345, "short", errors.ApiIdInvalidError)

    run(work())


def test_expired_code(server: Server, run: Run) -> None:
    async def work() -> None:
        async with connected(server) as client:
            await client.send_code_request(PHONE)
            server.advance(301)
            with pytest.raises(errors.PhoneCodeExpiredError):
                await client.sign_in(PHONE, CODE)

    run(work())


def test_log_out(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            session = client.session.save()
            assert await client.log_out()
        async with connected(server, session) as again:
            assert not await again.is_user_authorized()

    run(work())


def test_second_main_connection_ends_the_login(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            copy = make_client(server, client.session.save())
            with pytest.raises(errors.AuthKeyDuplicatedError):
                await copy.connect()
            await copy.disconnect()
            with pytest.raises(errors.AuthKeyDuplicatedError):
                await client(functions.users.GetUsersRequest(["me"]))
        assert server.statistics()["violations"]["AUTH_KEY_DUPLICATED"] == 1

    run(work())


def test_reconnecting_is_no_second_connection(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            for _ in range(5):
                server.drop_connections()
                await until(client.is_connected)
                assert (await client.get_me()).phone == PHONE
        assert "AUTH_KEY_DUPLICATED" not in server.statistics()["violations"]

    run(work())


def test_wrong_clock_is_corrected(server: Server, run: Run) -> None:
    server.skew(1000)

    async def work() -> None:
        async with logged_in(server) as client:
            assert abs((await client.get_messages("me", 1)).total) == 0
            message = await client.send_message("me", "late")
            assert abs(message.date.timestamp() - time.time()) < 60

    run(work())
