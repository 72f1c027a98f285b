"""Faults of uploads and downloads as a client sees them."""

import os

import pytest
from telethon import errors, functions, types

from tests.mtproto.conftest import Run, ask, logged_in
from tests.mtproto.harness import PHONE, Server
from tests.mtproto.test_files import get, send


def test_premium_wait(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("flood_premium_wait", "upload.saveFilePart", seconds=7)
            part = functions.upload.SaveFilePartRequest(1, 0, b"data")
            with pytest.raises(errors.FloodPremiumWaitError) as refused:
                await ask(client, part)
            assert refused.value.seconds == 7
            assert await ask(client, part)
            server.set_rules(free_traffic=1000, premium_wait=5)
            with pytest.raises(errors.FloodPremiumWaitError):
                await ask(client, functions.upload.SaveFilePartRequest(1, 1, bytes(2048)))

    run(work())
    assert server.fault_counts() == {"flood_premium_wait": 2}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("part_lost", errors.FilePartMissingError),
        ("part_zero_lost", errors.FilePart0MissingError),
        ("md5_invalid", errors.Md5ChecksumInvalidError),
    ],
)
def test_uploads_that_lose_something(server: Server, run: Run, kind: str, expected: type[Exception]) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            file = await client.upload_file(os.urandom(3000), part_size_kb=1)
            server.arm(kind, part=2)
            with pytest.raises(expected):
                await ask(client, send(file))
            assert server.messages(PHONE) == []

    run(work())
    assert server.fault_counts() == {kind: 1}


def test_refused_part(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("part_refused")
            part = functions.upload.SaveFilePartRequest(1, 0, b"data")
            assert [await client(part), await client(part)] == [False, True]

    run(work())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("reference_expired", errors.FileReferenceExpiredError),
        ("reference_invalid", errors.FileReferenceInvalidError),
        ("reference_empty", errors.FileReferenceEmptyError),
        ("file_id_invalid", errors.FileIdInvalidError),
    ],
)
def test_references_go_stale(server: Server, run: Run, kind: str, expected: type[Exception]) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", b"content", force_document=True)
            server.arm(kind)
            with pytest.raises(expected):
                await ask(client, get(message, 0, 4096))
            fresh = await client.get_messages("me", ids=message.id)
            assert (await client(get(fresh, 0, 4096))).bytes == b"content"

    run(work())


def test_short_and_damaged_reads(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", b"c" * 1000, force_document=True)
            server.arm("short_read")
            assert (await client(get(message, 0, 4096))).bytes == b"c" * 500
            server.arm("damaged_read")
            assert (await client(get(message, 0, 4096))).bytes == b"c" * 999 + b"b"

    run(work())


def test_deleted_by_the_user(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", b"content", force_document=True)
            server.delete(PHONE, [message.id])
            with pytest.raises(errors.FileIdInvalidError):
                await client(get(message, 0, 4096))
            empty = await client(functions.messages.GetMessagesRequest([types.InputMessageID(message.id)]))
            assert isinstance(empty.messages[0], types.MessageEmpty)

    run(work())
