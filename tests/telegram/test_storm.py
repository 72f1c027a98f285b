"""All faults happen while blobs are written, read and deleted; nothing is lost, nothing is stored twice."""

import gc
import itertools
import logging
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blobs.calls import content
from tests.telegram.storm import FAULTS, Going, storm
from tests.telegram.volume_storm import volume_storm
from tgdav.blobs import BlobInfo, BlobStore, BytesSource
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobName

SECONDS = 12.0
"""The length of each storm in the short run."""
VAULT_SECONDS = 10.0
SIZES = (0, 7, 5000, 700_000, 3_000_000, 11_000_000)
TRIES = 10


def write_and_read(store: BlobStore, chance: random.Random, going: Going) -> list[tuple[BlobInfo, bytes]]:
    """Write, read back and delete some; return the blobs that must exist."""
    kept = []
    for number in itertools.count():
        if not going():
            return kept
        data = chance.randbytes(chance.choice(SIZES))
        info = store.append(BlobName(chance.randbytes(16)), BytesSource(data), f"b-{number}")
        assert info.size == len(data)
        assert any(_reads(store, info) == data for _ in range(TRIES))
        if chance.random() < 0.6:
            store.delete([info.id])
            if chance.random() < 0.3:
                kept.append((store.append(info.name, BytesSource(b"again"), "again"), b"again"))
        else:
            kept.append((info, data))
    raise AssertionError


def _reads(store: BlobStore, info: BlobInfo) -> bytes:
    """A short, damaged or refused read is not final: the reader, who checks the seal, repeats it."""
    try:
        return content(store, info)
    except (DamageError, BlobMissing):
        return b"damaged"


def check(met: Counter[str], *, channel: bool) -> None:
    """Each class of faults happened, and each class of errors was raised."""
    print(f"{'channel' if channel else 'me'}: {dict(sorted(met.items()))}")
    assert set(FAULTS) - set(met) <= ({"difference_too_long"} if channel else set())
    assert {"AccessError", "StoreRejected", "StoreUnavailable", "AUTH_KEY_DUPLICATED"} <= set(met)


@pytest.mark.parametrize(("channel", "seed"), [(False, 11), (True, 12)], ids=["me", "channel"])
def test_storm(tmp_path: Path, channel: bool, seed: int) -> None:
    check(storm(tmp_path, seed, channel=channel, seconds=SECONDS, work=write_and_read), channel=channel)


def check_volume(met: Counter[str], *, channel: bool) -> None:
    """The same for a vault; there are no orphans."""
    print(f"vault in {'a channel' if channel else 'me'}: {dict(sorted(met.items()))}")
    assert set(FAULTS) - set(met) <= ({"difference_too_long"} if channel else set())
    assert min(met["blobs"], met["files written or read"], met["logged in again"]) > 0
    assert met["orphans"] == 0


@pytest.mark.parametrize(("channel", "seed"), [(False, 21)], ids=["me"])
def test_storm_over_a_vault(tmp_path: Path, channel: bool, seed: int) -> None:
    check_volume(volume_storm(tmp_path, seed, channel=channel, seconds=VAULT_SECONDS), channel=channel)


def each_seed(tmp_path: Path) -> Iterator[tuple[Path, int, bool]]:
    """Yield new seeds, each with a directory of its own, for the configured time; every other storm is in a channel."""
    until = time.monotonic() + 60 * float(os.environ.get("TGDAV_TORTURE_MINUTES", "1"))
    for seed in itertools.count(1):
        print(f"seed {seed}")
        yield tmp_path / str(seed), seed, seed % 2 == 1
        shutil.rmtree(tmp_path / str(seed))
        gc.collect()
        if time.monotonic() > until:
            return


@pytest.fixture
def forgetful_log(caplog: pytest.LogCaptureFixture) -> None:
    """caplog keeps records until the end; Telethon's warnings would keep connections alive through their exceptions."""
    caplog.set_level(logging.ERROR, logger="telethon")


@pytest.mark.torture
@pytest.mark.usefixtures("forgetful_log")
def test_storms(tmp_path: Path) -> None:
    total = Counter[str]()
    for directory, seed, channel in each_seed(tmp_path):
        met = storm(directory, seed, channel=channel, seconds=60.0, work=write_and_read)
        check(met, channel=channel)
        total += met
    assert total["RANDOM_ID_DUPLICATE"], "nothing was sent twice"


@pytest.mark.torture
@pytest.mark.usefixtures("forgetful_log")
def test_storms_over_vaults(tmp_path: Path) -> None:
    for directory, seed, channel in each_seed(tmp_path):
        check_volume(volume_storm(directory, seed, channel=channel, seconds=60.0), channel=channel)
