"""The behaviour suite over the file system's own calls."""

import pytest

from tests.fs.access import Ability
from tests.fs.behaviour import BEHAVIOURS, THEMES, left_out, shown
from tests.fs.direct_access import DirectAccess, abilities
from tests.fs.registry import Behaviour
from tgdav.fs.api import FileSystem


@pytest.mark.parametrize("behaviour", shown(abilities(normalized=False)), ids=lambda behaviour: behaviour.name)
def test_by_bytes(filesystem: FileSystem, behaviour: Behaviour) -> None:
    behaviour.check(DirectAccess(filesystem))


@pytest.mark.parametrize(
    "behaviour",
    [behaviour for behaviour in BEHAVIOURS if Ability.NORMALIZED_NAMES in behaviour.needs],
    ids=lambda behaviour: behaviour.name,
)
def test_by_unicode(filesystem: FileSystem, behaviour: Behaviour) -> None:
    behaviour.check(DirectAccess(filesystem, normalized=True))


def test_every_behaviour_is_shown_one_way_or_the_other() -> None:
    by_bytes = left_out(abilities(normalized=False))
    by_unicode = left_out(abilities(normalized=True))
    assert not set(by_bytes) & set(by_unicode)
    assert len(BEHAVIOURS) >= 120


def test_every_theme_has_behaviours() -> None:
    modules = {behaviour.check.__module__ for behaviour in BEHAVIOURS}
    assert modules == {theme.__name__ for theme in THEMES}
