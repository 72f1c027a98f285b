"""The behaviour suite of the file system, run through the kernel."""

import os
from pathlib import Path

import pytest

from tests.fs.access import Ability
from tests.fs.behaviour import left_out, shown
from tests.fs.mounted_access import NOT_IN_POSIX, MountedAccess
from tests.fs.registry import Behaviour
from tests.support.mounts import MountedVault

PRIVILEGED = frozenset({Ability.OWNERS, Ability.SPECIAL_FILES}) if os.getuid() else frozenset[Ability]()
IN_ROOT = frozenset({Ability.RESERVED_NAMES})
ABILITIES = frozenset(Ability) - NOT_IN_POSIX - PRIVILEGED


def _needs_root(behaviour: Behaviour) -> bool:
    return bool(behaviour.needs & IN_ROOT)


@pytest.mark.parametrize(
    "behaviour", [each for each in shown(ABILITIES) if not _needs_root(each)], ids=lambda behaviour: behaviour.name
)
def test_in_a_directory(directory: Path, behaviour: Behaviour) -> None:
    behaviour.check(MountedAccess(directory, lacks=PRIVILEGED | IN_ROOT))


@pytest.mark.parametrize(
    "behaviour", [each for each in shown(ABILITIES) if _needs_root(each)], ids=lambda behaviour: behaviour.name
)
def test_in_the_root(vault: MountedVault, behaviour: Behaviour) -> None:
    with vault:
        behaviour.check(MountedAccess(vault.path, lacks=PRIVILEGED))


def test_what_is_left_out_is_not_posix() -> None:
    assert len(shown(ABILITIES)) > 120
    assert len(left_out(frozenset(Ability) - NOT_IN_POSIX)) < 43
