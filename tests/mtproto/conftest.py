"""A server for each test, and clients of the unmodified Telethon before it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from telethon import TelegramClient, utils
from telethon.crypto import rsa
from telethon.sessions import StringSession

from tests.mtproto.harness import PHONE, Server, ServerProcess

API_ID = 1234567
API_HASH = "0123456789abcdef0123456789abcdef"

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def make_client(server: Server | ServerProcess, session: str = "", **options: Any) -> TelegramClient:
    """A client that knows where the server is; not connected."""
    rsa.add_key(server.public_key, old=False)
    kept = StringSession(session)
    kept.set_dc(2, "127.0.0.1", server.port)
    settings = {
        "retry_delay": 0,
        "request_retries": 1,
        "flood_sleep_threshold": 0,
        "raise_last_call_error": True,
        **options,
    }
    return TelegramClient(kept, API_ID, API_HASH, **settings)


@asynccontextmanager
async def connected(server: Server | ServerProcess, session: str = "", **options: Any) -> AsyncIterator[TelegramClient]:
    """A connected client, disconnected at the end."""
    client = make_client(server, session, **options)
    await client.connect()
    try:
        yield client
    finally:
        await client.disconnect()


@asynccontextmanager
async def logged_in(
    server: Server | ServerProcess, phone: str = PHONE, **options: Any
) -> AsyncIterator[TelegramClient]:
    """A client with a fresh login."""
    async with connected(server, server.session(phone), **options) as client:
        yield client


@asynccontextmanager
async def logged_in_by_code(server: Server, phone: str, code: str, **options: Any) -> AsyncIterator[TelegramClient]:
    """A client with a login of its own making."""
    async with connected(server, **options) as client:
        await client.send_code_request(phone)
        await client.sign_in(phone, code)
        yield client


async def ask(client: TelegramClient, request: Any) -> Any:
    """One call as it is, without the client's own retries and pauses."""
    await request.resolve(client, utils)
    return await client._sender.send(request)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits for a condition, and fails when it does not come true in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := condition()):
        if loop.time() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition}")
        await asyncio.sleep(0.005)
    return value


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "telegram", seed=1) as running:
        yield running


@pytest.fixture
def run() -> Run:
    return lambda work: asyncio.run(asyncio.wait_for(work, 30))
