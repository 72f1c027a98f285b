"""The behaviour suite: all behaviours, by theme, and those that an access can show.

A test module of an access parametrises over ``shown(access.abilities)`` and states in one more test how many it leaves
out, so that none goes missing unseen.
"""

from tests.fs import (
    behaviours_attributes,
    behaviours_content,
    behaviours_handles,
    behaviours_links,
    behaviours_names,
    behaviours_removal,
    behaviours_renames,
    behaviours_spelling,
    behaviours_trees,
)
from tests.fs.access import Ability
from tests.fs.registry import REGISTERED, Behaviour

THEMES = (
    behaviours_names,
    behaviours_removal,
    behaviours_renames,
    behaviours_spelling,
    behaviours_links,
    behaviours_content,
    behaviours_handles,
    behaviours_attributes,
    behaviours_trees,
)
BEHAVIOURS = tuple(REGISTERED)


def shown(abilities: frozenset[Ability]) -> list[Behaviour]:
    """Return the behaviours that an access with ``abilities`` can show."""
    return [behaviour for behaviour in BEHAVIOURS if behaviour.needs <= abilities]


def left_out(abilities: frozenset[Ability]) -> list[str]:
    """Return the names of those that it cannot."""
    return [behaviour.name for behaviour in BEHAVIOURS if not behaviour.needs <= abilities]
