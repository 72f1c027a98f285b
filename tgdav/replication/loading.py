"""Loading a checkpoint from the store into an empty database."""

from collections.abc import Iterator

from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError
from tgdav.metadata import settings
from tgdav.replication import checkpoint_format, rows, tables
from tgdav.replication.checkpoint import LAST_NUMBER, OUTLINE
from tgdav.replication.checkpoint_format import Batch, Outline, Part, PartName, Root
from tgdav.replication.fetching import LogReader
from tgdav.replication.survey import Found

Parts = list[Found]


class CheckpointLoader:
    """Loads one of the whole ``checkpoints`` that a survey found; told of each part."""

    def __init__(self, database: Database, reader: LogReader, checkpoints: list[Parts]) -> None:
        self._database, self._reader = database, reader
        self._checkpoints = checkpoints

    def load(self, parts: Parts) -> Root:
        """Fill the database's tables with the state of a checkpoint. Part by part: after an error it is to be loaded anew.

        Raises DamageError, BlobMissing, StoreUnavailable, LocalFailure, NoSpace.
        """
        last, root = self._root(parts)
        base_parts, base_last, base_root = (parts, last, root) if root.base is None else self._base(root.base)
        replaced = {}
        if base_parts is not parts:
            for part in self._parts(parts, last):
                replaced.update({(batch.table, batch.number): batch.rows for batch in part.batches})
        self._database.writer.run(tables.clear)
        outline = Outline(base_parts[-1].label.number, _name_of(base_parts[-1]))
        for part in self._parts(base_parts, base_last):
            for batch in part.batches:
                outline.add(batch, checkpoint_format.encode_batch(batch))
            self._insert(checkpoint_format.merged(part.batches, replaced))
        self._insert(Batch(table, number, there) for (table, number), there in replaced.items())
        self._finish(root, [(base_parts, base_root), (parts, root)], outline)
        return root

    def _root(self, parts: Parts) -> tuple[Part, Root]:
        last = self._reader.part(parts[-1])
        root = last.root
        if root is None or root.parts != [_name_of(found) for found in parts[:-1]]:
            name = parts[-1].info.name.hex()
            raise DamageError(f"checkpoint part {name} does not name its parts", blob=name)
        return last, root

    def _base(self, wanted: PartName) -> tuple[Parts, Part, Root]:
        for parts in self._checkpoints:
            if _name_of(parts[-1]) == wanted:
                last, root = self._root(parts)
                if root.base is None:
                    return parts, last, root
        name = wanted.name.hex()
        raise DamageError(f"checkpoint {name}, on which another builds, is missing", blob=name)

    def _parts(self, parts: Parts, last: Part) -> Iterator[Part]:
        yield from (self._reader.part(found) for found in parts[:-1])
        yield last

    def _insert(self, batches: Iterator[Batch]) -> None:
        def work(transaction: Transaction) -> None:
            for batch in batches:
                transaction.executemany(tables.TABLES[batch.table].insert, batch.rows)

        self._database.writer.run(work)
        self._database.checkpoint()

    def _finish(self, root: Root, used: list[tuple[Parts, Root]], outline: Outline) -> None:
        last_number = max(parts[-1].label.number for parts in self._checkpoints)

        def work(transaction: Transaction) -> None:
            tables.complete(transaction)
            for key, value in root.settings.items():
                transaction.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))
            settings.put(transaction, OUTLINE, checkpoint_format.encode_outline(outline))
            settings.put(transaction, LAST_NUMBER, last_number)
            for parts, its_root in used:
                _record(transaction, parts, its_root, outline.number if its_root.base else None)

        self._database.writer.run(work)


def _name_of(found: Found) -> PartName:
    return PartName(found.info.name, found.label.body_hash)


def _record(transaction: Transaction, parts: Parts, root: Root, base: int | None) -> None:
    number, size = parts[-1].label.number, sum(found.label.size for found in parts)
    row = (number, base, root.position, root.segment, len(parts), size, rows.STORED, root.created)
    transaction.execute(rows.INSERT_CHECKPOINT, row)
    for found in parts:
        info, label = found.info, found.label
        named = (number, label.part, info.name, label.body_hash, label.size, None, info.label, info.id)
        transaction.execute(rows.INSERT_PART, named)
