"""Sending, paging, searching, editing, deleting, in Saved Messages and in a channel."""

import base64
from typing import Any

import pytest
from telethon import errors, functions, types

from tests.mtproto.conftest import Run, ask, connected, logged_in
from tests.mtproto.harness import PHONE, Server


def history(peer: Any = "me", **given: Any) -> Any:
    asked = {
        "offset_id": 0,
        "offset_date": None,
        "add_offset": 0,
        "limit": 100,
        "max_id": 0,
        "min_id": 0,
        "hash": 0,
        **given,
    }
    return functions.messages.GetHistoryRequest(peer, **asked)


def fill(server: Server, count: int) -> list[int]:
    ids: list[int] = server.plant(PHONE, [{"text": f"number {i}"} for i in range(count)])
    return ids


def test_paging(server: Server, run: Run) -> None:
    ids = fill(server, 250)
    assert ids == sorted(set(ids))
    assert ids[-1] > 250

    async def work() -> None:
        async with logged_in(server) as client:
            assert [it.id async for it in client.iter_messages("me", wait_time=0)] == ids[::-1]
            assert [it.id async for it in client.iter_messages("me", wait_time=0, reverse=True)] == ids
            assert [it.id async for it in client.iter_messages("me", wait_time=0, reverse=True, min_id=ids[99])] == ids[
                100:
            ]
            page = await client(history(limit=1000))
            assert isinstance(page, types.messages.MessagesSlice)
            assert (len(page.messages), page.count) == (100, 250)
            assert [it.id for it in (await client(history(offset_id=ids[50], limit=10))).messages] == ids[40:50][::-1]
            around = await client(history(offset_id=ids[50], add_offset=-5, limit=10))
            assert [it.id for it in around.messages] == ids[45:55][::-1]
            assert [it.id for it in (await client(history(add_offset=245))).messages] == ids[:5][::-1]
            assert (await client(history(max_id=ids[10]))).messages == []
        assert server.statistics()["violations"] == {"page over 100 messages": 1}

    run(work())


def test_a_short_history_is_no_slice(server: Server, run: Run) -> None:
    fill(server, 3)

    async def work() -> None:
        async with logged_in(server) as client:
            assert isinstance(await client(history()), types.messages.Messages)

    run(work())


def test_search_knows_words_of_the_text_only(server: Server, run: Run) -> None:
    fill(server, 3)
    data = base64.b64encode(b"x").decode()
    server.plant(PHONE, [{"text": "number label", "data": data, "name": "secret.bin"}])

    async def work() -> None:
        async with logged_in(server) as client:
            assert len(await client.get_messages("me", None, search="number")) == 4
            assert len(await client.get_messages("me", None, search="numb")) == 0
            assert len(await client.get_messages("me", None, search="secret.bin")) == 0
            documents = await client.get_messages("me", None, filter=types.InputMessagesFilterDocument)
            assert [it.text for it in documents] == ["number label"]

    run(work())


