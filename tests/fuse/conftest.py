"""Mounts of the real program. Where mounting is impossible the tests are skipped, with the reason."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.ext4 import Ext4, impossible
from tests.support.mounts import MountedVault, unusable

_numbers = count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests in this directory that need a mount, if none can be made."""
    reason = unusable()
    for item in items:
        if reason and Path(__file__).parent in item.path.parents and "mount_free" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVault]:
    """One mount for all tests of a module."""
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
def directory(mounted: MountedVault) -> Path:
    """A new directory in the mount."""
    made = mounted.path / f"directory-{next(_numbers)}"
    made.mkdir()
    return made


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[MountedVault]:
    """A vault that is not mounted."""
    made = MountedVault(tmp_path)
    yield made
    made.clear()
