"""Mounts of the real program. Where none can be made, the tests are skipped, and say why."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.ext4 import Ext4, impossible
from tests.support.mounts import MountedVault, unusable

_numbers = count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip every test of this folder that needs a mount, if there can be none."""
    reason = unusable()
    for item in items:
        if reason and Path(__file__).parent in item.path.parents and "mount_free" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVault]:
    """One mount for the tests of a module."""
    with MountedVault(tmp_path_factory.mktemp("vault"), "allow_other,default_permissions,dev,suid") as vault:
        yield vault


@pytest.fixture(scope="session")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real ext4 to compare with."""
    if reason := impossible():
        pytest.skip(reason)
    with Ext4(tmp_path_factory.mktemp("reference")) as made:
        yield made.path


@pytest.fixture
def folder(mounted: MountedVault) -> Path:
    """A fresh folder in the mount."""
    made = mounted.path / f"folder-{next(_numbers)}"
    made.mkdir()
    return made


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[MountedVault]:
    """A vault that is not mounted yet."""
    made = MountedVault(tmp_path)
    yield made
    made.clear()
