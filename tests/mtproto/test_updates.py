"""What another session of the account learns, and how it catches up."""

from typing import Any

import pytest
from telethon import errors, events, functions, types

from tests.mtproto.conftest import Run, connected, logged_in, until
from tests.mtproto.harness import PHONE, Server


def watch(client: Any, kind: Any) -> list[Any]:
    seen: list[Any] = []

    async def note(event: Any) -> None:
        seen.append(event)

    client.add_event_handler(note, kind)
    return seen


def test_second_session(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as first, logged_in(server) as second:
            kinds = events.NewMessage, events.MessageEdited, events.MessageDeleted
            new, edited, deleted = (watch(second, kind) for kind in kinds)
            own = watch(first, events.NewMessage)
            message = await first.send_file("me", b"x", caption="label", force_document=True)
            await until(lambda: new)
            assert (new[0].message.id, new[0].message.text) == (message.id, "label")
            await message.edit("other")
            await until(lambda: edited)
            await message.delete()
            await until(lambda: deleted)
            assert deleted[0].deleted_ids == [message.id]
            assert own == []

    run(work())


def test_channel_updates(server: Server, run: Run) -> None:
    number = server.create_channel(PHONE, "vault")

    async def work() -> None:
        async with logged_in(server) as first, logged_in(server) as second:
            seen = watch(second, events.NewMessage)
            (dialog,) = await first.get_dialogs()
            await first.send_message(dialog.entity, "text")
            await until(lambda: seen)
            assert seen[0].message.peer_id.channel_id == number
            channel = types.InputChannel(number, dialog.entity.access_hash)
            asked = functions.updates.GetChannelDifferenceRequest(channel, types.ChannelMessagesFilterEmpty(), 1, 100)
            difference = await second(asked)
            assert [it.id for it in difference.new_messages] == [1, 2]
            assert difference.final

    run(work())


def test_no_updates_without_being_asked(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server, receive_updates=False) as quiet, logged_in(server) as loud:
            seen, heard = watch(quiet, events.NewMessage), watch(loud, events.NewMessage)
            server.noise(PHONE)
            await until(lambda: heard)
            await quiet.get_me()
            assert seen == []

    run(work())


def test_difference(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            start = (await client(functions.updates.GetStateRequest())).pts
            ids = [(await client.send_message("me", str(i))).id for i in range(5)]
            await client.edit_message("me", ids[1], "changed")
            await client.delete_messages("me", ids[3:])
            asked = functions.updates.GetDifferenceRequest(start, 0, 0)
            difference = await client(asked)
            assert isinstance(difference, types.updates.Difference)
            assert [it.id for it in difference.new_messages] == ids[:3]
            assert [type(it) for it in difference.other_updates] == [
                types.UpdateEditMessage,
                types.UpdateDeleteMessages,
            ]
            assert difference.state.pts == start + 8
            server.set_rules(difference_page=3)
            piece = await client(asked)
            assert isinstance(piece, types.updates.DifferenceSlice)
            assert piece.intermediate_state.pts == start + 3
            server.set_rules(difference_kept=4)
            assert (await client(asked)).pts == start + 8
            with pytest.raises(errors.PersistentTimestampInvalidError):
                await client(functions.updates.GetDifferenceRequest(start + 100, 0, 0))
            assert isinstance(
                await client(functions.updates.GetDifferenceRequest(start + 8, 0, 0)), types.updates.DifferenceEmpty
            )

    run(work())


def test_planted_history_is_too_long_a_difference(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            start = (await client(functions.updates.GetStateRequest())).pts
            server.plant(PHONE, [{"text": "old"}] * 10)
            difference = await client(functions.updates.GetDifferenceRequest(start, 0, 0))
            assert isinstance(difference, types.updates.DifferenceTooLong)

    run(work())


@pytest.mark.parametrize("fault", ["update_lost", "update_late", "updates_too_long"])
def test_gaps_are_closed_by_the_difference(server: Server, run: Run, fault: str) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            seen = watch(client, events.NewMessage)
            server.arm(fault)
            ids = server.noise(PHONE, 3)
            await until(lambda: len(seen) == 3)
            assert sorted(it.message.id for it in seen) == ids
        assert server.fault_counts()[fault] == 1

    run(work())


def test_difference_too_long_fault(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            server.arm("difference_too_long")
            difference = await client(functions.updates.GetDifferenceRequest(1, 0, 0))
            assert isinstance(difference, types.updates.DifferenceTooLong)

    run(work())


def test_updates_follow_a_login_over_reconnects(server: Server, run: Run) -> None:
    async def work() -> None:
        async with logged_in(server) as client:
            session = client.session.save()
        async with connected(server, session) as client:
            seen = watch(client, events.NewMessage)
            await client.get_me()
            server.noise(PHONE)
            await until(lambda: seen)

    run(work())
