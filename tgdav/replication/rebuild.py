"""Rebuild a namespace's local state from the store alone: the last complete checkpoint, then the segments after it.

What counts is decided before anything is applied (``tgdav.crdt.membership``), and applied in causal order. Segments that do
not open, and gaps in a chain, are reported as damage; they never stop the rebuild. What a machine wrote after it was replaced
is reported too.
"""

from collections.abc import Callable, Sequence

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.config import Config
from tgdav.crdt.membership import Head, Link, Verdict, newest
from tgdav.crdt.ops import Member
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys
from tgdav.crypto.label import BlobKind
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, BlobName, Incarnation, MachineId, NamespaceId
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform
from tgdav.replication import sql, trimming
from tgdav.replication.blob_listing import BlobListing, LabelledBlob
from tgdav.replication.checkpoint import LAST_NUMBER, OUTLINE, CheckpointLoader, Parts
from tgdav.replication.format import checkpoint_tables, envelope
from tgdav.replication.import_segment import import_segment
from tgdav.replication.intake import (
    LEFT_OUT,
    Damage,
    Intake,
    Trouble,
    author_name,
    base_of,
    gap_damage,
    holes,
    record_left_out,
)
from tgdav.replication.log_identity import LogIdentity, begin_log, open_journal
from tgdav.replication.log_reader import LogReader, fetch
from tgdav.replication.writer_check import GAPS_REPORTED, SEEN

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


class Rebuilt(msgspec.Struct):
    """What a rebuild found. ``writer`` is the member with the newest epoch, ``heads`` how far each chain was applied.

    ``members`` has the newest membership of each machine whose operations are applied, ``left_out`` segments that do not
    count. ``start`` is the root part of the checkpoint that was loaded, None if there was none.
    """

    writer: Member | None = None
    start: LabelledBlob | None = None
    heads: dict[Incarnation, Head] = {}
    members: dict[MachineId, Member] = {}
    claims: dict[Incarnation, Member] = {}
    left_out: list[Link] = []
    damage: list[Damage] = []


def find_secret(
    store: BlobStore, listing: BlobListing, vault_keys: VaultKeys, namespace: NamespaceId
) -> NamespaceSecret:
    """Return the namespace's secret from the key box with the newest epoch. Raises DamageError if none opens.

    Epochs grow along a chain, so only the last segment and the last checkpoint of each incarnation that open are read.
    """
    secrets = []
    for kind in (BlobKind.SEGMENT, BlobKind.CHECKPOINT):
        chains: dict[Incarnation, list[LabelledBlob]] = {}
        for found in listing.of(namespace, kind):
            chains.setdefault(found.label.incarnation, []).append(found)
        for chain in chains.values():
            chain.sort(key=lambda each: (each.label.number, each.label.part), reverse=True)
            secret = _last_secret(store, chain, vault_keys, namespace)
            secrets += [] if secret is None else [secret]
    if not secrets:
        raise DamageError("no part of the namespace's log opens", blob=namespace.hex())
    return max(secrets, key=lambda each: each.current_epoch)


def _last_secret(
    store: BlobStore, newest_first: list[LabelledBlob], vault_keys: VaultKeys, namespace: NamespaceId
) -> NamespaceSecret | None:
    for found in newest_first:
        try:
            return envelope.secret_of(vault_keys, namespace, fetch(store, found), found.info.name)
        except (DamageError, BlobMissing):
            continue
    return None


