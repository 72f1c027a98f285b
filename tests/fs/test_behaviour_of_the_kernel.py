"""The behaviour suite over the machine's own file system: what the suite asks is what POSIX systems do."""

import os
import sys
from pathlib import Path

import pytest

from tests.fs.access import Ability
from tests.fs.behaviour import left_out, shown
from tests.fs.mounted_access import NOT_IN_POSIX, MountedAccess
from tests.fs.registry import Behaviour

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="calls Linux's renameat2 and xattrs")

LACKS = frozenset({Ability.HUGE_FILES, Ability.RESERVED_NAMES})
PRIVILEGED = frozenset({Ability.OWNERS, Ability.SPECIAL_FILES}) if os.getuid() else frozenset[Ability]()
ABILITIES = frozenset(Ability) - NOT_IN_POSIX - LACKS - PRIVILEGED


@pytest.mark.parametrize("behaviour", shown(ABILITIES), ids=lambda behaviour: behaviour.name)
def test_the_kernel_agrees(tmp_path: Path, behaviour: Behaviour) -> None:
    behaviour.check(MountedAccess(tmp_path, lacks=LACKS | PRIVILEGED))


def test_what_is_left_out_is_not_posix() -> None:
    assert len(shown(ABILITIES)) > 120
    assert len(left_out(frozenset(Ability) - NOT_IN_POSIX - LACKS)) == 43
