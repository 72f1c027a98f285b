"""The behaviour suite, read from snapshots by the file system's own calls."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.fs.access import Ability
from tests.fs.behaviour import BEHAVIOURS, left_out, shown
from tests.fs.direct_access import DirectAccess, abilities
from tests.fs.registry import Behaviour
from tests.fs.snapshot_access import LACKS, NOT_KEPT, Below, SnapshotAccess
from tests.support.volumes import VolumeSubject

KEPT = [each for each in shown(abilities(normalized=False) - LACKS) if each.name not in NOT_KEPT]


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[VolumeSubject]:
    made = VolumeSubject(tmp_path)
    yield made
    made.close()


def snapshots_of(subject: VolumeSubject, *, normalized: bool = False) -> SnapshotAccess:
    access, numbers = DirectAccess(subject.fs, normalized=normalized), count(1)

    def take() -> Below:
        return Below(access, b".snapshots/" + subject.volume.snapshots.make(str(next(numbers))).name.encode())

    return SnapshotAccess(access, take)


@pytest.mark.parametrize("behaviour", KEPT, ids=lambda behaviour: behaviour.name)
def test_by_bytes(subject: VolumeSubject, behaviour: Behaviour) -> None:
    behaviour.check(snapshots_of(subject))


@pytest.mark.parametrize(
    "behaviour",
    [behaviour for behaviour in BEHAVIOURS if Ability.NORMALIZED_NAMES in behaviour.needs],
    ids=lambda behaviour: behaviour.name,
)
def test_by_unicode(subject: VolumeSubject, behaviour: Behaviour) -> None:
    behaviour.check(snapshots_of(subject, normalized=True))


def test_what_is_left_out_needs_open_files() -> None:
    assert len(KEPT) > 120
    assert all(
        LACKS & behaviour.needs for behaviour in BEHAVIOURS if behaviour.name in left_out(frozenset(Ability) - LACKS)
    )
