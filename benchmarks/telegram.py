"""A large blob to and from Telegram, against the library's own transfers, at the latency of a real connection.

The server is the MTProto server of the tests as a process of its own on loopback, with 60 ms a round trip. Each
transfer is a process of its own too, so that its processor time can be told. tgdav and stock Telethon (``upload_file``
and ``send_file``, ``iter_download``) transfer the same bytes; a bare socket client shows what the server can give.
"""

import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.http_client import Failed
from benchmarks.results import Measurement, Results, Target, compare
from benchmarks.scale import MIB, Scale, make_file
from benchmarks.telegram_client import BARE, TELETHON, TGDAV, Spent, Task
from tests.mtproto.harness import PHONE, ServerProcess

LATENCY = 0.06
"""Seconds of a round trip."""
_UP, _DOWN = "up", "down"


def telegram(folder: Path, scale: Scale) -> Results:
    """Upload and download in turn; speed and processor time are compared within each round."""
    found: dict[tuple[str, str], list[Spent]] = {}
    with ServerProcess(folder / "server", latency=LATENCY) as server:
        for number in range(scale.rounds):
            source = make_file(folder / "source", scale.telegram)
            blobs: dict[str, int] = {}
            for who in _rotated([TGDAV, TELETHON], number):
                spent = _transfer(server, who, _UP, source, 0)
                blobs[who] = spent.message
                found.setdefault((_UP, who), []).append(spent)
            for who in _rotated([TGDAV, TELETHON, BARE], number):
                spent = _transfer(server, who, _DOWN, source, blobs[TGDAV])
                found.setdefault((_DOWN, who), []).append(spent)
            server.delete(PHONE, [*blobs.values()])
    return _results(found, scale)


def _rotated(names: list[str], number: int) -> list[str]:
    start = number % len(names)
    return names[start:] + names[:start]


def _transfer(server: ServerProcess, who: str, direction: str, source: Path, message: int) -> Spent:
    place = server.test_server
    task = Task(
        who,
        direction,
        place.address,
        place.port,
        place.dc,
        server.public_key,
        server.session(),
        source.stat().st_size,
        str(source),
        message,
    )
    command = [sys.executable, "-m", "benchmarks.telegram_client"]
    done = subprocess.run(command, input=msgspec.json.encode(task), capture_output=True, check=False)
    if done.returncode:
        raise Failed(f"{who} {direction}: {done.stderr.decode()[-2000:]}")
    return msgspec.json.decode(done.stdout, type=Spent)


def _results(found: dict[tuple[str, str], list[Spent]], scale: Scale) -> Results:
    results = Results()
    size = scale.telegram / MIB
    targets = {_UP: [Target(TELETHON, 8.0)], _DOWN: [Target(TELETHON, 8.0), Target(BARE, 0.8)]}
    for direction, wanted in targets.items():
        label = f"Telegram, {size:g} MiB {direction}"
        mine = {who: spent for (where, who), spent in found.items() if where == direction}
        speeds = [
            Measurement(label, who, "MiB/s", tuple(size / it.seconds for it in all_of)) for who, all_of in mine.items()
        ]
        costs = [
            Measurement(f"{label}, processor", who, "ms/MiB", tuple(1000 * it.cpu / size for it in all_of), True)
            for who, all_of in mine.items()
        ]
        results.add(compare(speeds, TGDAV, wanted, judge=scale.judged))
        results.add(compare(costs, TGDAV, [Target(TELETHON, 1.0)], judge=scale.judged))
    return results
