"""upload.*: parts in, ranges out, each documented limit kept (https://core.telegram.org/api/files)."""

from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import RpcFailure, bad
from tests.mtproto.rules import WINDOW
from tests.mtproto.state.documents import Document
from tests.mtproto.wire import pack

_REFERENCES = {
    "reference_expired": "FILE_REFERENCE_EXPIRED",
    "reference_invalid": "FILE_REFERENCE_INVALID",
    "reference_empty": "FILE_REFERENCE_EMPTY",
}


@method(functions.upload.SaveFilePartRequest, writes=True)
def save_file_part(call: Call, request: Any) -> Any:
    """A part of a file of up to 10 MiB."""
    return _save(call, request, None)


@method(functions.upload.SaveBigFilePartRequest, writes=True)
def save_big_file_part(call: Call, request: Any) -> Any:
    """A part of a big file."""
    total = request.file_total_parts
    if total != -1 and not 0 < total <= _parts_max(call):
        raise bad("FILE_PARTS_INVALID")
    return _save(call, request, total)


def _parts_max(call: Call) -> int:
    rules = call.world.rules
    return rules.parts_max_premium if call.account.premium else rules.parts_max


def _save(call: Call, request: Any, total: int | None) -> bool:
    if not 0 <= request.file_part < _parts_max(call):
        raise bad("FILE_PART_INVALID")
    if call.strike("part_refused"):
        return False
    _pace(call, len(request.bytes))
    world = call.world
    if world.rules.upload_lifetime:
        world.uploads.expire(world.now() - int(world.rules.upload_lifetime))
    world.uploads.save(call.user, request.file_id, request.file_part, total, request.bytes, world.now())
    world.statistics.file_bytes_uploaded += len(request.bytes)
    return True


def _pace(call: Call, size: int) -> None:
    """Accounts without Premium are slowed after much traffic."""
    rules = call.world.rules
    call.world.traffic[call.user] += size
    if (
        rules.free_traffic is not None
        and not call.account.premium
        and call.world.traffic[call.user] > rules.free_traffic
    ):
        call.world.traffic[call.user] = 0
        call.world.faults.counts["flood_premium_wait"] += 1
        raise RpcFailure(420, f"FLOOD_PREMIUM_WAIT_{rules.premium_wait}")


def _check_range(offset: int, limit: int, precise: bool) -> None:
    unit = 1024 if precise else 4096
    if offset < 0 or offset % unit:
        raise bad("OFFSET_INVALID")
    if limit <= 0 or limit % unit or limit > WINDOW or (not precise and WINDOW % limit):
        raise bad("LIMIT_INVALID")
    if offset // WINDOW != (offset + limit - 1) // WINDOW:
        raise bad("LIMIT_INVALID")


@method(functions.upload.GetFileRequest)
def get_file(call: Call, request: Any) -> Any:
    """A range of a document, from the DC that holds it."""
    _check_range(request.offset, request.limit, bool(request.precise))
    it = _located(call, request.location)
    if it.dc != call.connection.dc:
        raise RpcFailure(303, f"FILE_MIGRATE_{it.dc}")
    _pace(call, request.limit)
    data = call.world.documents.read(it, request.offset, request.limit)
    stroke = call.strike("short_read", "damaged_read") if data else None
    if stroke is not None and stroke.kind == "short_read":
        data = data[: len(data) // 2]
    elif stroke is not None:
        data = data[:-1] + bytes([data[-1] ^ 1])
    call.world.statistics.file_bytes_downloaded += len(data)
    return pack.file_chunk(data, it.date)


def _located(call: Call, location: Any) -> Document:
    if not isinstance(location, types.InputDocumentFileLocation) or location.thumb_size:
        raise bad("LOCATION_INVALID")
    stroke = call.strike("file_id_invalid", *_REFERENCES)
    if stroke is not None:
        if stroke.kind == "file_id_invalid":
            raise bad("FILE_ID_INVALID")
        call.world.documents.age(location.id)
        raise bad(_REFERENCES[stroke.kind])
    return call.world.documents.check(location, call.world.now(), call.world.rules.reference_lifetime)


@method(functions.upload.GetFileHashesRequest)
def get_file_hashes(call: Call, request: Any) -> Any:
    """None are kept."""
    return []
