"""Documents in and out, with the unmodified client, and the rules they are held to."""

import hashlib
import os
from typing import Any

import pytest
from telethon import errors, functions, types

from tests.mtproto.conftest import Run, logged_in
from tests.mtproto.harness import PHONE, Server

SaveBig = functions.upload.SaveBigFilePartRequest
Save = functions.upload.SaveFilePartRequest


def location(message: Any) -> Any:
    document = message.document
    return types.InputDocumentFileLocation(document.id, document.access_hash, document.file_reference, "")


def get(message: Any, offset: int, limit: int, precise: bool = False) -> Any:
    return functions.upload.GetFileRequest(location(message), offset, limit, precise=precise)


def send(file: Any, caption: str = "", random_id: int | None = None) -> Any:
    media = types.InputMediaUploadedDocument(
        file, "application/octet-stream", [types.DocumentAttributeFilename("name")]
    )
    return functions.messages.SendMediaRequest("me", media, caption, random_id=random_id)


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000, 11 * 1024 * 1024 + 5])
def test_upload_and_download(server: Server, run: Run, size: int) -> None:
    data = os.urandom(size)

    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", data, caption="label", force_document=True)
            assert message.document.size == size
            assert await client.download_media(message, bytes) == data
            statistics = server.statistics()
            big = statistics["calls"].get("upload.saveBigFilePart", 0)
            assert (big > 0) == (size > 10 * 1024 * 1024)
            assert statistics["file_bytes_downloaded"] == size
            assert not statistics["violations"]

    run(work())


def test_ranges(server: Server, run: Run) -> None:
    data = os.urandom(2_500_000)

    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", data, force_document=True)
            for offset, limit in [(0, 1 << 20), (1 << 20, 1 << 20), (4096, 4096), (1 << 19, 1 << 19)]:
                assert (await client(get(message, offset, limit))).bytes == data[offset : offset + limit]
            assert (await client(get(message, 1024, 5120, precise=True))).bytes == data[1024:6144]
            assert (await client(get(message, 2 << 20, 1 << 20))).bytes == data[2 << 20 :]
            assert (await client(get(message, 3 << 20, 4096))).bytes == b""

    run(work())


@pytest.mark.parametrize(
    ("offset", "limit", "precise", "expected"),
    [
        (1024, 4096, False, errors.OffsetInvalidError),
        (0, 1024, False, errors.LimitInvalidError),
        (0, 12288, False, errors.LimitInvalidError),
        (0, 2 << 20, False, errors.LimitInvalidError),
        (512 * 1024, 1 << 20, False, errors.LimitInvalidError),
        (100, 1024, True, errors.OffsetInvalidError),
        (0, 1000, True, errors.LimitInvalidError),
        (1047552, 2048, True, errors.LimitInvalidError),
    ],
)
def test_range_rules(
    server: Server, run: Run, offset: int, limit: int, precise: bool, expected: type[Exception]
) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", b"x" * 5000, force_document=True)
            with pytest.raises(expected):
                await client(get(message, offset, limit, precise))
            assert server.statistics()["violations"] == {
                "OFFSET_INVALID" if expected is errors.OffsetInvalidError else "LIMIT_INVALID": 1
            }

    run(work())


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Save(1, 0, b""), errors.FilePartEmptyError),
        (Save(1, 0, bytes(524289)), errors.FilePartTooBigError),
        (Save(1, 4000, bytes(1024)), errors.FilePartInvalidError),
        (Save(1, -1, bytes(1024)), errors.FilePartInvalidError),
        (SaveBig(1, 0, 2, bytes(1000)), errors.FilePartSizeInvalidError),
        (SaveBig(1, 0, 2, bytes(3072)), errors.FilePartSizeInvalidError),
        (SaveBig(1, 2, 2, bytes(1024)), errors.FilePartInvalidError),
        (SaveBig(1, 0, 4001, bytes(1024)), errors.FilePartsInvalidError),
    ],
)
def test_part_rules(server: Server, run: Run, request_: Any, expected: type[Exception]) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            with pytest.raises(expected):
                await client(request_)

    run(work())
    assert sum(server.statistics()["violations"].values()) == 1


