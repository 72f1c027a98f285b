"""channels.*: making a private channel and finding it again."""

from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import bad
from tests.mtproto.state.boxes import Draft, Event
from tests.mtproto.state.channels import Channel
from tests.mtproto.world import World


def found_channel(
    world: World, owner: int, title: str, about: str = "", *, megagroup: bool = False, username: str | None = None
) -> Channel:
    """Makes a channel; its first message is the service message of its making."""
    channel = world.channels.create(owner, title, about, world.now(), megagroup=megagroup, username=username)
    world.boxes.append(channel.box, Draft(channel.box, 0, world.now(), action=title))
    return channel


@method(functions.channels.CreateChannelRequest, writes=True)
def create_channel(call: Call, request: Any) -> Any:
    """A new private channel of the caller."""
    if not request.title.strip():
        raise bad("CHAT_TITLE_EMPTY")
    channel = found_channel(call.world, call.user, request.title, request.about, megagroup=bool(request.megagroup))
    event = Event(call.world.boxes.pts(channel.box), 1, "new", (1,))
    shown = call.world.shown_event(channel.box, event, call.user)
    return call.world.updates(channel.box, [types.UpdateChannel(channel.channel), *shown], call.user)


@method(functions.channels.GetChannelsRequest)
def get_channels(call: Call, request: Any) -> Any:
    """The given channels, for a member."""
    return types.messages.Chats([call.world.channels.enter(call.user, it).as_chat(call.user) for it in request.id])


@method(functions.channels.GetFullChannelRequest)
def get_full_channel(call: Call, request: Any) -> Any:
    """A channel with its pts and counts."""
    world = call.world
    channel = world.channels.enter(call.user, request.channel)
    newest = max((newest for _, newest in world.boxes.dialogs(channel.box)), default=0)
    full = types.ChannelFull(
        id=channel.channel,
        about=channel.about,
        read_inbox_max_id=newest,
        read_outbox_max_id=newest,
        unread_count=0,
        chat_photo=types.PhotoEmpty(0),
        notify_settings=types.PeerNotifySettings(),
        bot_info=[],
        pts=world.boxes.pts(channel.box),
        participants_count=len(world.channels.members(channel.channel)),
    )
    users, chats = world.people(channel.box, call.user)
    return types.messages.ChatFull(full, chats, users)
