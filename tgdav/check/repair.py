"""``check --repair``: store again what this machine still has intact, and say of each thing what was done."""

from tgdav.check import bad_chunks
from tgdav.check.context import CheckContext
from tgdav.check.findings import Findings, Repair
from tgdav.check.repair_index import repair_index
from tgdav.check.repair_packs import PackRepairer
from tgdav.errors import DamageError, WriterReplaced
from tgdav.ids import BlobId, BlobName, ChunkId
from tgdav.metadata import settings
from tgdav.replication.checkpoint import OUTLINE
from tgdav.replication.deletion import delete_blobs

_NUMBERS = """SELECT DISTINCT c.number FROM checkpoints c JOIN checkpoint_parts p ON p.number = c.number WHERE p.name = ?
UNION SELECT d.number FROM checkpoints d JOIN checkpoint_parts p ON p.number = d.base WHERE p.name = ?"""
_PARTS = "SELECT blob, name FROM checkpoint_parts WHERE number = ? AND blob IS NOT NULL"
_BLOBS = "SELECT id, name FROM blobs WHERE name = ? AND gone = 0"
_SUPERSEDE = "UPDATE checkpoints SET state = 2 WHERE number = ?"


class Repairer:
    """Repairs headers, segments and packs from what is here, and replaces damaged checkpoints by a new one.

    With ``dry_run`` it finds out what it would do, and changes nothing.
    """

    def __init__(self, context: CheckContext, *, dry_run: bool = False) -> None:
        self._context, self._dry_run = context, dry_run
        self._packs = PackRepairer(context, dry_run=dry_run)

    def run(self, findings: Findings) -> list[Repair]:
        """Repair what can be repaired; return what was done. Raises StoreUnavailable, LocalFailure, NoSpace."""
        repairs = self._headers(findings.names("header"))
        repairs += self._segments(findings.names("segment"), findings.names("outbox"))
        if "chunks" in findings.names("database"):
            repairs += repair_index(self._context, dry_run=self._dry_run)
        if findings.names("staging"):
            repairs += self._packs.run_staged(self._bad_staged())
        repairs += self._packs.run(findings.names("pack"))
        return repairs + self._checkpoints(findings.names("checkpoint"))

    def _repair(self, blob: str, kind: str, action: str, *, done: bool = True) -> Repair:
        return Repair(blob, kind, action, done and not self._dry_run)

    def _headers(self, names: list[str]) -> list[Repair]:
        if names and not self._dry_run:
            self._context.headers.replace_copies(names)
        return [self._repair(name, "header", "a new copy is stored, and this one is deleted") for name in names]

    def _segments(self, lost: list[str], unsent: list[str]) -> list[Repair]:
        pusher = self._context.replicator.pusher
        sent = pusher.resendable(lost) if self._dry_run else pusher.resend(lost)
        undone = pusher.resealable(unsent) if self._dry_run else pusher.reseal(unsent)
        again = "it is stored again from this machine's outbox, and the damaged copy is deleted"
        anew = "its file is dropped, and its changes are sealed again from the log"
        return [
            *(self._repair(name, "segment", again) for name in sent),
            *(self._repair(name, "outbox", anew) for name in undone),
        ]

    def _bad_staged(self) -> dict[str, set[ChunkId]]:
        found = dict[str, set[ChunkId]]()
        for each in bad_chunks.staged(self._context.content, read_data=True):
            found.setdefault(each.blob, set()).add(each.chunk)
        return found

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def _checkpoints(self, names: list[str]) -> list[Repair]:
        """Write a new, full checkpoint in the place of damaged ones, and then delete those and what is based on them."""
        if not names or self._context.replicator.read_only_reason is not None:
            return []
        done = not self._dry_run and self._write_checkpoint()
        if done:
            self._delete(names)
        action = "a new checkpoint of the whole state is written, and this one and those based on it are deleted"
        if not done and not self._dry_run:
            action = "a new checkpoint can be written once all changes are in the store"
        return [self._repair(name, "checkpoint", action, done=done) for name in names]

    def _write_checkpoint(self) -> bool:
        # Not based on a damaged one.
        self._context.database.writer.run(lambda transaction: settings.remove(transaction, OUTLINE), durable=True)
        try:
            self._context.replicator.push()
            return self._context.replicator.checkpoint()
        except (DamageError, WriterReplaced):
            return False

    def _delete(self, names: list[str]) -> None:
        database, doomed = self._context.database, dict[BlobId, BlobName]()
        with database.reading() as connection:
            blobs = [bytes.fromhex(name) for name in names]
            numbers = {row[0] for blob in blobs for row in connection.all(_NUMBERS, (blob, blob))}
            for blob in blobs:
                doomed.update({BlobId(row[0]): BlobName(row[1]) for row in connection.all(_BLOBS, (blob,))})
            for number in numbers:
                doomed.update({BlobId(row[0]): BlobName(row[1]) for row in connection.all(_PARTS, (number,))})
        database.writer.run(lambda t: t.executemany(_SUPERSEDE, [(number,) for number in numbers]), durable=True)
        delete_blobs(database, self._context.store, doomed)
