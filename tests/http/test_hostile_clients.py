"""Hundreds of hostile clients at once against the real program: right logins are answered meanwhile, memory stays bounded."""

import json
import random
import signal
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.raw_client import basic_auth
from tests.support.server import Home, Server
from tests.support.waiting import wait_for

MIB = 1 << 20
CONTENT = random.randbytes(4096)
PROPFIND = b'<propfind xmlns="DAV:"><prop><getetag/></prop></propfind>'
MOST_GROWTH = 160 * MIB
"""Memory that as many connections as may be open can take: 64 KiB of head each, and what TLS needs."""

FORMS = (
    pytest.param(150, 10, True, id="short-https"),
    pytest.param(2000, 400, False, id="long-http", marks=pytest.mark.torture),
    pytest.param(2000, 400, True, id="long-https", marks=pytest.mark.torture),
)


class Hostile:
    """The program of ``tests.http.hostile``, running."""

    def __init__(self, url: str, count: int) -> None:
        command = [sys.executable, "-m", "tests.http.hostile", url, str(count)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self) -> None:
        """Return when each of its clients has begun."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"

    def finish(self) -> dict[str, int]:
        """End it and return how often each kind has connected."""
        counts, _ = self._process.communicate(timeout=60)
        found: dict[str, int] = json.loads(counts)
        return found

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()


@contextmanager
def hostile(url: str, count: int) -> Iterator[Hostile]:
    program = Hostile(url, count)
    try:
        yield program
    finally:
        program.kill()


class RightLogins:
    """Requests with the right login, each on a connection of its own but for those on one that is kept."""

    def __init__(self, server: Server, certificate: Path | None) -> None:
        self._parts = urlsplit(server.url)
        self._context = ssl.create_default_context(cafile=str(certificate)) if certificate is not None else None
        self._headers = {"Authorization": basic_auth(*server.auth), "Depth": "0"}
        self._kept = self._connect()
        self.seconds: list[float] = []

    def _connect(self) -> HTTPConnection:
        place = (self._parts.hostname or "", self._parts.port)
        if self._context is None:
            return HTTPConnection(*place, timeout=60)
        return HTTPSConnection(*place, timeout=60, context=self._context)

    def round(self, number: int) -> None:
        """PUT, GET and PROPFIND anew, and GET on the kept connection; all must succeed."""
        path = f"/file{number % 10}"
        for method, body, status in (
            ("PUT", CONTENT, (201, 204)),
            ("GET", b"", (200,)),
            ("PROPFIND", PROPFIND, (207,)),
        ):
            connection = self._connect()
            data = self._ask(connection, method, path, body, status)
            connection.close()
            assert method != "GET" or data == CONTENT
        self._ask(self._kept, "GET", path, b"", (200,))

    def _ask(self, connection: HTTPConnection, method: str, path: str, body: bytes, statuses: tuple[int, ...]) -> bytes:
        start = time.perf_counter()
        connection.request(method, path, body, self._headers)
        with connection.getresponse() as answer:
            data = answer.read()
            assert answer.status in statuses, (method, answer.status)
        self.seconds.append(time.perf_counter() - start)
        return data

    def renew(self) -> None:
        """Open the kept connection anew: the server ends one that was not used for ten seconds."""
        self._kept.close()
        self._kept = self._connect()

    def close(self) -> None:
        self._kept.close()


@pytest.mark.parametrize(("count", "rounds", "tls"), FORMS)
def test_hostile_clients(tmp_path: Path, certificate: tuple[Path, Path], count: int, rounds: int, tls: bool) -> None:
    """Silent, dribbling, broken, guessing and greedy clients keep nobody out that has a login."""
    files = f"webdav: {{tls: {{certificate: {certificate[0]}, key: {certificate[1]}}}}}\n" if tls else ""
    home = Home(tmp_path, config=files)
    with Server(home) as server:
        server.url = server.url.replace("127.0.0.1", "localhost") if tls else server.url
        right = RightLogins(server, certificate[0] if tls else None)
        right.round(0)
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        right.seconds.clear()
        most = before
        with hostile(server.url, count) as program:
            program.begin()
            right.renew()
            for number in range(rounds):
                right.round(number)
                most = max(most, process.memory_info().rss)
            right.close()
            counts = program.finish()
        wait_for(lambda: process.num_threads() < 400)
        output = server.terminate()
    figures = (statistics.median(right.seconds) * 1000, max(right.seconds) * 1000, (most - before) / MIB)
    print(
        f"\n{sum(counts.values())} hostile connections, {count} at a time, {'https' if tls else 'http'}: {len(right.seconds)} "
        "right requests answered, median {:.1f} ms, worst {:.0f} ms; {:.0f} MiB more memory".format(*figures),
        counts,
    )
    assert most - before < MOST_GROWTH
    lines = output.splitlines()
    assert len(lines) < 300, "the log is filled without a login"
    assert all(" wrong WebDAV login " in line for line in lines if " WARNING " in line or " ERROR " in line)
