"""messages.getHistory, search, getMessages, getDialogs: reading what is there."""

from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import bad
from tests.mtproto.rules import PAGE_MAX
from tests.mtproto.state.boxes import Stored
from tests.mtproto.state.history import Page, Wanted, matches, page

_DOCUMENTS = types.InputMessagesFilterDocument
_KNOWN = types.InputMessagesFilterEmpty | types.InputMessagesFilterPinned


def _seconds(moment: Any) -> int:
    return 0 if moment is None else int(moment.timestamp())


def _asked(call: Call, request: Any, date: Any) -> Page:
    """The request's page; more than 100 messages are never given."""
    if request.limit > PAGE_MAX:
        call.violate("page over 100 messages")
    limit = max(min(request.limit, PAGE_MAX), 0)
    return Page(request.offset_id, _seconds(date), request.add_offset, limit, request.max_id, request.min_id)


def _answer(call: Call, box: int, found: list[Stored], total: int) -> Any:
    """A page as the API gives it: whole, sliced, or a channel's."""
    shown = [call.world.show(it, call.user) for it in found]
    users, chats = call.world.people(box, call.user)
    if box < 0:
        return types.messages.ChannelMessages(call.world.boxes.pts(box), total, shown, [], chats, users)
    if len(found) < total:
        return types.messages.MessagesSlice(total, shown, [], chats, users)
    return types.messages.Messages(shown, [], chats, users)


@method(functions.messages.GetHistoryRequest)
def get_history(call: Call, request: Any) -> Any:
    """A page of a dialog, newest first."""
    box, peer, _ = call.world.peer(call.user, request.peer)
    found = page(call.world.database, box, peer, _asked(call, request, request.offset_date))
    return _answer(call, box, found, call.world.boxes.count(box, peer))


@method(functions.messages.SearchRequest)
def search(call: Call, request: Any) -> Any:
    """A page of what a search finds; of other filters than documents and pinned messages nothing."""
    world = call.world
    box, peer, _ = world.peer(call.user, request.peer)
    if not isinstance(request.filter, _KNOWN | _DOCUMENTS):
        return _answer(call, box, [], 0)
    pinned = isinstance(request.filter, types.InputMessagesFilterPinned)
    wanted = Wanted(request.q.strip(), isinstance(request.filter, _DOCUMENTS), pinned)
    found = page(world.database, box, peer, _asked(call, request, request.max_date), wanted)
    return _answer(call, box, found, matches(world.database, box, peer, wanted))


def _numbers(given: list[Any]) -> list[int]:
    if len(given) > PAGE_MAX:
        raise bad("LIMIT_INVALID")
    if not all(isinstance(it, types.InputMessageID) for it in given):
        raise bad("MESSAGE_ID_INVALID")
    return [it.id for it in given]


def _picked(call: Call, box: int, ids: list[int]) -> list[Any]:
    """The messages of those ids; an empty one for each that is not there."""
    found = call.world.boxes.get(box, ids)
    peer = types.PeerUser(call.user) if box > 0 else types.PeerChannel(-box)
    return [call.world.show(found[i], call.user) if i in found else types.MessageEmpty(i, peer) for i in ids]


@method(functions.messages.GetMessagesRequest)
def get_messages(call: Call, request: Any) -> Any:
    """Messages of the account's box by id, 100 at most."""
    users, chats = call.world.people(call.user, call.user)
    return types.messages.Messages(_picked(call, call.user, _numbers(request.id)), [], chats, users)


@method(functions.channels.GetMessagesRequest)
def get_channel_messages(call: Call, request: Any) -> Any:
    """Messages of a channel by id, 100 at most."""
    box = call.world.channels.enter(call.user, request.channel).box
    shown = _picked(call, box, _numbers(request.id))
    users, chats = call.world.people(box, call.user)
    return types.messages.ChannelMessages(call.world.boxes.pts(box), len(shown), shown, [], chats, users)


@method(functions.messages.GetDialogsRequest)
def get_dialogs(call: Call, request: Any) -> Any:
    """All dialogs on one page: private chats, then channels."""
    world = call.world
    pairs = [(call.user, peer, newest) for peer, newest in world.boxes.dialogs(call.user)]
    channels = world.channels.of(call.user)
    pairs += [(it.box, peer, newest) for it in channels for peer, newest in world.boxes.dialogs(it.box)]
    dialogs, messages = [], []
    for box, peer, newest in pairs:
        shown = types.PeerUser(peer) if peer > 0 else types.PeerChannel(-peer)
        pts = world.boxes.pts(box) if box < 0 else None
        dialogs.append(types.Dialog(shown, newest, newest, newest, 0, 0, 0, 0, types.PeerNotifySettings(), pts=pts))
        messages += [world.show(it, call.user) for it in world.boxes.get(box, [newest]).values()]
    people = {call.user} | {peer for _, peer, _ in pairs if peer > 0}
    users = [world.accounts.get(user).as_user(call.user) for user in sorted(people)]
    return types.messages.Dialogs(dialogs, messages, [it.as_chat(call.user) for it in channels], users)
