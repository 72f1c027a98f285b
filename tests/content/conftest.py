"""A content store to test, and keys made from a seed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.content.identities import make_identity
from tests.content.world import World
from tests.crypto.seeded import SeededEntropy
from tgdav.content.format.sealer import ContentIdentity


@pytest.fixture
def identity() -> ContentIdentity:
    return make_identity()


@pytest.fixture
def entropy() -> SeededEntropy:
    return SeededEntropy(11)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()
