"""How many requests and bytes a volume needs: to start a video, to seek in it, and to store many small files."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mtproto.harness import PHONE, Server
from tests.support.telegram import API_HASH, API_ID
from tests.support.volumes import PASSPHRASE, configuration, places
from tgdav.crypto.passphrase import Argon2Parameters, Passphrase
from tgdav.fs.api import Owner
from tgdav.platform import Platform
from tgdav.vault.telegram_login import TelegramLogin, save_pending
from tgdav.volume.initialize import create_vault
from tgdav.volume.volume import Volume

MIB = 1024 * 1024
LATENCY = 0.15
"""Seconds of a round trip: long enough that concurrent calls arrive together on a busy machine too."""
FIRST_BYTES = 64 * 1024
SEEKS = 5
ROUND_TRIPS = 3
LARGEST_CHUNK = 2 * MIB
OWNER = Owner(0, 0)


class Machine:
    """A machine whose vault is in the account's Saved Messages."""

    def __init__(self, base: Path, server: Server) -> None:
        where = server.test_server
        test_server = {
            "address": where.address,
            "port": where.port,
            "dc": where.dc,
            "public_key_file": str(where.public_key_file),
        }
        telegram = {"api_id": API_ID, "api_hash": API_HASH, "test_server": test_server}
        self._config = configuration(base, storage={"backend": "telegram"}, telegram=telegram)
        self._places = places(base)
        user = next(it["user"] for it in server.accounts() if it["phone"] == PHONE)
        login = TelegramLogin(server.session(PHONE), user)
        self._places.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        cheap = Argon2Parameters(1024, 1, 1)
        save_pending(self._places.state, login, Passphrase(PASSPHRASE), cheap, Platform.system())
        create_vault(self._places, self._config, PASSPHRASE, platform=Platform.system())

    def open(self) -> Volume:
        return Volume.open(self._places, self._config, Passphrase(PASSPHRASE), platform=Platform.system())


@pytest.fixture
def machine(server: Server, tmp_path: Path) -> Machine:
    return Machine(tmp_path, server)


@pytest.fixture
def opened(machine: Machine) -> Iterator[Callable[[], Volume]]:
    volumes: list[Volume] = []

    def open_one() -> Volume:
        for volume in volumes:
            volume.close()
        volumes.append(machine.open())
        return volumes[-1]

    yield open_one
    for volume in volumes:
        volume.close()


BLOCK = 4 * MIB


def block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


def store_file(volume: Volume, name: bytes, size: int) -> None:
    with volume.fs.upload(volume.fs.root, name, owner=OWNER) as upload:
        for number in range(size // BLOCK):
            upload.write(block(number))
        upload.commit()


class Meter:
    """Measures what the server received since the last measurement."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = server.statistics()

    def look(self) -> tuple[int, int]:
        """Return (round trips, bytes of files)."""
        before, self._before = self._before, self._server.statistics()
        return tuple(self._before[key] - before[key] for key in ("rounds", "file_bytes_downloaded"))


def seek_about(server: Server, opened: Callable[[], Volume], size: int) -> None:
    """Open an uncached video and seek to five offsets, far apart so that nothing is prefetched in between."""
    chance = random.Random(size)
    volume = opened()
    store_file(volume, b"video", size)
    volume.sync(wait=True)
    volume = opened()
    volume.content.reader.clear()
    inode = volume.fs.lookup(volume.fs.root, b"video").inode
    server.set_line(latency=LATENCY)
    handle = volume.fs.open(inode)
    meter = Meter(server)
    stretch = size // (SEEKS + 1)
    for place in (0, *(number * stretch + chance.randrange(stretch // 2) for number in (3, 1, 5, 2, 4))):
        data = handle.read(place, FIRST_BYTES)
        rounds, fetched = meter.look()
        first = place - place % BLOCK
        assert data == (block(first // BLOCK) + block(first // BLOCK + 1))[place - first :][:FIRST_BYTES]
        print(f"at {place / MIB:.0f} MiB: {rounds} round trips, {fetched / MIB:.1f} MiB")
        assert rounds <= ROUND_TRIPS
        assert fetched <= 2 * (LARGEST_CHUNK + MIB)
    handle.close()


def store_small_files(server: Server, opened: Callable[[], Volume], count: int) -> None:
    """All messages are counted, the vault's headers included."""
    volume, chance = opened(), random.Random(count)
    for number in range(count):
        with volume.fs.upload(volume.fs.root, b"%d" % number, owner=OWNER) as upload:
            upload.write(chance.randbytes(4096))
            upload.commit(durable=False)
    volume.sync(wait=True)
    assert server.statistics()["messages_sent"] <= 10


def test_seeks(server: Server, opened: Callable[[], Volume]) -> None:
    seek_about(server, opened, 96 * MIB)


def test_small_files(server: Server, opened: Callable[[], Volume]) -> None:
    store_small_files(server, opened, 1000)


@pytest.mark.torture
def test_seeks_in_a_gibibyte(server: Server, opened: Callable[[], Volume]) -> None:
    seek_about(server, opened, 1024 * MIB)


@pytest.mark.torture
def test_ten_thousand_small_files(server: Server, opened: Callable[[], Volume]) -> None:
    store_small_files(server, opened, 10_000)
