from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.metadata.tree import Tree, check_invariants


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "tree.db")
    yield made
    with made.database.reading() as connection:
        check_invariants(connection)
    made.close()
