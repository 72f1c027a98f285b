"""Each invariant of the database is checked: a sound database breaks none, and each way to break one is told."""

import ast
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.support.vaults import Vault, content, folder_of, make_folder, put, rows
from tgdav.check import content_check, structure, tree_check
from tgdav.check.structure import structural_problems
from tgdav.crdt.ops import Snapshot
from tgdav.db.transaction import Transaction
from tgdav.fs.api import Owner
from tgdav.metadata.types import Kind
from tgdav.volume.volume import Volume


def furnish(volume: Volume) -> None:
    """Everything that has rows: files in the store, staged and deleted, links, properties, junk, versions, a snapshot."""
    fs = volume.fs
    make_folder(volume, "directory")
    make_folder(volume, "directory/below")
    put(volume, "directory/file", content(1, 90_000), {b"{urn:a}b": b"value"})
    put(volume, "long", bytes(700_000) + content(2, 400_000))
    put(volume, "deleted", content(3, 5000))
    fs.create(fs.root, b"symlink", Kind.SYMLINK, 0o777, Owner(), target=b"directory/file", durable=True)
    fs.link(fs.resolve([b"directory", b"file"]).inode, fs.root, b"hard link", durable=True)
    put(volume, ".DS_Store", b"junk")
    volume.sync(wait=True)
    assert volume.replicator.checkpoint()
    snapshot(volume)
    put(volume, "directory/file", content(4, 80_000), {b"{urn:a}b": b"another"})
    fs.rename(*folder_of(volume, "directory"), *folder_of(volume, "renamed"), durable=True)
    fs.remove_tree(fs.root, b"deleted", durable=True)
    volume.sync(wait=True)
    put(volume, "staged", content(5, 60_000))
    put(volume, "row", content(6, 6000))


def snapshot(volume: Volume) -> None:
    op = Snapshot(b"snapshot's id 16", "first", volume.platform.clock.now_ns(), True)
    volume.journal.change(lambda change: change.emit(op), durable=True)


def reasons(volume: Volume) -> list[str]:
    with volume.database.reading() as connection:
        found = structural_problems(connection, volume.log.keys.content_tag)
    return [each.what for each in found]


def test_a_sound_database_breaks_none(vault: Vault, volume: Volume) -> None:
    assert reasons(volume) == []
    furnish(volume)
    assert reasons(volume) == []
    volume.sync(wait=True)
    assert reasons(volume) == []
    vault.join("second")
    with vault.opened("second") as second:
        assert reasons(second) == []
        put(second, "directory-2", content(7, 10))
        assert reasons(second) == []