class Rebuilder:
    """One rebuild into an empty database.

    ``starts`` are the checkpoints to begin with, oldest first: the newest one that can be used is loaded. None: all that the
    listing has.
    """

    def __init__(
        self,
        store: BlobStore,
        listing: BlobListing,
        vault_keys: VaultKeys,
        keys: NamespaceKeys,
        database: Database,
        open_journal: Callable[[], Journal],
        progress: Progress,
        starts: Sequence[Parts] | None = None,
    ) -> None:
        self._survey, self._keys, self._starts = listing, keys, starts
        self._database, self._progress = database, progress
        self._open_journal = open_journal
        self._reader = LogReader(store, vault_keys, keys)
        self._result = Rebuilt()
        self._segments = listing.of(keys.namespace, BlobKind.SEGMENT)
        self._packs = {each.info.name: each.info for each in listing.of(keys.namespace, BlobKind.PACK)}

    def run(self) -> tuple[Rebuilt, Journal]:
        """Rebuild; return what was found, and the journal for further changes.

        Raises StoreUnavailable, LocalFailure, NoSpace.
        """
        intake, verdict = self._load_newest_checkpoint()
        self._result.heads = dict(intake.base.heads)
        journal = self._open_journal()
        self._apply_all(journal, intake, verdict)
        self._report(intake, verdict)
        self._find_packs()
        self._record_blobs()
        return self._result, journal

    def follow(self, journal: Journal) -> int:
        """Apply the segments of the listing that a rebuilt database does not have yet; return how many there were.

        Raises StoreUnavailable, LocalFailure, NoSpace.
        """
        intake, verdict = self._open_segments()
        self._apply_all(journal, intake, verdict)
        self._find_packs()
        return len(verdict.order)

    # ---- checkpoint ----------------------------------------------------------------------------------------------

    def _load_newest_checkpoint(self) -> tuple[Intake, Verdict]:
        """Load the newest checkpoint that opens, contains only what counts, and lacks no segment that the store has; return
        what follows it.
        """
        checkpoints = self._survey.checkpoints(self._keys.namespace)
        loader = CheckpointLoader(self._database, self._reader, checkpoints)
        starts = checkpoints if self._starts is None else self._starts
        for number, parts in enumerate(reversed(starts), 1):
            self._progress("checkpoint", number, len(starts))
            try:
                loader.load(parts)
            except (DamageError, BlobMissing) as error:
                self._damaged(parts[-1].info.name.hex(), "checkpoint", str(error))
            else:
                self._adopt_trimming(parts[-1].label.number)
                intake, verdict = self._open_segments()
                if verdict.base_counts and not self._fills_a_gap():
                    self._result.start = parts[-1]
                    return intake, verdict
            self._database.writer.run(checkpoint_tables.clear)  # try the checkpoint before
        self._adopt_trimming(0)
        return self._open_segments()

    def _adopt_trimming(self, checkpoint: int) -> None:
        self._database.writer.run(lambda t: trimming.adopt(t, self._survey, self._keys.namespace, checkpoint))

    def _fills_a_gap(self) -> bool:
        """Whether the store has a segment that the author of the loaded checkpoint was missing."""
        with self._database.reading() as connection:
            missing = holes(connection)
        there = {(found.label.incarnation, found.label.number) for found in self._segments}
        return any((gap.incarnation, number) in there for gap in missing for number in range(gap.first, gap.last + 1))

    def _open_segments(self) -> tuple[Intake, Verdict]:
        with self._database.reading() as connection:
            intake = Intake(self._reader, base_of(connection))
        total = len(self._segments)
        intake.open_all(self._segments, lambda done: self._progress("reading the log", done, total))
        return intake, intake.judge()

    # ---- segments ------------------------------------------------------------------------------------------------

    def _apply_all(self, journal: Journal, intake: Intake, verdict: Verdict) -> None:
        for number, link in enumerate(verdict.order, 1):
            self._apply(journal, intake, link)
            self._database.checkpoint()  # keeps the WAL small
            self._progress("segments", number, len(verdict.order))

    def _apply(self, journal: Journal, intake: Intake, link: Link) -> None:
        try:
            opened = intake.opened(link)
        except (DamageError, BlobMissing) as error:
            self._damaged(intake.found(link).info.name.hex(), "segment", str(error))
            return
        import_segment(journal, opened, self._packs)
        self._result.heads[link.incarnation] = Head(link.machine, link.number, link.hash, link.last, link.time)

    def _report(self, intake: Intake, verdict: Verdict) -> None:
        result = self._result
        result.writer, result.claims, result.left_out = verdict.writer, verdict.claims, verdict.left_out
        for machine in dict.fromkeys(head.machine for head in result.heads.values()):
            member = newest(claim for claim in verdict.claims.values() if claim.machine == machine)
            if member is not None:
                result.members[machine] = member
        result.damage += [each.damage for each in intake.troubles if self._matters(each, verdict)]
        with self._database.reading() as connection:
            gaps = {gap.id: gap for gap in (*holes(connection), *verdict.gaps)}
        result.damage += [gap_damage(gap, verdict.claims) for gap in gaps.values()]
        for link in verdict.doubles:
            author = author_name(link.machine, verdict.claims)
            reason = f"there is another segment {link.number} of the log of {author}, which counts"
            self._damaged(intake.found(link).info.name.hex(), "segment", reason)

    def _matters(self, trouble: Trouble, verdict: Verdict) -> bool:
        """Whether a segment that does not open may have counted: not if its chain counts only up to one before it."""
        label = trouble.found.label
        claim = verdict.claims.get(label.incarnation)
        if claim is None or verdict.writer is None or claim.incarnation == verdict.writer.incarnation:
            return True
        head = self._result.heads.get(label.incarnation)
        if head is None:
            return verdict.bounds.get(label.incarnation, 0) > 0
        return label.number <= head.number or head.sequence < verdict.bounds.get(label.incarnation, 0)

    # ---- packs and blobs -----------------------------------------------------------------------------------------

    def _find_packs(self) -> None:
        """Record the id of every pack that the log names, or that the store lost it."""
        with self._database.reading() as connection:
            known = connection.all(sql.STORED_PACKS)
        moved: list[tuple[BlobId | None, int, int]] = []
        for number, name, size, _, blob, damaged in known:
            found = self._packs.get(BlobName(name))
            if found is None:
                self._damaged(name.hex(), "pack", "the store does not have it")
                moved.append((None, 1, number))
            elif found.size != size:
                self._damaged(name.hex(), "pack", f"it has {found.size} bytes, not {size}")
                moved.append((found.id, 1, number))
            elif (blob, damaged) != (found.id, 0):
                moved.append((found.id, 0, number))
        self._database.writer.run(lambda transaction: transaction.executemany(sql.PLACE_PACK, moved))

    def _record_blobs(self) -> None:
        """Record every blob in the store, so that a check notices when one goes missing."""
        known = [
            sql.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
            for each in self._survey.found
        ]
        known += [sql.blob_row(each.id, each.name, sql.HEADER, each.size, None) for each in self._survey.headers]

        def record(transaction: Transaction) -> None:
            transaction.executemany(sql.INSERT_BLOB, known)

        self._database.writer.run(record)

    def _damaged(self, blob: str, kind: str, reason: str) -> None:
        self._result.damage.append(Damage(blob, kind, reason))


