"""What a comparison of two states leaves out: what no one can see."""

import shutil
from pathlib import Path

from tests.metadata.tree import Tree, extents
from tgdav.check.comparison import differences


def test_snapshots_are_compared_by_what_they_show(tmp_path: Path) -> None:
    """States of what was in the trash when a snapshot was made are swept here and there at different times."""
    live = Tree(tmp_path / "live.db")
    gone, kept = live.make(b"gone", content=extents(1)), live.make(b"kept", content=extents(2))
    live.delete(gone)
    live.snapshot()
    for node in (gone, kept):
        live.set(node, mode=0o600)
    live.close()
    shutil.copy(tmp_path / "live.db", tmp_path / "rebuilt.db")
    live.reopen()
    rebuilt = Tree(tmp_path / "rebuilt.db")

    def found() -> list[str]:
        with live.database.reading() as ours, rebuilt.database.reading() as theirs:
            return [each.what for each in differences(ours, theirs)]

    assert found() == []
    inos = {node: rebuilt.ino(node) for node in (gone, kept)}
    for node, expected in ((gone, []), (kept, ["in snapshots: attributes"])):
        before = rebuilt.rows(f"SELECT count(*) FROM nodes_past WHERE ino = {inos[node]}")
        assert before == [(1,)]
        rebuilt.database.writer.run(
            lambda t, node=node: t.execute("DELETE FROM nodes_past WHERE ino = ?", (inos[node],))
        )  # type: ignore[misc]
        assert found() == expected
    live.close()
    rebuilt.close()
