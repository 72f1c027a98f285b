"""Clients that misbehave, hundreds at a time, in a process of their own: ``python -m tests.http.hostile URL COUNT``.

Each of COUNT tasks connects, does what its kind does until the server ends the connection or some seconds are over, and begins
anew. When each has begun, ``begun`` is printed. The end of standard input ends the program, which then prints as JSON how
often each kind has connected.
"""

import asyncio
import base64
import json
import random
import resource
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import urlsplit

from tgdav.http.head import MAX_HEADER_BYTES

HEADERS = sorted({*MAX_HEADER_BYTES, "accept-encoding", "cookie", "destination", "user-agent", "x-other"} - {"host"})
FILLINGS = ("a", " \xa0", "a=", 'a="', "\\", "(<a>)", "<", '"', ",", "[", "%41", "bytes=0-1,")
LONGEST_STAY = 15.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Attack:
    """What the tasks share: where the server is, and what came of them."""

    def __init__(self, url: str, seed: int = 1) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self.counts: Counter[str] = Counter()
        self.random = random.Random(seed)
        self.tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    async def connect(self, *, plain: bool = False) -> Streams:
        tls = None if plain else self.tls
        return await asyncio.open_connection(self.host, self.port, ssl=tls, limit=1 << 20)

    def head(self, method: str = "GET", *lines: str) -> bytes:
        return "\r\n".join([f"{method} / HTTP/1.1", f"Host: {self.host}:{self.port}", *lines, "", ""]).encode("latin-1")


async def until_closed(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


async def silent(attack: Attack) -> None:
    reader, _ = await attack.connect(plain=True)
    await until_closed(reader)


async def dribbles(attack: Attack) -> None:
    reader, writer = await attack.connect()
    closed = asyncio.ensure_future(until_closed(reader))
    for byte in attack.head("GET", "X: " + "y" * 1000):
        writer.write(bytes([byte]))
        await asyncio.wait([closed], timeout=0.2)
        if closed.done():
            break
    closed.cancel()


async def breaks_handshakes(attack: Attack) -> None:
    reader, writer = await attack.connect(plain=True)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600)
    writer.write(attack.random.choice([hello[:4], hello[:-200], hello, b"\x80\x2e\x01", bytes(300), b"\r\n" * 2000]))
    if attack.random.random() < 0.5:
        await until_closed(reader)


async def sends_headers(attack: Attack) -> None:
    """Send each header in turn, every second time a login, just below its bound or as long as a head can be."""
    number = attack.counts["sends_headers"]
    reader, writer = await attack.connect()
    header = "authorization" if number % 2 else HEADERS[number // 2 % len(HEADERS)]
    begin = ("Digest ", "Basic ")[number // 2 % 2] if header == "authorization" else ""
    length = (15_000, 65_000)[number // 4 % 2]
    value = (FILLINGS[number // 8 % len(FILLINGS)] * length)[:length]
    writer.write(attack.head("PROPFIND", f"{header}: {begin}{value}"))
    await until_closed(reader)


async def keeps_bodies_back(attack: Attack) -> None:
    reader, writer = await attack.connect()
    length = attack.random.choice([1000, 1 << 20, 1 << 40])
    writer.write(attack.head("PUT", f"Content-Length: {length}") + b"x" * 500)
    await until_closed(reader)


async def guesses(attack: Attack) -> None:
    reader, writer = await attack.connect()
    user = attack.random.choice(["tgdav", f"user{attack.random.randrange(1000)}"])
    pair = base64.b64encode(f"{user}:{attack.random.random()}".encode()).decode()
    writer.write(attack.head("GET", f"Authorization: Basic {pair}"))
    await until_closed(reader)


async def reads_nothing(attack: Attack) -> None:
    _, writer = await attack.connect()
    for _ in range(20):
        writer.write(attack.head() * 50)
        await writer.drain()
        await asyncio.sleep(0.1)


async def asks(attack: Attack) -> None:
    reader, writer = await attack.connect()
    for _ in range(10):
        writer.write(attack.head())
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)


async def resets(attack: Attack) -> None:
    _, writer = await attack.connect()
    writer.write(attack.head()[: attack.random.randrange(40)])
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))


KINDS: tuple[Callable[[Attack], Awaitable[None]], ...] = (
    silent, dribbles, breaks_handshakes, sends_headers, keeps_bodies_back, guesses, reads_nothing, asks, resets, silent,
)  # fmt: skip


async def repeat(attack: Attack, kind: Callable[[Attack], Awaitable[None]]) -> None:
    """Do as ``kind`` does over and over; whatever the server does about it is right."""
    await asyncio.sleep(attack.random.random())
    while True:
        attack.counts[kind.__name__] += 1
        task = asyncio.ensure_future(_closing(attack, kind))
        await asyncio.wait([task], timeout=LONGEST_STAY)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.2 + attack.random.random())


async def _closing(attack: Attack, kind: Callable[[Attack], Awaitable[None]]) -> None:
    opened: list[asyncio.StreamWriter] = []
    noted = Attack.connect

    class Noting(Attack):
        """The same attack, noting what it opens."""

        async def connect(self, *, plain: bool = False) -> Streams:
            streams = await noted(self, plain=plain)
            opened.append(streams[1])
            return streams

    own = Noting.__new__(Noting)
    own.__dict__ = attack.__dict__
    try:
        await kind(own)
    finally:
        for writer in opened:
            writer.transport.abort()


async def main(url: str, count: int) -> None:
    """Attack until standard input ends."""
    attack = Attack(url)
    # A server that ends connections is what these clients are for.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    tasks = [asyncio.ensure_future(repeat(attack, KINDS[number % len(KINDS)])) for number in range(count)]
    while attack.counts.total() < count:
        await asyncio.sleep(0.05)
    print("begun", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    sys.stdout.write(json.dumps(attack.counts))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