UNFINISHED = "joining.rebuild-unfinished"
"""The setting that is present while a state is rebuilt in place of an older one."""
_ALSO_CLEARED = ("log", "checkpoints", "checkpoint_parts", "blobs", "damage")
_FORGOTTEN = (settings.NAMESPACE, OUTLINE, LAST_NUMBER, LEFT_OUT, GAPS_REPORTED)


def rebuild(
    database: Database,
    store: BlobStore,
    listing: BlobListing,
    log: LogIdentity,
    config: Config,
    platform: Platform,
    progress: Progress,
) -> tuple[Rebuilt, int]:
    """Rebuild into an empty database, and log that this machine is the writer; return what was found, and the new epoch.

    This machine writes under a fresh incarnation, whatever that of ``log`` is. Raises StoreUnavailable, LocalFailure, NoSpace.
    """
    incarnation = Incarnation(0)

    def begin() -> Journal:
        nonlocal incarnation
        journal, incarnation = open_journal(database, log.machine, log.keys, platform)
        return journal

    rebuilt, journal = Rebuilder(store, listing, log.vault_keys, log.keys, database, begin, progress).run()
    now = platform.clock.now_ns()
    database.writer.run(lambda transaction: _record_findings(transaction, listing, rebuilt, now))
    # If the beginning of the log is lost, its writer is unknown, but had an epoch of at least 1.
    epoch = rebuilt.writer.epoch + 1 if rebuilt.writer is not None else 2
    begin_log(database, config, log.machine, journal, incarnation, epoch=epoch, predecessor=rebuilt.writer)
    return rebuilt, epoch


def is_unfinished(database: Database) -> bool:
    """Whether a rebuild in place of an older state was interrupted."""
    with database.reading() as connection:
        return bool(settings.get(connection, UNFINISHED, False))


def rebuild_again(database: Database, store: BlobStore, log: LogIdentity, config: Config, platform: Platform) -> None:
    """Rebuild a state in which nothing was changed since it joined. The next start repeats an interrupted attempt.

    Raises StoreUnavailable, LocalFailure, NoSpace.
    """
    listing = BlobListing(store.list(), log.vault_keys)
    database.writer.run(_clear, durable=True)
    rebuild(database, store, listing, log, config, platform, lambda *_: None)
    database.writer.run(lambda transaction: settings.remove(transaction, UNFINISHED), durable=True)


def _clear(transaction: Transaction) -> None:
    settings.put(transaction, UNFINISHED, True)
    checkpoint_tables.clear(transaction)
    for name in _ALSO_CLEARED:
        transaction.execute(f"DELETE FROM {name}")  # noqa: S608 - a constant
    for key in _FORGOTTEN:
        settings.remove(transaction, key)


def _record_findings(transaction: Transaction, listing: BlobListing, rebuilt: Rebuilt, now_ns: int) -> None:
    settings.put(transaction, SEEN, listing.last)
    record_left_out(transaction, rebuilt.left_out, rebuilt.claims)
    found = [(each.blob, each.kind, each.reason, now_ns) for each in rebuilt.damage]
    transaction.executemany("INSERT OR REPLACE INTO damage (blob, kind, reason, found) VALUES (?, ?, ?, ?)", found)
