"""One transfer in a process of its own: ``python -m benchmarks.telegram_client`` with a ``Task`` on standard input.

It prints ``Spent`` as JSON: seconds by the clock and of the processor, from the first request after the connection was
made and used once, to the last byte.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.sessions import StringSession

from benchmarks.http_client import Failed
from benchmarks.scale import MIB
from benchmarks.telegram_bare import BareClient
from tgdav.blobs import FileSource
from tgdav.blobs.telegram import Session, TelegramSettings, TelegramStore, TelegramTestServer
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy
from tgdav.ids import BlobId, BlobName

API_ID = 1234567
API_HASH = "0123456789abcdef0123456789abcdef"
READ = 32 * MIB
READERS = 2
"""So many reads of READ bytes are under way at once, as the downloads of a reader that fetches ahead are."""

TGDAV, TELETHON, BARE = "tgdav", "Telethon", "bare socket"


class Task(msgspec.Struct, frozen=True):
    """What to transfer: the file ``path`` up, or the document of ``message`` down; ``size`` bytes."""

    who: str
    direction: str
    address: str
    port: int
    dc: int
    public_key: str
    login: str
    size: int
    path: str = ""
    message: int = 0


class Spent(msgspec.Struct, frozen=True):
    """Seconds by the clock and of the processor (user and system), and the new message of an upload."""

    seconds: float
    cpu: float
    message: int = 0


def _measured(work: Callable[[], int]) -> Spent:
    begun, used = time.perf_counter(), _cpu()
    message = work()
    return Spent(time.perf_counter() - begun, _cpu() - used, message)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# tgdav.


def _tgdav(task: Task) -> Spent:
    place = TelegramTestServer(task.address, task.port, task.dc, task.public_key)
    session = Session(TelegramSettings(API_ID, API_HASH, test_server=place), task.login, clock=SystemClock())
    store = TelegramStore(session, peer="me", entropy=SystemEntropy())
    for _ in store.list():
        pass
    try:
        return _measured(lambda: _tgdav_up(store, task) if task.direction == "up" else _tgdav_down(store, task))
    finally:
        store.close()


def _tgdav_up(store: TelegramStore, task: Task) -> int:
    name = BlobName(SystemEntropy().bytes(16))
    return store.append(name, FileSource(Path(task.path)), "label").id


def _tgdav_down(store: TelegramStore, task: Task) -> int:
    def read(start: int) -> int:
        return len(store.read(BlobId(task.message), start, min(READ, task.size - start)))

    with ThreadPoolExecutor(READERS) as readers:
        got = sum(readers.map(read, range(0, task.size, READ)))
    return _checked(task, got)


# Stock Telethon.


def _telethon(task: Task) -> Spent:
    rsa.add_key(task.public_key, old=False)
    session = StringSession(task.login)
    session.set_dc(task.dc, task.address, task.port)
    return asyncio.run(_telethon_measured(session, task))


async def _telethon_measured(session: Any, task: Task) -> Spent:
    async with TelegramClient(session, API_ID, API_HASH) as client:
        (known,) = await client.get_messages("me", ids=[task.message])
        begun, used = time.perf_counter(), _cpu()
        message = await (_telethon_up(client, task) if task.direction == "up" else _telethon_down(client, known, task))
        return Spent(time.perf_counter() - begun, _cpu() - used, message)


async def _telethon_up(client: Any, task: Task) -> int:
    uploaded = await client.upload_file(task.path, file_name="file")
    return int((await client.send_file("me", uploaded, force_document=True)).id)


async def _telethon_down(client: Any, message: Any, task: Task) -> int:
    got = 0
    async for piece in client.iter_download(message.media.document, file_size=task.size):
        got += len(piece)
    return _checked(task, got)


# A bare socket: what the server gives to somebody who looks at nothing of what comes.


def _bare(task: Task) -> Spent:
    client = BareClient(task.address, task.port, task.login, API_ID)
    file = client.document(task.message)
    windows = READERS * TelegramSettings(API_ID, API_HASH).parts_in_flight
    return _measured(lambda: _checked(task, client.download(file, task.size, windows)))


def _checked(task: Task, got: int) -> int:
    if got != task.size:
        raise Failed(f"{task.who} got {got} of {task.size} bytes")
    return task.message


_CONTESTANTS: dict[str, Callable[[Task], Spent]] = {TGDAV: _tgdav, TELETHON: _telethon, BARE: _bare}

if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(_CONTESTANTS[asked.who](asked)))