def test_editing(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            message = await client.send_message("me", "  first  ")
            assert message.text == "first"
            assert (await message.edit("second")).text == "second"
            with pytest.raises(errors.MessageNotModifiedError):
                await client.edit_message("me", message.id, "second ")
            with pytest.raises(errors.MessageIdInvalidError):
                await client.edit_message("me", message.id + 1, "text")
            with pytest.raises(errors.MessageTooLongError):
                await client.edit_message("me", message.id, "x" * 4097)
            file = await client.send_file("me", b"x", caption="label", force_document=True)
            with pytest.raises(errors.MediaCaptionTooLongError):
                await client.edit_message("me", file.id, "x" * 1025)

    run(work())


def test_deleting(server: Server, run: Run) -> None:
    ids = fill(server, 150)

    async def work() -> None:
        async with logged_in(server) as client:
            before = (await client(functions.updates.GetStateRequest())).pts
            affected = await client(functions.messages.DeleteMessagesRequest([*ids[:99], 999_999]))
            assert (affected.pts, affected.pts_count) == (before + 99, 99)
            with pytest.raises(errors.LimitInvalidError):
                await client(functions.messages.DeleteMessagesRequest(ids[:101]))
            gone, kept = await client.get_messages("me", ids=[ids[0], ids[120]])
            assert (gone, kept.id) == (None, ids[120])
            assert (await client(history())).messages[-1].id == ids[99]

    run(work())


def test_random_ids_put_if_absent(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            request = functions.messages.SendMessageRequest("me", "once", random_id=77)
            first, second = await client(request), await client(request)
            assert [it.id for it in (first.updates[0], second.updates[0])] == [first.updates[0].id] * 2
            server.set_rules(repeat_random_id="error")
            with pytest.raises(errors.RandomIdDuplicateError):
                await ask(client, request)
            server.set_rules(repeat_random_id="first", random_id_memory=3600)
            server.advance(4000)
            assert (await client(request)).updates[0].id > first.updates[0].id
        assert len(server.messages(PHONE)) == 2

    run(work())


def test_sending_answers_the_next_pts(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            state = await client(functions.updates.GetStateRequest())
            assert state.pts >= 1
            for step in (1, 2, 3):
                answer = await client(functions.messages.SendMessageRequest("me", "text"))
                named, new = answer.updates
                assert (named.id, new.pts, new.pts_count) == (new.message.id, state.pts + step, 1)

    run(work())


def test_unknown_peers_and_methods(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            with pytest.raises(errors.PeerIdInvalidError):
                await client(history(types.InputPeerUser(5, 5)))
            with pytest.raises(errors.ChannelInvalidError):
                await client(history(types.InputPeerChannel(5, 5)))
            with pytest.raises(errors.BadRequestError, match="INPUT_METHOD_INVALID"):
                await client(functions.messages.GetStickersRequest("x", 0))

    run(work())


def test_channel(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            made = await client(functions.channels.CreateChannelRequest("vault", "about", broadcast=True))
            channel = made.chats[0]
            message = await client.send_file(channel, b"content", caption="label", force_document=True)
            assert message.id == 2
            mine = await client.send_message("me", "elsewhere")
            second = await client.send_message(channel, "text")
            assert second.id == 3
            assert (await client.edit_message(channel, 3, "changed")).text == "changed"
            assert [it.text for it in await client.get_messages(channel, None)] == ["changed", "label", None]
            assert await client.download_media(await client.get_messages(channel, ids=2), bytes) == b"content"
            await client.delete_messages(channel, [3])
            assert (await client.get_messages(channel, ids=[2, 3]))[1] is None
            assert (await client.get_messages("me"))[0].id == mine.id
            session = client.session.save()
        async with connected(server, session) as client:
            await client.get_dialogs()
            assert (await client.get_entity(-1_000_000_000_000 - channel.id)).title == "vault"

    run(work())


def test_channels_of_others(server: Server, run: Run) -> None:
    server.add_account("9996620002")
    server.add_account("9996620003")
    server.create_channel(PHONE, "open", username="open_vault", members=["9996620002"])

    async def work() -> None:
        async with logged_in(server, "9996620002") as member:
            with pytest.raises(errors.ChatWriteForbiddenError):
                await member.send_message("open_vault", "text")
            with pytest.raises(errors.ChatAdminRequiredError):
                await member.delete_messages("open_vault", [1])
        async with logged_in(server, "9996620003") as stranger:
            with pytest.raises(errors.ChannelPrivateError):
                await stranger.get_messages("open_vault")
            with pytest.raises(ValueError, match="No user has"):
                await stranger.get_messages("no_such_channel")

    run(work())


def test_pinning(server: Server, run: Run) -> None:
    ids = fill(server, 2)

    async def work() -> None:
        async with logged_in(server) as client:
            await client.pin_message("me", ids[0])
            (pinned,) = await client.get_messages("me", None, filter=types.InputMessagesFilterPinned)
            assert pinned.id == ids[0]
            await client.unpin_message("me", ids[0])
            assert len(await client.get_messages("me", None, filter=types.InputMessagesFilterPinned)) == 0

    run(work())