_FILE = "(SELECT ino FROM entries WHERE name = x'66696c65')"  # file
_DIRECTORY = "(SELECT ino FROM entries WHERE name = x'72656e616d6564')"  # renamed
_BELOW = "(SELECT ino FROM entries WHERE name = x'62656c6f77')"  # below
_LONG = "(SELECT ino FROM entries WHERE name = x'6c6f6e67')"  # long
HARMS = {
    "files or directories have a wrong link count": [
        f"UPDATE nodes SET nlink = nlink + 1 WHERE ino = {_FILE}",
        f"UPDATE nodes SET nlink = nlink - 1 WHERE ino = {_DIRECTORY}",
        "UPDATE nodes SET nlink = 7 WHERE ino = 2",
        "DELETE FROM entries WHERE name = CAST('hard link' AS BLOB)",
        "UPDATE nodes SET nlink = 1 WHERE ino = (SELECT ino FROM entries WHERE parent = 2)",
    ],
    "entries name a missing file or directory": [
        f"DELETE FROM nodes WHERE ino = {_FILE}",
        "UPDATE entries SET ino = 100000 WHERE name = CAST('long' AS BLOB)",
    ],
    "entries are in a missing directory": [f"DELETE FROM nodes WHERE ino = {_DIRECTORY}"],
    "directories have more than one entry": [
        f"INSERT INTO entries SELECT 1, x'41', zeroblob(16), {_BELOW}, 1, 1, NULL, NULL, 0, NULL, 1",
    ],
    "directories are below themselves": [f"UPDATE entries SET parent = {_BELOW} WHERE ino = {_DIRECTORY}"],
    "root or trash directories are missing": ["DELETE FROM nodes WHERE ino = 2"],
    "files name a missing manifest": [f"UPDATE nodes SET content = NULL, manifest = 999 WHERE ino = {_FILE}"],
    "files have two manifests": [
        f"INSERT INTO manifests (no, data) VALUES (5, zeroblob(40)); UPDATE nodes SET manifest = 5 WHERE ino = {_FILE}",
    ],
    "files have a manifest that cannot be read": [
        f"UPDATE nodes SET content = zeroblob(40) WHERE ino = {_FILE}",
        "UPDATE nodes_past SET content = zeroblob(39) WHERE kind = 1",
    ],
    "files have another size than their manifest": [f"UPDATE nodes SET size = size + 1 WHERE ino = {_FILE}"],
    "files have another tag than their manifest": [f"UPDATE nodes SET tag = zeroblob(16) WHERE ino = {_FILE}"],
    "files name chunks that are nowhere": ["DELETE FROM chunks WHERE data IS NULL", "UPDATE packs SET state = 4"],
    "contents have an unknown author": [f"UPDATE nodes SET author = 77 WHERE ino = {_FILE}"],
    "nodes are of an unknown kind": [f"UPDATE nodes SET kind = 9 WHERE ino = {_LONG}"],
    "directories or special files have content": [f"UPDATE nodes SET content = x'41' WHERE ino = {_DIRECTORY}"],
    "symbolic links have another length than their target": ["UPDATE nodes SET size = 3 WHERE kind = 3"],
    "earlier states of files overlap": [
        "UPDATE nodes_past SET since = until WHERE kind = 1",
        """CREATE TEMP TABLE twice AS SELECT * FROM nodes_past; UPDATE twice SET until = until + 1; \
INSERT INTO nodes_past SELECT * FROM twice; DROP TABLE twice""",
    ],
    "files have an earlier state that did not end": [
        "UPDATE nodes SET since = 1 WHERE ino IN (SELECT ino FROM nodes_past)"
    ],
    "earlier names overlap": ["UPDATE entries_past SET until = since"],
    "names have an earlier place that did not end": [
        "UPDATE entries SET since = 1 WHERE id IN (SELECT id FROM entries_past)"
    ],
    "earlier properties overlap": ["UPDATE fields_past SET until = since - 1"],
    "properties belong to a missing file or directory": ["UPDATE fields SET ino = 100000"],
    "names have an unknown author": ["UPDATE entries SET by = 77"],
    "names are logged in a directory that is not": [f"UPDATE nodes SET local = 1 WHERE ino = {_DIRECTORY}"],
    "local changes belong to a missing file": ["INSERT INTO overlays (ino, file, salt) VALUES (100000, 'x', x'41')"],
    "chunks are in a pack that does not exist": ["UPDATE chunks SET pack = 77 WHERE pack IS NOT NULL"],
    "chunks are neither staged nor in a pack": ["UPDATE chunks SET data = NULL"],
    "chunks are both staged and in a pack": ["UPDATE chunks SET pack = 1"],
    "staged chunks have another length": ["UPDATE chunks SET data = x'41' WHERE data IS NOT NULL"],
    "chunks reach beyond the end of their pack": ["UPDATE chunks SET offset = offset + 100000 WHERE pack IS NOT NULL"],
    "packs are of an unknown state": ["UPDATE packs SET state = 9"],
    "closed packs lack their size, hash or label": ["UPDATE packs SET hash = NULL WHERE state = 3"],
    "stored packs have no place in the store": ["UPDATE packs SET blob = NULL WHERE state = 3"],
    "segments are neither stored nor in the outbox": ["UPDATE segments SET blob = NULL, file = NULL"],
    "chains have another head than their segments": [
        "UPDATE chains SET number = number - 1",
        "UPDATE chains SET hash = zeroblob(32)",
    ],
    "segments are in no chain": ["DELETE FROM chains"],
    "unsent changes are in a segment that does not exist": ["UPDATE log SET segment = 77"],
    "unsent changes overlap": ["UPDATE log SET count = 10"],
    "checkpoints lack a part": ["UPDATE checkpoint_parts SET blob = NULL"],
    "checkpoints are based on one that does not exist": ["UPDATE checkpoints SET base = 77"],
    "snapshots have an unknown author": ["UPDATE pins SET author = 77"],
    "snapshots are later than the log": ["UPDATE pins SET position = 77"],
    "checkpoints are later than the log": ["UPDATE checkpoints SET position = 77"],
    "files or directories are later than the log": [f"UPDATE nodes SET since = 77 WHERE ino = {_FILE}"],
    "names are later than the log": [f"UPDATE entries SET since = 77 WHERE ino = {_FILE}"],
    "replaced files are later than the log": [
        "INSERT INTO predecessors (entry, position, ino, id) VALUES (zeroblob(16), 77, 5, zeroblob(16))"
    ],
    "chains are behind their segments": [
        "UPDATE chains SET position = 1",
        "UPDATE chains SET sequence = 1",
        "UPDATE chains SET stamp = 1",
    ],
    "tables have an inode number that would be given away again": [
        "UPDATE settings SET value = x'03' WHERE key = 'inode.last'",
        "INSERT INTO predecessors (entry, position, ino, id) VALUES (zeroblob(16), 1, 100000, zeroblob(16))",
    ],
    "segments are missing in the middle of a chain": ["DELETE FROM segments WHERE number = 2"],
}


