"""updates.*: the state of a box, and what happened since a state (https://core.telegram.org/api/updates)."""

from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import bad
from tests.mtproto.state.boxes import Event


def _state(call: Call, pts: int) -> Any:
    return types.updates.State(pts, 0, call.world.now(), 0, 0)


@method(functions.updates.GetStateRequest)
def get_state(call: Call, request: Any) -> Any:
    """The account's current pts."""
    return _state(call, call.world.boxes.pts(call.user))


def _check_pts(call: Call, box: int, pts: int) -> None:
    if pts <= 0:
        raise bad("PERSISTENT_TIMESTAMP_EMPTY")
    if pts > call.world.boxes.pts(box):
        raise bad("PERSISTENT_TIMESTAMP_INVALID")


def _split(call: Call, box: int, events: list[Event]) -> tuple[list[Any], list[Any]]:
    """(new messages, other updates) of events."""
    shown = [update for event in events for update in call.world.shown_event(box, event, call.user)]
    fresh = types.UpdateNewMessage | types.UpdateNewChannelMessage
    return [it.message for it in shown if isinstance(it, fresh)], [it for it in shown if not isinstance(it, fresh)]


@method(functions.updates.GetDifferenceRequest)
def get_difference(call: Call, request: Any) -> Any:
    """What the account's box saw after `pts`: in slices, or too long."""
    world, rules, box = call.world, call.world.rules, call.user
    _check_pts(call, box, request.pts)
    kept = min(rules.difference_kept, request.pts_total_limit or rules.difference_kept)
    found = world.boxes.since(box, request.pts, kept, request.pts_limit or rules.difference_page)
    if found is None or call.strike("difference_too_long"):
        return types.updates.DifferenceTooLong(world.boxes.pts(box))
    events, complete = found
    if not events:
        return types.updates.DifferenceEmpty(world.now(), 0)
    messages, others = _split(call, box, events)
    users, chats = world.people(box, call.user)
    make = types.updates.Difference if complete else types.updates.DifferenceSlice
    return make(messages, [], others, chats, users, _state(call, events[-1].pts))


@method(functions.updates.GetChannelDifferenceRequest)
def get_channel_difference(call: Call, request: Any) -> Any:
    """What a channel saw after `pts`."""
    world = call.world
    box = world.channels.enter(call.user, request.channel).box
    _check_pts(call, box, request.pts)
    found = world.boxes.since(box, request.pts, world.rules.difference_kept, min(max(request.limit, 1), 100))
    if found is None:
        return _channel_too_long(call, box)
    events, complete = found
    if not events:
        return types.updates.ChannelDifferenceEmpty(world.boxes.pts(box), final=True, timeout=30)
    messages, others = _split(call, box, events)
    users, chats = world.people(box, call.user)
    return types.updates.ChannelDifference(
        events[-1].pts, messages, others, chats, users, final=complete or None, timeout=30
    )


def _channel_too_long(call: Call, box: int) -> Any:
    world = call.world
    users, chats = world.people(box, call.user)
    newest = max((newest for _, newest in world.boxes.dialogs(box)), default=0)
    peer, settings = types.PeerChannel(-box), types.PeerNotifySettings()
    dialog = types.Dialog(peer, newest, newest, newest, 0, 0, 0, 0, settings, pts=world.boxes.pts(box))
    shown = [world.show(it, call.user) for it in world.boxes.get(box, [newest]).values()]
    return types.updates.ChannelDifferenceTooLong(dialog, shown, chats, users, final=True, timeout=30)