def test_whole_file_rules(server: Server, run: Run) -> None:
    big, small = types.InputFileBig, types.InputFile

    async def refused(client: Any, parts: list[Any], file: Any, expected: type[Exception]) -> None:
        for part in parts:
            assert await client(part)
        with pytest.raises(expected):
            await client(send(file))

    async def work() -> None:
        async with logged_in(server) as client:
            await refused(client, [SaveBig(1, 0, 3, bytes(1024))], big(1, 3, ""), errors.FilePartMissingError)
            await refused(client, [SaveBig(2, 1, 2, bytes(1024))], big(2, 2, ""), errors.FilePart0MissingError)
            uneven = [SaveBig(3, 0, -1, bytes(1024)), SaveBig(3, 1, -1, bytes(2048)), SaveBig(3, 2, 3, bytes(9))]
            await refused(client, uneven, big(3, 3, ""), errors.FilePartSizeChangedError)
            await refused(client, [Save(4, 0, b"data")], small(4, 1, "", "0" * 32), errors.Md5ChecksumInvalidError)
            await refused(client, [Save(5, 0, b"data")], big(5, 1, ""), errors.FilePartsInvalidError)
            many = [Save(6, part, bytes(524288)) for part in range(21)]
            await refused(client, many, small(6, 21, "", ""), errors.FilePartsInvalidError)

    run(work())


def test_unknown_size_and_any_order(server: Server, run: Run) -> None:
    data = os.urandom(3 * 524288 + 5)
    pieces = [data[start : start + 524288] for start in range(0, len(data), 524288)]

    async def work() -> None:
        async with logged_in(server) as client:
            for part in (2, 0, 1, 0):
                await client(SaveBig(9, part, -1, pieces[part]))
            await client(SaveBig(9, 3, 4, pieces[3]))
            await client(send(types.InputFileBig(9, 4, "")))
            (message,) = await client.get_messages("me")
            assert await client.download_media(message, bytes) == data

    run(work())


def test_sending_an_existing_document(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            first = await client.send_file("me", b"content", force_document=True)
            second = await client.send_file("me", first.document, caption="again")
            assert second.document.id == first.document.id
            await first.delete()
            assert await client.download_media(second, bytes) == b"content"
            await second.delete()
            with pytest.raises(errors.FileIdInvalidError):
                await client(get(second, 0, 4096))

    run(work())


def test_references(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", b"content", force_document=True)
            server.age_references()
            with pytest.raises(errors.FileReferenceExpiredError):
                await client(get(message, 0, 4096))
            fresh = await client.get_messages("me", ids=message.id)
            assert (await client(get(fresh, 0, 4096))).bytes == b"content"
            fresh.document.file_reference = b"nonsense"
            with pytest.raises(errors.FileReferenceInvalidError):
                await client(get(fresh, 0, 4096))
            fresh.document.file_reference = b""
            with pytest.raises(errors.FileReferenceEmptyError):
                await client(get(fresh, 0, 4096))
            server.set_rules(reference_lifetime=60)
            server.advance(61)
            with pytest.raises(errors.FileReferenceExpiredError):
                await client(get(message, 0, 4096))

    run(work())


def test_other_dc(server: Server, run: Run) -> None:
    data = os.urandom(300_000)

    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("other_dc")
            message = await client.send_file("me", data, force_document=True)
            assert message.document.dc_id == 4
            with pytest.raises(errors.FileMigrateError):
                await client(get(message, 0, 4096))
            assert await client.download_media(message, bytes) == data
            assert server.statistics()["calls"]["auth.importAuthorization"] == 1

    run(work())


def test_captions(server: Server, run: Run) -> None:
    server.add_account("9996620001", premium=True)

    async def longest(phone: str, length: int) -> None:
        async with logged_in(server, phone) as client:
            assert (await client(functions.help.GetConfigRequest())).caption_length_max == length
            await client.send_file("me", b"x", caption="c" * length, force_document=True)
            with pytest.raises(errors.MediaCaptionTooLongError):
                await client.send_file("me", b"x", caption="c" * (length + 1), force_document=True)

    async def work() -> None:
        await longest(PHONE, 1024)
        await longest("9996620001", 4096)

    run(work())


def test_uploads_expire(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            file = await client.upload_file(b"x" * 1000)
            server.advance(3600)
            assert server.expire_uploads() == 1
            with pytest.raises(errors.FilePart0MissingError):
                await client(send(file))

    run(work())


def test_damaged_documents_read_differently(server: Server, run: Run) -> None:
    data = os.urandom(700_000)

    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", data, force_document=True)
            server.damage(PHONE, message.id, 650_000)
            read = await client.download_media(message, bytes)
            assert [i for i in range(len(data)) if data[i] != read[i]] == [650_000]

    run(work())


def test_compressible_parts_arrive_unpacked(server: Server, run: Run) -> None:
    data = b"the same again and again " * 40_000

    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_file("me", data, force_document=True)
            read = await client.download_media(message, bytes)
            assert hashlib.sha256(read).digest() == hashlib.sha256(data).digest()
            assert server.statistics()["bytes_received"] < len(data) // 2

    run(work())
