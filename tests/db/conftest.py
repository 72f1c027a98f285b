from collections.abc import Iterator
from pathlib import Path

import pytest

from tgdav.db.database import Database
from tgdav.disk import SystemDisk

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "main.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database.open(path, KEY, disk=SystemDisk())
    yield opened
    opened.close()
