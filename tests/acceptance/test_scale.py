"""Large content and large trees: memory stays bounded, starting stays quick. The figures are printed."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.server import Home, RawClient, Server, wait_for
from tests.support.volumes import PASSPHRASE, configuration, new_vault, open_volume
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind

pytestmark = pytest.mark.torture

MIB = 1 << 20
GIB = 1 << 30
STREAMED = 10 * GIB
FILES = 1_000_000
RSS_LIMIT = 300 * 10**6
LISTINGS = 100
LISTENING_LIMIT = 2.0
"""Seconds of processor time from the start until a vault of a million files is served."""
PROPFIND_LIMIT = 1.2
"""How many times the processor time of a listing in a small vault the same may take in a large one."""
OWNER = Owner()


def blocks(size: int) -> Iterator[bytes]:
    """Cheap content that does not repeat: a random MiB with its number in front."""
    block = random.randbytes(MIB)
    for number in range(size // MIB):
        yield number.to_bytes(8, "little") * 512 + block[4096:]


class Watch:
    """Remembers the largest resident size of a process and the largest size of a folder."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._process, self._folder = psutil.Process(pid), folder
        self.rss = self.staged = 0

    def look(self) -> None:
        self.rss = max(self.rss, self._process.memory_info().rss)
        self.staged = max(self.staged, sum(map(_size, self._folder.iterdir())))


def _size(path: Path) -> int:
    """Return a file's size, 0 for one that was sent and removed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_ten_gibibytes_stream_through_bounded_memory(tmp_path: Path) -> None:
    home = Home(tmp_path, config="staging: {max_size_gb: 2}\ncache: {max_size_gb: 1}\n")
    home.run("init", "--backend", "directory", "--path", str(tmp_path / "store"))
    with Server(home) as server, server.client(timeout=600) as client:
        watch = Watch(server.pid, home.path / "state" / "staging")

        def body() -> Iterator[bytes]:
            for number, block in enumerate(blocks(STREAMED)):
                if number % 64 == 0:
                    watch.look()
                yield block

        headers = {"Content-Length": str(STREAMED)}
        assert client.request("PUT", "/large", headers, body()).status == 201
        received = 0
        head = client.request("HEAD", "/large")
        assert head.header("content-length") == str(STREAMED)
        for offset in range(0, STREAMED, 64 * MIB):
            answer = client.request("GET", "/large", {"Range": f"bytes={offset}-{offset + 64 * MIB - 1}"})
            assert answer.status == 206
            received += len(answer.body)
            watch.look()
        print(
            f"streamed {received >> 30} GiB: RSS at most {watch.rss / 1e6:.0f} MB, staging at most {watch.staged >> 20} MiB"
        )
        assert received == STREAMED
        assert watch.rss < RSS_LIMIT
        assert watch.staged <= 2 * GIB + 128 * MIB


def make_files(base: Path, count: int) -> None:
    """Make ``count`` empty files through the file system, a thousand in a folder."""
    volume = open_volume(base)
    fs = volume.fs
    began = time.monotonic()
    for folder in range(count // 1000):
        inode = fs.create(fs.root, b"folder %04d" % folder, Kind.DIRECTORY, 0o755, OWNER).inode
        for number in range(1000):
            fs.create(inode, b"file %06d" % number, Kind.FILE, 0o644, OWNER)
        volume.database.checkpoint()  # as the background thread does, or the log would grow by 31 GB
    print(f"made {count} files in {time.monotonic() - began:.0f} s")
    volume.close()


@dataclass(frozen=True)
class Costs:
    """Seconds that passed, and seconds of the server's processor time: those say more on a busy machine."""

    listening: float
    listening_cpu: float
    propfind: float
    propfind_cpu: float


def cpu_seconds(server: Server) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return times.user + times.system


def propfind_seconds(client: RawClient, path: str) -> float:
    """Return the seconds of the quickest of LISTINGS listings."""
    best = 1e9
    for _ in range(LISTINGS):
        began = time.monotonic()
        assert client.request("PROPFIND", path, {"Depth": "1", "Content-Length": "0"}).status == 207
        best = min(best, time.monotonic() - began)
    return best


def start_and_list(base: Path) -> Costs:
    began = time.monotonic()
    with Server(served(base), deadline=60) as server, server.client() as client:
        wait_for(partial(is_healthy, client), 30)
        listening, listening_cpu = time.monotonic() - began, cpu_seconds(server)
        propfind = propfind_seconds(client, "/folder%200000/")
        propfind_cpu = (cpu_seconds(server) - listening_cpu) / LISTINGS
        server.terminate()
    return Costs(listening, listening_cpu, propfind, propfind_cpu)


def served(base: Path) -> Home:
    home = Home(base, passphrase=PASSPHRASE)
    store = configuration(base).storage.directory.path
    config = f"storage: {{backend: directory, directory: {{path: {store}}}}}\n"
    (home.path / "config.yaml").write_text(config)
    return home


def is_healthy(client: RawClient) -> bool:
    return client.request("GET", "/-/healthz").status == 200


def compare(small: Path, large: Path) -> None:
    """Start and list two vaults in turn; assert that the large one takes little more than the small one."""
    rounds = [(start_and_list(small), start_and_list(large)) for _ in range(3)]
    for name, each in (("small", [few for few, _ in rounds]), ("large", [many for _, many in rounds])):
        print(
            f"{name} vault: listening after {min(one.listening for one in each):.2f} s, "
            f"{min(one.listening_cpu for one in each):.2f} s of them on a processor; PROPFIND of 1 000 in "
            f"{min(one.propfind for one in each) * 1000:.1f} ms, {min(one.propfind_cpu for one in each) * 1000:.1f} ms"
        )
    ratio = min(many.propfind_cpu for _, many in rounds) / min(few.propfind_cpu for few, _ in rounds)
    print(f"PROPFIND large/small: {ratio:.2f}")
    assert min(many.listening_cpu for _, many in rounds) < LISTENING_LIMIT
    assert ratio < PROPFIND_LIMIT


def test_a_million_files_start_and_list_as_quickly_as_few(tmp_path: Path) -> None:
    for name, count in (("small", 1000), ("large", FILES)):
        new_vault(tmp_path / name)
        make_files(tmp_path / name, count)
    compare(tmp_path / "small", tmp_path / "large")
