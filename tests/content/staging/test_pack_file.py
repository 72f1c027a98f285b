"""Writeback of a pack starts while it is filled, so that its sync is short."""

import os
from pathlib import Path

import pytest

from tests.content.world import ManualClock
from tests.crypto.seeded import SeededEntropy
from tgdav.content.staging.pack_file import PackFile, StagingDirectory
from tgdav.content.staging.quota import StagingQuota
from tgdav.disk import SystemDisk

MIB = 1024 * 1024


@pytest.fixture
def pack(tmp_path: Path) -> PackFile:
    quota, entropy = StagingQuota(tmp_path, 1000 * MIB, ManualClock(), reserve=0), SeededEntropy(1)
    return StagingDirectory(tmp_path, quota, disk=SystemDisk(), clock=ManualClock(), entropy=entropy).create(1)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges for which writeback was started: (offset, length)."""
    started: list[tuple[int, int]] = []
    advise = os.posix_fadvise

    def note(descriptor: int, start: int, length: int, advice: int) -> None:
        started.append((start, length))
        advise(descriptor, start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", note)
    return started


def test_writeback_of_a_pack_starts_before_its_sync(pack: PackFile, begun: list[tuple[int, int]]) -> None:
    blocks = [bytes([number]) * MIB for number in range(20)]
    for block in blocks:
        pack.append(block)
    assert begun == [(0, 8 * MIB), (8 * MIB, 8 * MIB)]
    pack.sync()
    assert pack.read(0, 20 * MIB) == b"".join(blocks)
    pack.close()


def test_writeback_also_starts_for_bytes_appended_after_a_cut(pack: PackFile, begun: list[tuple[int, int]]) -> None:
    pack.append(bytes(9 * MIB))
    pack.cut(MIB)
    pack.append(b"x" * (8 * MIB))
    assert begun == [(0, 9 * MIB), (MIB, 8 * MIB)]
    assert pack.read(0, 10 * MIB) == bytes(MIB) + b"x" * (8 * MIB)
    pack.close()
