"""The server's state outlives the server: a restart, a kill, a process of its own."""

import asyncio
import os
from pathlib import Path

import pytest
from telethon import functions

from tests.mtproto.conftest import Run, connected, logged_in, make_client, until
from tests.mtproto.harness import PHONE, Server, ServerProcess
from tests.mtproto.test_files import send


def test_another_server_on_the_same_folder(tmp_path: Path, run: Run) -> None:
    data = os.urandom(700_000)

    async def before(server: Server) -> str:
        async with logged_in(server) as client:
            await client.send_file("me", data, caption="label", force_document=True)
            await client(functions.upload.SaveBigFilePartRequest(9, 0, 2, data[:524288]))
            return str(client.session.save())

    async def after(server: Server, session: str) -> None:
        async with connected(server, session) as client:
            (message,) = await client.get_messages("me")
            assert message.text == "label"
            assert await client.download_media(message, bytes) == data
            await client(functions.upload.SaveBigFilePartRequest(9, 1, 2, data[524288:]))
            await client(send(await client.upload_file(b"x")))
            assert (await client.get_messages("me"))[0].id > message.id

    with Server(tmp_path) as server:
        session = run(before(server))
        key = server.public_key
    with Server(tmp_path) as server:
        assert server.public_key == key
        run(after(server, session))


def test_restart_under_a_connected_client(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server, connection_retries=200) as client:
            await client.send_message("me", "before")
            port, connections = server.port, server.statistics()["connections"]
            server.restart(0.05)
            await until(lambda: server.statistics()["connections"] > connections)
            assert [it.text for it in await client.get_messages("me")] == ["before"]
            assert server.port == port

    run(work())


def test_network_away_and_back(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server, connection_retries=1) as client:
            server.stop_listening()
            with pytest.raises(ConnectionError):
                await client.disconnected
            server.listen_again()
            await client.connect()
            assert await client.get_me()

    run(work())


def test_a_process_killed(tmp_path: Path, run: Run) -> None:
    async def before(server: ServerProcess) -> str:
        async with logged_in(server) as client:
            await client.send_message("me", "kept")
            server.noise(PHONE, 2)
            return str(client.session.save())

    async def after(server: ServerProcess, session: str) -> None:
        async with connected(server, session) as client:
            (first,) = await client.get_messages("me", 1, reverse=True)
            assert first.text == "kept"

    with ServerProcess(tmp_path) as server:
        session = run(before(server))
        with pytest.raises(RuntimeError, match="no fault is called"):
            server.arm("earthquake")
    with ServerProcess(tmp_path) as server:
        assert len(server.messages(PHONE)) == 3
        run(after(server, session))


def test_media_connections_beside_the_main_one(server: Server, run: Run) -> None:
    """One key may be used on many connections of the media-only address; those get no updates."""
    media = server.ports()["2"][1]

    async def work() -> None:
        async with logged_in(server) as client:
            others = [make_client(server, client.session.save()) for _ in range(3)]
            for other in others:
                other.session.set_dc(2, "127.0.0.1", media)
                await other.connect()
            assert server.online() == 4
            sent = await asyncio.gather(*(other.send_message("me", "text") for other in others))
            assert len({it.id for it in sent}) == 3
            assert await client.get_me()
            for other in others:
                await other.disconnect()
        assert "AUTH_KEY_DUPLICATED" not in server.statistics()["violations"]

    run(work())
