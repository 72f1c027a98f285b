"""Large content and large trees: memory stays bounded, starting stays quick. The figures are printed."""

import os
import time
from collections.abc import Iterator
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
OWNER = Owner()


def blocks(size: int) -> Iterator[bytes]:
    """Cheap content that does not repeat: a random MiB with its number in front."""
    block = os.urandom(MIB)
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


def propfind_seconds(client: RawClient, path: str) -> float:
    best = 1e9
    for _ in range(20):
        began = time.monotonic()
        assert client.request("PROPFIND", path, {"Depth": "1", "Content-Length": "0"}).status == 207
        best = min(best, time.monotonic() - began)
    return best


def served(base: Path) -> Home:
    home = Home(base, passphrase=PASSPHRASE)
    store = configuration(base).storage.directory.path
    config = f"storage: {{backend: directory, directory: {{path: {store}}}}}\n"
    (home.path / "config.yaml").write_text(config)
    return home


def is_healthy(client: RawClient) -> bool:
    return client.request("GET", "/-/healthz").status == 200


def test_a_million_files_start_and_list_as_quickly_as_few(tmp_path: Path) -> None:
    seconds = {}
    for name, count in (("small", 1000), ("large", FILES)):
        base = tmp_path / name
        new_vault(base)
        make_files(base, count)
        began = time.monotonic()
        with Server(served(base), deadline=60) as server, server.client() as client:
            wait_for(partial(is_healthy, client), 30)
            started = time.monotonic() - began
            seconds[name] = propfind_seconds(client, "/folder%200000/")
            server.terminate()
        print(f"{count} files: listening after {started:.2f} s, PROPFIND of 1 000 in {seconds[name] * 1000:.1f} ms")
    print(f"PROPFIND large/small: {seconds['large'] / seconds['small']:.2f}")
