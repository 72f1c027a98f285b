"""A program that appends one blob, to be killed: ``python -m tests.telegram.appending`` with a ``Task`` on its input.

Its only output is the blob's id, after it is stored.
"""

import random
import sys

import msgspec

from tests.support.telegram import API_HASH, API_ID
from tgdav.blobs import BytesSource
from tgdav.blobs.telegram import Session, TelegramSettings, TelegramStore, TelegramTestServer
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy
from tgdav.errors import StoreUnavailable
from tgdav.ids import BlobName


class Task(msgspec.Struct, frozen=True):
    """Where, as whom, and what: ``size`` bytes made of ``seed``."""

    place: TelegramTestServer
    login: str
    peer: str
    name: bytes
    size: int
    seed: int = 5

    def data(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)


def main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    settings = TelegramSettings(API_ID, API_HASH, test_server=task.place, patience=5.0)
    session = Session(settings, task.login, clock=SystemClock())
    store = TelegramStore(session, peer=task.peer, entropy=SystemEntropy())
    source = BytesSource(task.data())
    while True:
        try:
            print(store.append(BlobName(task.name), source, "label").id, flush=True)
            break
        except StoreUnavailable:
            session.pause(0.1)
    store.close()


if __name__ == "__main__":
    main()
