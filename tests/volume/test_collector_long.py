"""Up to 10 GB, overwritten 20 times with automatic collection on: the store stays small, and nothing in it is harmed."""

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash.machines import MINUTES
from tests.support.vaults import read
from tests.support.volumes import new_vault, open_volume
from tests.support.waiting import wait_for
from tgdav.fs.api import Owner
from tgdav.volume.volume import Volume

MIB, GB = 1 << 20, 1_000_000_000
BYTES = int(float(os.environ.get("TGDAV_GC_GB", "10")) * GB)
ROUNDS = 20
FILES = 200
VERSIONS = 2


def store_bytes(folder: Path) -> int:
    total = 0
    for path in (folder / "store").iterdir():
        with suppress(FileNotFoundError):  # deleted meanwhile
            total += path.stat().st_size
    return total


def fill(volume: Volume, seed: int, sizes: list[int]) -> None:
    """Write every file anew, each with bytes of its own."""
    for number, size in enumerate(sizes):
        with volume.fs.upload(volume.fs.root, f"file-{number}".encode(), owner=Owner()) as upload:
            for piece in pieces(f"{seed} {number}", size):
                upload.write(piece)
            upload.commit()


def pieces(seed: str, size: int) -> Iterator[bytes]:
    """Random bytes, a MiB at a time."""
    source = random.Random(seed)
    for start in range(0, size, MIB):
        yield source.randbytes(min(MIB, size - start))


def spread(total: int, seed: int) -> list[int]:
    """Sizes of files, from small to very large, that make up ``total`` bytes."""
    source = random.Random(seed)
    weights = [source.paretovariate(1.1) for _ in range(FILES)]
    return [int(total * weight / sum(weights)) for weight in weights]


@pytest.mark.timeout(int(MINUTES * 60) + 1800)
@pytest.mark.torture
def test_overwriting_again_and_again(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    # The store may hold live bytes, versions and garbage, and staging as much as is live.
    total = min(BYTES, shutil.disk_usage(tmp_path).free // (VERSIONS + 5))
    # Bytes are written at some 100 MB a second, and read back as fast.
    total = min(total, int(MINUTES * 60 * 20_000_000 / 4))
    sizes, end = spread(total, seed), time.monotonic() + MINUTES * 60
    new_vault(tmp_path)
    sections = {"versioning": {"max_versions": VERSIONS}, "cache": {"enabled": False}}
    volume = open_volume(tmp_path, **sections)
    # Each file's present content, and as many earlier ones.
    bound, done = 3 * total + VERSIONS * total, 0
    try:
        volume.start()
        while done < ROUNDS and time.monotonic() < end:
            fill(volume, seed + done, sizes)
            volume.sync(wait=True)
            done += 1
            wait_for(
                lambda: store_bytes(tmp_path) < bound,
                600,
                what=f"the store to shrink below {bound} in round {done}, seed {seed}",
            )
            found = volume.check(read_data=100.0)
            assert found["ok"], (seed, done, found["damage"])
        number = random.Random(seed).randrange(FILES)
        data = b"".join(pieces(f"{seed + done - 1} {number}", sizes[number]))
        assert read(volume, f"file-{number}") == data
        volume.gc()
        assert volume.check(read_data=100.0, drill=True)["ok"]
    finally:
        volume.close()
    print(f"\ngc: {total} bytes overwritten {done} times, seed {seed}: {store_bytes(tmp_path)} bytes in the store")
