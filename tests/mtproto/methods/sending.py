"""messages.sendMedia and messages.sendMessage: the appends to a box."""

import time
from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import RpcFailure, bad
from tests.mtproto.state.boxes import Draft, Event, Stored
from tests.mtproto.state.channels import may_post
from tests.mtproto.state.uploads import Finished
from tests.mtproto.world import HOME_DC, OTHER_DC, World


@method(functions.messages.SendMessageRequest, writes=True)
def send_message(call: Call, request: Any) -> Any:
    """A text."""
    text = request.message.strip()
    if not text:
        raise bad("MESSAGE_EMPTY")
    if len(text) > call.world.rules.text_max:
        raise bad("MESSAGE_TOO_LONG")
    return _append(call, request, lambda: (text, None))


@method(functions.messages.SendMediaRequest, writes=True)
def send_media(call: Call, request: Any) -> Any:
    """A document, just uploaded or sent before, with a caption."""
    rules = call.world.rules
    caption = request.message.strip()
    if len(caption) > (rules.caption_max_premium if call.account.premium else rules.caption_max):
        raise bad("MEDIA_CAPTION_TOO_LONG")
    return _append(call, request, lambda: (caption, _document(call, request.media)))


def _document(call: Call, media: Any) -> int:
    if isinstance(media, types.InputMediaDocument):
        if not isinstance(media.id, types.InputDocument):
            raise bad("MEDIA_EMPTY")
        return call.world.documents.check(media.id, call.world.now(), call.world.rules.reference_lifetime).id
    if isinstance(media, types.InputMediaUploadedDocument):
        return _uploaded(call, media)
    raise bad("MEDIA_INVALID")


def _uploaded(call: Call, media: Any) -> int:
    world, given = call.world, media.file
    upload = _finish(call, given)
    dc = HOME_DC if world.rules.document_dc is None else world.rules.document_dc
    if call.strike("other_dc"):
        dc = OTHER_DC
    names = [it.file_name for it in media.attributes if isinstance(it, types.DocumentAttributeFilename)]
    with world.database.together():
        it = world.documents.add(upload, dc, media.mime_type, (names or [given.name or ""])[0], world.now())
        world.uploads.taken(call.user, given.id)
    return it.id


def _finish(call: Call, given: Any) -> Finished:
    """The upload that an input file names, once its parts are all there."""
    if not isinstance(given, types.InputFile | types.InputFileBig):
        raise bad("FILE_PARTS_INVALID")
    stroke = call.strike("part_lost", "part_zero_lost", "md5_invalid")
    if stroke is not None and stroke.kind == "md5_invalid":
        raise bad("MD5_CHECKSUM_INVALID")
    if stroke is not None:
        last = call.world.faults.chance.randrange(given.parts) if given.parts else 0
        part = 0 if stroke.kind == "part_zero_lost" else int(stroke.parameters.get("part", last))
        call.world.uploads.forget_part(call.user, given.id, part)
    big = isinstance(given, types.InputFileBig)
    rules = call.world.rules
    limit = rules.parts_max_premium if call.account.premium else rules.parts_max
    return call.world.uploads.finish(call.user, given.id, given.parts, big, "" if big else given.md5_checksum, limit)


def _append(call: Call, request: Any, content: Any) -> Any:
    """Puts a message into the peer's box, once for each random_id, and tells everybody."""
    world = call.world
    if not request.random_id:
        raise bad("RANDOM_ID_EMPTY")
    box, peer, channel = world.peer(call.user, request.peer)
    if channel is not None:
        may_post(channel, call.user)
    if (again := _repeated(call, request.random_id)) is not None:
        return again
    _pace(call)
    if call.strike("noise"):
        make_noise(world, call.user, 1, box, peer)
    text, document = content()
    with world.database.together():
        draft = Draft(peer, 0 if channel is not None else call.user, world.now(), text, document)
        stored, pts = world.boxes.append(box, draft)
        values = (call.user, request.random_id, box, stored.id, pts, world.now())
        world.database.run("INSERT OR REPLACE INTO random_ids VALUES (?,?,?,?,?,?)", *values)
    world.statistics.messages_sent += 1
    world.publish(box, Event(pts, 1, "new", (stored.id,)), but=call.connection)
    return _reply(call, request.random_id, stored, pts)


def _reply(call: Call, random_id: int, stored: Stored, pts: int) -> Any:
    shown = call.world.shown_event(stored.box, Event(pts, 1, "new", (stored.id,)), call.user)
    return call.world.updates(stored.box, [types.UpdateMessageID(stored.id, random_id), *shown], call.user)


def _repeated(call: Call, random_id: int) -> Any:
    """The first answer once more for a random_id that was used, or RANDOM_ID_DUPLICATE; None for a fresh one."""
    world, memory = call.world, call.world.rules.random_id_memory
    row = world.database.row(
        "SELECT box, id, pts, date FROM random_ids WHERE user=? AND random=?", call.user, random_id
    )
    if row is None or (memory and world.now() - row["date"] > memory):
        return None
    if world.rules.repeat_random_id == "error" or call.strike("random_id_duplicate"):
        raise RpcFailure(500, "RANDOM_ID_DUPLICATE")
    if world.rules.repeat_random_id == "id":
        return world.updates(row["box"], [types.UpdateMessageID(row["id"], random_id)], call.user)
    stored = world.boxes.get(row["box"], [row["id"]]).get(row["id"])
    if stored is None:
        raise RpcFailure(500, "RANDOM_ID_DUPLICATE")
    return _reply(call, random_id, stored, row["pts"])


def _pace(call: Call) -> None:
    rule = call.world.rules.sends
    if rule is None:
        return
    now = time.monotonic()
    recent = [moment for moment in call.world.sent.get(call.user, []) if moment > now - rule[1]]
    if len(recent) >= rule[0]:
        call.world.faults.counts["flood_wait"] += 1
        raise RpcFailure(420, f"FLOOD_WAIT_{max(int(recent[0] + rule[1] - now) + 1, 1)}")
    call.world.sent[call.user] = [*recent, now]


def make_noise(world: World, user: int, count: int, box: int, peer: int) -> list[int]:
    """Messages of the user's own, as another application sends them: texts, and now and then a small document."""
    made = []
    for number in range(count):
        chance = world.faults.chance
        document = None
        if chance.random() < 0.3:
            document = world.documents.plant(
                chance.randbytes(100), HOME_DC, "holiday.jpg", world.now(), "planted-noise"
            )
        text = f"a note of my own, number {number}"
        stored, pts = world.boxes.append(box, Draft(peer, user if box > 0 else 0, world.now(), text, document))
        world.publish(box, Event(pts, 1, "new", (stored.id,)))
        made.append(stored.id)
    return made