class _Undo(Exception):
    """Rolls the transaction back."""


def reasons_after(volume: Volume, harm: str) -> list[str]:
    """Return what is told after some statements, and undo them."""
    found: list[str] = []

    def job(transaction: Transaction) -> None:
        for statement in harm.split("; "):
            transaction.execute(statement)
        found.extend(each.what for each in structural_problems(transaction, volume.log.keys.content_tag))
        raise _Undo

    with pytest.raises(_Undo):
        volume.database.writer.run(job)
    return found


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    with Vault(tmp_path_factory.mktemp("structure") / "vault").opened() as opened:
        furnish(opened)
        yield opened
        assert reasons(opened) == []


@pytest.mark.parametrize(("what", "harm"), [(what, harm) for what, harms in HARMS.items() for harm in harms])
def test_each_way_to_break_one_is_told(furnished: Volume, what: str, harm: str) -> None:
    assert what in reasons_after(furnished, harm)


def test_every_invariant_is_broken_here(furnished: Volume) -> None:
    assert reasons(furnished) == []
    told = {text for module in (structure, tree_check, content_check) for text in strings_of(module)}
    assert told == set(HARMS)


def strings_of(module: ModuleType) -> Iterator[str]:
    """Yield the descriptions of broken invariants in a module's source: they are lower-case phrases that begin with a plural."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _PHRASE.fullmatch(node.value):
            yield node.value


_PHRASE = re.compile(r"[a-z][a-z ,]+ [a-z ,]+")


@pytest.mark.parametrize(
    "harm",
    [
        f"UPDATE entries SET parent = {_BELOW} WHERE ino = {_DIRECTORY}",
        f"UPDATE nodes SET content = zeroblob(40) WHERE ino = {_FILE}",
    ],
)
def test_a_check_tells_it_whatever_it_is(volume: Volume, harm: str) -> None:
    furnish(volume)
    volume.database.writer.run(lambda t: t.execute(harm))
    assert not volume.check()["ok"]
    assert rows(volume, "SELECT blob, kind FROM damage") == [("database", "database")]
