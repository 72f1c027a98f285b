"""Every fault as a client sees it, each counted; and random ones from a seed."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from telethon import errors, functions
from telethon.errors.common import AuthKeyNotFound, InvalidBufferError

from tests.mtproto.conftest import Run, ask, connected, logged_in, make_client, until
from tests.mtproto.faults import KINDS, Faults
from tests.mtproto.harness import PHONE, Server

GET_STATE = functions.updates.GetStateRequest


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("flood_wait", errors.FloodWaitError),
        ("internal", errors.ServerError),
        ("timeout", errors.TimedOutError),
        ("rpc_call_fail", errors.RpcCallFailError),
        ("worker_busy", errors.WorkerBusyTooLongRetryError),
        ("auth_key_unregistered", errors.AuthKeyUnregisteredError),
        ("session_revoked", errors.SessionRevokedError),
        ("session_expired", errors.SessionExpiredError),
        ("user_deactivated", errors.UserDeactivatedBanError),
    ],
)
def test_errors_instead_of_work(server: Server, run: Run, kind: str, expected: type[Exception]) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm(kind, "messages.sendMessage", seconds=1)
            with pytest.raises(expected):
                await ask(client, functions.messages.SendMessageRequest("me", "text"))
            assert server.messages(PHONE) == []
            if expected.__base__ is errors.UnauthorizedError:
                with pytest.raises(expected):
                    await ask(client, GET_STATE())

    run(work())
    assert server.fault_counts() == {kind: 1}


def test_flood_wait_holds_until_it_is_over(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("flood_wait", "updates.getState", seconds=100)
            for _ in range(2):
                with pytest.raises(errors.FloodWaitError) as refused:
                    await ask(client, GET_STATE())
                assert 99 <= refused.value.seconds <= 100
            assert await client.get_me()
        assert server.statistics()["violations"] == {"called during a flood wait": 1}

    run(work())


@pytest.mark.parametrize("skew", [-400.0, 400.0])
def test_flood_wait_is_as_long_when_the_clock_is_put_right(server: Server, run: Run, skew: float) -> None:
    async def work() -> None:
        server.skew(skew)
        async with logged_in(server) as client:
            server.arm("flood_wait", "messages.sendMessage", seconds=100)
            with pytest.raises(errors.FloodWaitError):
                await ask(client, functions.messages.SendMessageRequest("me", "text"))
        server.skew(0.0)
        async with logged_in(server) as client:
            with pytest.raises(errors.FloodWaitError) as refused:
                await ask(client, functions.messages.SendMessageRequest("me", "text"))
            assert 90 <= refused.value.seconds <= 100

    run(work())


def test_too_many_messages(server: Server, run: Run) -> None:
    server.set_rules(sends=(3, 3600.0))

    async def work() -> None:
        async with logged_in(server) as client:
            for _ in range(3):
                await client.send_message("me", "text")
            with pytest.raises(errors.FloodWaitError):
                await client.send_message("me", "text")

    run(work())


@pytest.mark.parametrize("kind", ["lost_answer", "half_open"])
def test_no_answer(server: Server, run: Run, kind: str) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm(kind, "messages.sendMessage")
            answer = asyncio.ensure_future(ask(client, functions.messages.SendMessageRequest("me", "text")))
            await until(lambda: server.fault_counts().get(kind))
            if kind == "lost_answer":
                assert await client.get_me()
                assert [it["text"] for it in server.messages(PHONE)] == ["text"]
            else:
                assert server.messages(PHONE) == []
                assert client.is_connected()
            assert not answer.done()
            answer.cancel()

    run(work())


@pytest.mark.parametrize(("kind", "sent"), [("dropped_connection", 1), ("dropped_answer", 1), ("restart", 1)])
def test_the_client_comes_back_and_asks_again(server: Server, run: Run, kind: str, sent: int) -> None:
    async def work() -> None:
        async with logged_in(server, connection_retries=100) as client:
            connections = server.statistics()["connections"]
            server.arm(kind, "messages.sendMessage", pause=0.05)
            await ask(client, functions.messages.SendMessageRequest("me", "text", random_id=5))
            assert len(server.messages(PHONE)) == sent
            assert server.statistics()["connections"] > connections

    run(work())
    assert server.fault_counts()[kind] == 1


def test_transport_errors(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("transport_404", "updates.getState")
            with pytest.raises(AuthKeyNotFound):
                await ask(client, GET_STATE())
        async with logged_in(server) as client:
            server.arm("transport_429", "updates.getState")
            with pytest.raises(InvalidBufferError):
                await ask(client, GET_STATE())

    run(work())


def test_forgotten_keys(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            assert server.forget_keys(PHONE) == 1
            with pytest.raises((AuthKeyNotFound, ConnectionError)):
                await client.disconnected

    run(work())


def test_new_salts_go_unnoticed(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("bad_salt", count=3)
            for number in range(5):
                await client.send_message("me", str(number))
        assert [it["text"] for it in server.messages(PHONE)] == list("01234")

    run(work())
    assert server.fault_counts() == {"bad_salt": 3}


def test_frozen_accounts_read_only(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            await client.send_message("me", "before")
            server.set_status(PHONE, "frozen")
            with pytest.raises(errors.FrozenMethodInvalidError):
                await client.send_message("me", "after")
            assert [it.text for it in await client.get_messages("me")] == ["before"]
            server.set_status(PHONE, "")
            await client.send_message("me", "after")

    run(work())


def test_noise_takes_ids(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("noise", count=2)
            ids = [(await client.send_message("me", "mine")).id for _ in range(2)]
            assert ids[1] > ids[0] + 1
        assert [it["text"] == "mine" for it in server.messages(PHONE)] == [False, True, False, True]

    run(work())


def test_duplicate_random_id_fault(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            request = functions.messages.SendMessageRequest("me", "once", random_id=77)
            await client(request)
            server.arm("random_id_duplicate")
            with pytest.raises(errors.RandomIdDuplicateError):
                await ask(client, request)
            await client(request)

    run(work())


def test_latency_and_bandwidth(tmp_path: Path, run: Run) -> None:
    async def timed(work: Any) -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await work
        return loop.time() - start

    async def work(server: Server) -> None:
        async with logged_in(server) as client:
            assert await timed(ask(client, GET_STATE())) >= 0.04
            four = [ask(client, GET_STATE()) for _ in range(4)]
            assert await timed(asyncio.gather(*four)) < 4 * 0.04
            server.set_line(latency=0.0, bandwidth=1_000_000.0)
            part = functions.upload.SaveFilePartRequest(1, 0, os.urandom(131072))
            assert await timed(ask(client, part)) >= 0.12

    with Server(tmp_path, latency=0.04) as server:
        run(work(server))
        assert {"latency", "bandwidth"} <= set(server.fault_counts())


def test_the_same_seed_draws_the_same_faults() -> None:
    def drawn(seed: int) -> list[Any]:
        faults = Faults(seed)
        faults.set_rates({"internal": 0.2, "lost_answer": 0.1})
        return [faults.strike("messages.sendMedia", ("internal", "lost_answer")) for _ in range(200)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert 20 < sum(it is not None for it in drawn(7)) < 100


def test_any_error(server: Server, run: Run) -> None:
    async def work() -> None:
        async with connected(server) as client:
            server.arm("error", "auth.sendCode", code=406, text="PHONE_PASSWORD_FLOOD")
            with pytest.raises(errors.PhonePasswordFloodError):
                await client.send_code_request(PHONE)
            server.arm("error", "auth.sendCode", text="NOBODY_KNOWS_THIS")
            with pytest.raises(errors.BadRequestError, match="NOBODY_KNOWS_THIS"):
                await client.send_code_request(PHONE)

    run(work())


def test_a_line_that_swallows_everything(server: Server, run: Run) -> None:
    async def work() -> None:
        session = server.session()
        server.accept_silently()
        client = make_client(server, session)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.connect(), 0.3)
        await client.disconnect()
        server.accept_silently(False)
        async with connected(server, session) as client:
            assert await client.get_me()

    run(work())


def test_unknown_faults_are_refused(server: Server) -> None:
    with pytest.raises(ValueError, match="no fault is called"):
        server.arm("earthquake")
    with pytest.raises(ValueError, match="no fault is called"):
        server.set_rates({"earthquake": 1.0})


def test_random_faults_lose_nothing_acknowledged(server: Server, run: Run) -> None:
    """A storm: each send is repeated with its random_id until it is answered, and is there once."""
    quiet = {
        "auth_key_unregistered",
        "session_revoked",
        "session_expired",
        "user_deactivated",
        "transport_404",
        "half_open",
    }
    loud = set(KINDS) - quiet - {"flood_wait", "lost_answer", "transport_429"}

    async def once(client: Any, request: Any) -> None:
        while True:
            try:
                await asyncio.wait_for(ask(client, request), 2)
                return
            except (errors.RPCError, TimeoutError, ConnectionError):
                await until(client._sender._transport_connected)

    async def work() -> None:
        async with logged_in(server, connection_retries=100) as client:
            server.set_rates({**dict.fromkeys(loud, 0.05), "lost_answer": 0.01, "restart": 0.01})
            for number in range(60):
                await once(client, functions.messages.SendMessageRequest("me", f"label {number}", random_id=number + 1))
            server.disarm()
        labels = [it["text"] for it in server.messages(PHONE) if it["text"].startswith("label")]
        assert labels == [f"label {number}" for number in range(60)]
        assert len(server.fault_counts()) >= 8

    run(work())
