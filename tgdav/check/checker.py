"""``check``: is the database consistent, and does the store have every blob that it should have, byte for byte?

Three checks: the local state; the store's listing against what this machine knows; and, with ``read_data``, every byte of
every blob. Blobs that are recorded as damaged are always read: only what is intact again is removed from the record.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from blake3 import blake3

from tgdav.blobs.interface import BlobInfo
from tgdav.check import bad_chunks
from tgdav.check.context import CheckContext
from tgdav.check.drill import Drill
from tgdav.check.expected_blobs import ExpectedBlobs, KnownBlob, role_of
from tgdav.check.findings import Findings, Repair, left_out_report
from tgdav.check.local import LocalCheck
from tgdav.check.naming import Names, states_naming
from tgdav.check.repair import Repairer
from tgdav.crypto.header import HEADER_BYTES, decode, recognise
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.db.transaction import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, BlobName, ChunkId
from tgdav.metadata import settings
from tgdav.replication import sql
from tgdav.replication.blob_listing import BlobListing
from tgdav.replication.writer_check import GAPS_REPORTED, REPORTED, SEEN

Progress = Callable[[str, int, int], None]
_STEP = 4 * 1024 * 1024
_ALL = 100.0


class Checker:
    """One check of an open namespace."""

    def __init__(self, context: CheckContext) -> None:
        self._context = context
        self._database, self._store, self._headers = context.database, context.store, context.headers
        self._replicator, self._platform = context.replicator, context.platform
        self._vault_keys = context.replicator.log.vault_keys
        self._findings = Findings()
        self._repairs: list[Repair] = []
        self._examined: set[str] = set()
        self._bytes = 0

    def run(
        self,
        *,
        read_data: float | None,
        repair: bool,
        dry_run: bool = False,
        drill: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Check; return the ``check`` object. Raises StoreUnavailable: then nothing is known of the store.

        ``read_data``: the percentage of blobs to read completely, a different selection each time; None: only those that are
        recorded as damaged. ``dry_run``: only report what a repair would do. ``drill``: rebuild the state from the store, too,
        and compare; raises WriterReplaced if this machine is not the writer any more.
        """
        report = progress or _silent
        rebuilds = Drill(self._context, report) if drill else None
        files = LocalCheck(self._context, self._findings, read_data=read_data is not None).run()
        listed = self._check_store(read_data, report)
        if (repair or dry_run) and self._findings:
            files = self._repair(listed, report, files, dry_run=dry_run)
        for missing in self._replicator.missing():
            self._findings.add(missing.blob, missing.kind, missing.reason)
        self._name_paths(listed)
        self._record(listed)
        # A drill's findings are not recorded as damage: the blobs are intact, and only another drill can tell again.
        drilled = rebuilds.run(self._findings) if rebuilds is not None else []
        return {
            "ok": not self._findings,
            "files": files,
            "blobs": len(listed),
            "bytes_read": self._bytes,
            "damage": [msgspec.structs.asdict(each) for each in self._findings],
            "repaired": [each.blob for each in self._repairs if each.done],
            "repairs": [msgspec.structs.asdict(each) for each in self._repairs],
            "left_out": left_out_report(self._database),
            "drills": drilled,
        }

    def _repair(self, listed: list[BlobInfo], report: Progress, files: int, *, dry_run: bool) -> int:
        """Repair, and check again what may be whole now; return the number of files."""
        if not dry_run:
            self._record(listed)  # nothing is sent to a store that lacks its newest blob before that was reported
        self._repairs = Repairer(self._context, dry_run=dry_run).run(self._findings)
        if dry_run:
            return files
        self._findings.drop(each.blob for each in self._repairs if each.done)
        local = self._findings.names("database", "staging", "outbox")
        if local or any(each.kind in ("database", "staging") for each in self._repairs):
            self._findings.drop(local)
            files = LocalCheck(self._context, self._findings, read_data=True).run()
        self._check_store(None, report)
        return files

    def _check_store(self, read_data: float | None, progress: Progress) -> list[BlobInfo]:
        # Read what is expected before listing: blobs that are stored in between must not be reported as missing.
        expected_blobs = ExpectedBlobs.of(self._database)
        self._examined |= expected_blobs.suspected
        listed = list(self._store.list())
        names = {blob.name for blob in [*expected_blobs.expected, *expected_blobs.lost_packs]}
        listing = BlobListing(listed, self._vault_keys)
        listing.refuse_later(names.__contains__)
        suspects = self._check_listing(listed, expected_blobs, others_delete=self._others_delete(listing))
        if suspects:
            now = ExpectedBlobs.of(self._database)
            for blob, reason in suspects:
                if now.expects(blob):
                    self._findings.add(blob.name.hex(), blob.role, reason)
        self._read_blobs(listed, expected_blobs, read_data, progress)
        return listed

    # ---- the listing ---------------------------------------------------------------------------------------------

    def _others_delete(self, listing: BlobListing) -> bool:
        """Whether this machine is not the writer any more, and the writer may have deleted what this machine knows: it has
        written checkpoints since.
        """
        if self._replicator.writer_check.replaced() is None:
            return False
        with self._database.reading() as connection:
            (known,) = connection.one(_LAST_CHECKPOINT) or (0,)
        parts = listing.of(self._replicator.log.namespace, BlobKind.CHECKPOINT)
        return any(found.label.number > known for found in parts)

    def _check_listing(
        self, listed: list[BlobInfo], expected_blobs: ExpectedBlobs, *, others_delete: bool
    ) -> list[tuple[KnownBlob, str]]:
        replaced = self._headers.is_superseded(listed)
        by_id = {info.id: info for info in listed}
        by_name = {info.name: info for info in listed}
        suspects = []
        for blob in expected_blobs.expected:
            info = by_id.get(BlobId(blob.id))
            if info is None or info.name != blob.name:
                elsewhere = blob.name in by_name
                if replaced if blob.kind == sql.HEADER else others_delete and not elsewhere:
                    continue
                reason = "it is elsewhere in the store" if elsewhere else "the store does not have it any more"
                suspects.append((blob, reason))
            elif info.size != blob.size:
                suspects.append((blob, f"it has {info.size} bytes, not {blob.size}"))
            elif not self._label_fits(info, blob):
                suspects.append((blob, "its label is not the one it was stored with"))
        for blob in expected_blobs.lost_packs:
            info = by_name.get(blob.name)
            if info is None:
                suspects.append((blob, "the store does not have it"))
            elif info.size != blob.size or not self._label_fits(info, blob):
                suspects.append((blob, "what the store has under its name is not it"))
            else:
                self._place(blob, info)
        return suspects

    def _place(self, blob: KnownBlob, info: BlobInfo) -> None:
        """Record the id of a pack that was lost when this state was rebuilt and is in the store again."""

        def write_rows(transaction: Transaction) -> None:
            transaction.execute("UPDATE packs SET blob = ?, damaged = 0 WHERE name = ?", (info.id, blob.name))
            transaction.execute(sql.INSERT_BLOB, sql.blob_row(info.id, blob.name, blob.kind, blob.size, blob.hash))

        self._database.writer.run(write_rows)

    def _label_fits(self, info: BlobInfo, blob: KnownBlob) -> bool:
        if blob.kind == sql.HEADER:
            return recognise(info.label)
        label = decode_label(info.label, self._vault_keys, info.name)
        if label is None or label.size != blob.size or label.kind != blob.kind:
            return False
        return blob.hash is None or label.body_hash == blob.hash

    # ---- every byte ----------------------------------------------------------------------------------------------

    def _read_blobs(
        self, listed: list[BlobInfo], expected_blobs: ExpectedBlobs, percent: float | None, progress: Progress
    ) -> None:
        chosen = [info for info in listed if info.name.hex() in expected_blobs.suspected]
        if percent is not None:
            every = max(round(_ALL / percent), 1)
            first = int.from_bytes(self._platform.entropy.bytes(4), "big") % every
            # Read at least one.
            share = listed[first::every] or listed[:1]
            chosen = list({info.id: info for info in [*share, *chosen]}.values())
        hashes = expected_blobs.hashes()
        total, done = sum(info.size for info in chosen), 0
        for info in chosen:
            self._read_blob(info, hashes.get((info.id, info.name)))
            done += info.size
            progress("reading bytes", done, total)

    def _read_blob(self, info: BlobInfo, recorded: bytes | None) -> None:
        label = decode_label(info.label, self._vault_keys, info.name)
        header = recognise(info.label)
        if label is None and not header:
            return  # a foreign blob
        role = role_of(sql.HEADER if label is None else label.kind)
        try:
            if label is None:
                decode(self._store.read(info.id, 0, HEADER_BYTES))
                self._bytes += HEADER_BYTES
                return
            digest = self._digest(info)
        except (DamageError, BlobMissing) as error:
            if not self._was_deleted(info):
                self._findings.add(info.name.hex(), role, str(error.message))
            return
        if digest != label.body_hash or (recorded is not None and digest != recorded):
            self._findings.add(info.name.hex(), role, "its bytes are not those that were stored")

    def _was_deleted(self, info: BlobInfo) -> bool:
        """Whether a blob was deleted on purpose since the listing."""
        with self._database.reading() as connection:
            row = connection.one("SELECT gone FROM blobs WHERE id = ? AND name = ?", (info.id, info.name))
        return bool(row and row[0])

    def _digest(self, info: BlobInfo) -> bytes:
        hasher = blake3()
        for offset in range(0, info.size, _STEP):
            data = self._store.read(info.id, offset, min(_STEP, info.size - offset))
            hasher.update(data)
            self._bytes += len(data)
        return hasher.digest()

    # ---- afterwards ----------------------------------------------------------------------------------------------

    def _name_paths(self, listed: list[BlobInfo]) -> None:
        there = {info.name: info for info in listed}
        blobs = dict[ChunkId, str]()
        for blob in (each for each in self._findings.names("pack") if len(each) == _NAME_DIGITS):
            name = BlobName(bytes.fromhex(blob))
            chunks = bad_chunks.stored(self._context.content, self._store, name, there.get(name))
            blobs |= dict.fromkeys(chunks, blob)
        with self._database.reading() as connection:
            names = Names(connection)
            for blob, states in states_naming(connection, blobs).items():
                self._findings.add(blob, "pack", "", names.paths(states))

    def _record(self, listed: list[BlobInfo]) -> None:
        now = self._platform.clock.now_ns()
        newest = max(ExpectedBlobs.of(self._database).expected, key=lambda blob: blob.id, default=None)
        is_lost = newest is not None and (newest.id, newest.name) not in {(info.id, info.name) for info in listed}
        # Only a loss that this check reports stops holding up pushing.
        reported = newest.id if newest is not None and is_lost else 0
        last = max((info.id for info in listed), default=0)
        bad = set(self._findings.names("pack"))
        intact = [(bytes.fromhex(name),) for name in self._examined - bad if len(name) == _NAME_DIGITS]
        found = [(each.blob, each.kind, each.reason, now) for each in self._findings]

        def write_rows(transaction: Transaction) -> None:
            # Damage that a read has recorded meanwhile stays.
            transaction.executemany("DELETE FROM damage WHERE blob = ?", [(each,) for each in self._examined])
            transaction.executemany(
                "INSERT OR REPLACE INTO damage (blob, kind, reason, found) VALUES (?, ?, ?, ?)", found
            )
            settings.put(transaction, REPORTED, reported)
            settings.put(transaction, GAPS_REPORTED, self._findings.names("gap", "segment"))
            # A store that was set back assigns ids again from its present end.
            settings.put(transaction, SEEN, min(settings.get(transaction, SEEN, 0), last))
            transaction.executemany(_IS_INTACT, intact)
            transaction.executemany(
                "UPDATE packs SET damaged = 1 WHERE name = ?", [(bytes.fromhex(name),) for name in bad]
            )

        self._database.writer.run(write_rows)


_LAST_CHECKPOINT = "SELECT coalesce(max(number), 0) FROM checkpoints"


def _silent(_what: str, _done: int, _total: int) -> None:
    return


_NAME_DIGITS = 32
_IS_INTACT = "UPDATE packs SET damaged = 0 WHERE name = ? AND state = 3 AND blob IS NOT NULL"
