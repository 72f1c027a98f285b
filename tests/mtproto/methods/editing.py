"""Editing, pinning and deleting messages, in the account's box and in channels."""

from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import bad
from tests.mtproto.rules import PAGE_MAX
from tests.mtproto.state.boxes import Event
from tests.mtproto.state.channels import may_manage
from tests.mtproto.world import Online, World


@method(functions.messages.EditMessageRequest, writes=True)
def edit_message(call: Call, request: Any) -> Any:
    """A new text; the same text again is MESSAGE_NOT_MODIFIED."""
    world = call.world
    box, peer, channel = world.peer(call.user, request.peer)
    if channel is not None:
        may_manage(channel, call.user)
    stored = world.boxes.get(box, [request.id]).get(request.id)
    if stored is None or stored.peer != peer or stored.action is not None:
        raise bad("MESSAGE_ID_INVALID")
    if request.media is not None:
        raise bad("MEDIA_INVALID")
    text = (request.message or "").strip()
    _check_text(call, text, stored.document is not None)
    if text == stored.text:
        raise bad("MESSAGE_NOT_MODIFIED")
    event = world.boxes.edit(box, request.id, text, world.now())
    world.publish(box, event, but=call.connection)
    return world.updates(box, world.shown_event(box, event, call.user), call.user)


def _check_text(call: Call, text: str, caption: bool) -> None:
    rules = call.world.rules
    if not text and not caption:
        raise bad("MESSAGE_EMPTY")
    if caption and len(text) > (rules.caption_max_premium if call.account.premium else rules.caption_max):
        raise bad("MEDIA_CAPTION_TOO_LONG")
    if len(text) > rules.text_max:
        raise bad("MESSAGE_TOO_LONG")


@method(functions.messages.DeleteMessagesRequest, writes=True)
def delete_messages(call: Call, request: Any) -> Any:
    """Deletes up to 100 messages of the account's box; ids that do not exist are passed over."""
    return _delete(call, call.user, request.id)


@method(functions.channels.DeleteMessagesRequest, writes=True)
def delete_channel_messages(call: Call, request: Any) -> Any:
    """Deletes up to 100 messages of a channel."""
    channel = call.world.channels.enter(call.user, request.channel)
    may_manage(channel, call.user)
    return _delete(call, channel.box, request.id)


def _delete(call: Call, box: int, ids: list[int]) -> Any:
    if not ids:
        raise bad("MESSAGE_IDS_EMPTY")
    if len(ids) > PAGE_MAX:
        raise bad("LIMIT_INVALID")
    event = remove(call.world, box, ids, call.connection)
    return types.messages.AffectedMessages(call.world.boxes.pts(box), 0 if event is None else event.count)


def remove(world: World, box: int, ids: list[int], caller: Online | None = None) -> Event | None:
    """Deletes messages and the documents that nobody shows any more; tells everybody."""
    event, documents = world.boxes.delete(box, ids)
    for document in documents:
        world.documents.remove(document)
    if event is not None:
        world.publish(box, event, but=caller)
    return event


@method(functions.messages.UpdatePinnedMessageRequest, writes=True)
def update_pinned_message(call: Call, request: Any) -> Any:
    """Pins or unpins; the last one wins. It takes no pts here."""
    box, peer, channel = call.world.peer(call.user, request.peer)
    if channel is not None:
        may_manage(channel, call.user)
    stored = call.world.boxes.get(box, [request.id]).get(request.id)
    if stored is None or stored.peer != peer:
        raise bad("MESSAGE_ID_INVALID")
    values = (0 if request.unpin else 1, box, request.id)
    call.world.database.run("UPDATE messages SET pinned=? WHERE box=? AND id=?", *values)
    return call.world.updates(box, [], call.user)
