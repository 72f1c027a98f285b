"""Fixtures of a new vault and its open volume; a ``conftest`` imports them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vaults import Vault
from tgdav.volume.volume import Volume


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


@pytest.fixture
def volume(vault: Vault) -> Iterator[Volume]:
    with vault.opened() as opened:
        yield opened
