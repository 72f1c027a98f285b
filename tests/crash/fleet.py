"""Clients that write over WebDAV until the server dies, and record what was acknowledged.

Each client has a folder of its own and sends one request at a time. So after a crash its folder shows either what stood
before the request in flight or what that request makes, whole: nothing else is right.
"""

import hashlib
import random
import socket
import threading
from collections import Counter
from urllib.parse import urlsplit
from xml.etree import ElementTree

from tests.support.raw_client import ConnectionCut, RawClient
from tests.support.server import Server

Held = dict[str, tuple[int, str]]
"""Name to size and SHA-256."""

SIZES = (0, 1, 100, 4096, 5000, 32_768, 40_000, 100_000, 300_000, 1_200_000, 3_145_728)
WEIGHTS = (3, 2, 4, 6, 4, 3, 4, 3, 2, 1, 1)
NAMES = ("a.txt", "b.bin", "c%20d.dat", "e", "f.tar")
GONE = (
    ConnectionCut,
    ConnectionResetError,
    BrokenPipeError,
    ConnectionRefusedError,
    ConnectionAbortedError,
    socket.timeout,
)


class Client(threading.Thread):
    """One client for one life of the server. ``before`` is what it was promised; ``after`` if the last request happened."""

    def __init__(self, number: int, seed: int, held: Held, server: Server, stop: threading.Event) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.folder = f"/client-{number:02}"
        self.before, self.after = held, held
        self.counts: Counter[str] = Counter()
        self.unexpected = ""
        self._choose = random.Random(seed)
        self._client = server.client(timeout=60)
        self._stop_now = stop

    def run(self) -> None:
        try:
            while not self._stop_now.is_set() and self._one_request():
                self.before = self.after
        except GONE:
            self.counts["in flight"] += 1
        finally:
            self._client.close()

    def _one_request(self) -> bool:
        method, path, headers, body, self.after = self._choose_request()
        answer = self._client.request(method, self.folder + "/" + path, headers, body)
        if answer.status not in (201, 204):
            self.unexpected = f"{method} was answered {answer.status} {answer.reason} {answer.body[:200]!r}"
            self.counts[f"refused {answer.status}"] += 1
            return False
        self.counts[method] += 1
        return True

    def _choose_request(self) -> tuple[str, str, dict[str, str], bytes | None, Held]:
        choose, held = self._choose, self.before
        kind = choose.random()
        if not held or kind < 0.7:
            name = choose.choice(NAMES)
            body = choose.randbytes(choose.choices(SIZES, WEIGHTS)[0])
            return "PUT", name, {}, body, held | {name: (len(body), hashlib.sha256(body).hexdigest())}
        source = choose.choice(sorted(held))
        if kind < 0.8:
            return "DELETE", source, {}, None, {name: each for name, each in held.items() if name != source}
        target = choose.choice([name for name in NAMES if name != source])
        headers = {"Destination": f"http://{self._client.host}:{self._client.port}{self.folder}/{target}"}
        after = held | {target: held[source]}
        if kind < 0.9:
            return "COPY", source, headers, None, after
        del after[source]
        return "MOVE", source, headers, None, after


class Fleet:
    """``count`` clients over many lives of a server, drawn from ``seed``."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self.held: list[Held] = [{} for _ in range(count)]
        self.counts: Counter[str] = Counter()
        self._clients: list[Client] = []
        self._life = 0
        self._stop = threading.Event()

    def make_folders(self, server: Server) -> None:
        with server.client() as client:
            for number in range(self.count):
                assert client.request("MKCOL", f"/client-{number:02}").status == 201

    def start(self, server: Server) -> None:
        """Let all clients write."""
        self._life += 1
        self._stop.clear()
        self._clients = [
            Client(number, hash((self.seed, self._life, number)), held, server, self._stop)
            for number, held in enumerate(self.held)
        ]
        for client in self._clients:
            client.start()

    def join(self, *, refusals: bool = False) -> None:
        """Wait until all clients have noticed that the server is gone; ``refusals`` allows earlier responses other than 2xx."""
        for client in self._clients:
            client.join(90)
            assert not client.is_alive(), "a client still waits for an answer"
            assert refusals or not client.unexpected, client.unexpected
            self.counts += client.counts

    def finish(self) -> None:
        """Let all end after the request at hand."""
        self._stop.set()
        self.join()
        for client in self._clients:
            client.before = client.after

    def answered(self) -> int:
        """Requests answered 2xx in this life so far."""
        return sum(client.counts[method] for client in self._clients for method in ("PUT", "COPY", "MOVE", "DELETE"))

    def verify(self, server: Server) -> None:
        """Assert that each folder shows what its client was promised, or what the request in flight made of it."""
        with server.client() as reader:
            assert len(listing(reader, "/")) == self.count
            for number, client in enumerate(self._clients):
                seen = observe(reader, client.folder)
                if seen not in (client.before, client.after):
                    raise AssertionError(_difference(self.seed, client, seen))
                self.counts["not there" if seen == client.before != client.after else "there"] += 1
                self.held[number] = seen


def _difference(seed: int, client: Client, seen: Held) -> str:
    wrong = {
        name: (client.before.get(name), client.after.get(name), seen.get(name))
        for name in {*client.before, *client.after, *seen}
        if seen.get(name) not in (client.before.get(name), client.after.get(name))
    }
    return f"seed {seed}, {client.folder}: (promised, in flight, shown): {wrong or 'a mixture of two states'}"


def listing(client: RawClient, folder: str) -> dict[str, int | None]:
    """Return the names in a folder, quoted, and the sizes of files; None for folders."""
    answer = client.request("PROPFIND", folder, {"Depth": "1"}, b"")
    assert answer.status == 207, answer
    found: dict[str, int | None] = {}
    for each in ElementTree.fromstring(answer.body).iter("{DAV:}response"):
        path = urlsplit(each.findtext("{DAV:}href", "")).path
        if path.rstrip("/") != folder.rstrip("/"):
            is_folder = each.find(".//{DAV:}collection") is not None
            size = None if is_folder else int(each.findtext(".//{DAV:}getcontentlength", ""))
            found[path.rstrip("/").rpartition("/")[2]] = size
    return found


def observe(client: RawClient, folder: str) -> Held:
    """Read every file that a folder lists."""
    held = {}
    for name, size in listing(client, folder or "/").items():
        if size is None:
            continue
        answer = client.request("GET", f"{folder}/{name}")
        assert answer.status == 200, f"{folder}/{name} is listed, and GET says {answer.status} {answer.body[:200]!r}"
        assert len(answer.body) == size, f"{folder}/{name} is listed with {size} bytes and has {len(answer.body)}"
        held[name] = (size, hashlib.sha256(answer.body).hexdigest())
    return held
