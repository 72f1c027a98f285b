"""Rebuilding a namespace's local state from the store alone: last whole checkpoint, then the segments after it.

What counts is judged before anything is applied (``tgdav.crdt.membership``), and applied in the order in which its authors
saw it. What does not open, and every gap in a chain, is reported as damage; it never stops the rest. What was made after its
author was replaced is reported too.
"""

from collections.abc import Callable

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.crdt.membership import Head, Link, Verdict, newest
from tgdav.crdt.ops import Member
from tgdav.crypto.keys import NamespaceKeys, NamespaceSecret, VaultKeys
from tgdav.crypto.label import BlobKind
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId, BlobName, Incarnation, MachineId, NamespaceId
from tgdav.metadata.journal import Journal
from tgdav.replication import envelope, rows, tables
from tgdav.replication.fetching import LogReader, fetch
from tgdav.replication.intake import Damage, Intake, Trouble, author_name, base_of, gap_damage, holes
from tgdav.replication.loading import CheckpointLoader
from tgdav.replication.survey import Found, Survey
from tgdav.replication.taking import take_segment

Progress = Callable[[str, int, int], None]
"""Told (what, done, total)."""


class Rebuilt(msgspec.Struct):
    """What a rebuild found. ``writer`` is the member with the newest epoch, ``heads`` how far each chain was applied.

    ``members``: of each machine whose operations are applied, its newest membership. ``left_out``: segments that do not count.
    """

    writer: Member | None = None
    heads: dict[Incarnation, Head] = {}
    members: dict[MachineId, Member] = {}
    claims: dict[Incarnation, Member] = {}
    left_out: list[Link] = []
    damage: list[Damage] = []


def find_secret(store: BlobStore, survey: Survey, vault_keys: VaultKeys, namespace: NamespaceId) -> NamespaceSecret:
    """Return the namespace's secret from the key box with the newest epoch. Raises DamageError if none opens.

    Epochs grow along a chain, so of each incarnation's segments, and of its checkpoints, the last one that opens is asked.
    """
    secrets = []
    for kind in (BlobKind.SEGMENT, BlobKind.CHECKPOINT):
        chains: dict[Incarnation, list[Found]] = {}
        for found in survey.of(namespace, kind):
            chains.setdefault(found.label.incarnation, []).append(found)
        for chain in chains.values():
            chain.sort(key=lambda each: (each.label.number, each.label.part), reverse=True)
            secret = _last_secret(store, chain, vault_keys, namespace)
            secrets += [] if secret is None else [secret]
    if not secrets:
        raise DamageError("no part of the namespace's log opens", blob=namespace.hex())
    return max(secrets, key=lambda each: each.current_epoch)


def _last_secret(
    store: BlobStore, newest_first: list[Found], vault_keys: VaultKeys, namespace: NamespaceId
) -> NamespaceSecret | None:
    for found in newest_first:
        try:
            return envelope.secret_of(vault_keys, namespace, fetch(store, found), found.info.name)
        except (DamageError, BlobMissing):
            continue
    return None


class Rebuilder:
    """One rebuild into an empty database."""

    def __init__(
        self,
        store: BlobStore,
        survey: Survey,
        vault_keys: VaultKeys,
        keys: NamespaceKeys,
        database: Database,
        open_journal: Callable[[], Journal],
        progress: Progress,
    ) -> None:
        self._survey, self._keys = survey, keys
        self._database, self._progress = database, progress
        self._open_journal = open_journal
        self._reader = LogReader(store, vault_keys, keys)
        self._result = Rebuilt()
        self._segments = survey.of(keys.namespace, BlobKind.SEGMENT)
        self._packs = {each.info.name: each for each in survey.of(keys.namespace, BlobKind.PACK)}

    def run(self) -> tuple[Rebuilt, Journal]:
        """Rebuild; return what was found, and the journal to go on with.

        Raises StoreUnavailable, LocalFailure, NoSpace.
        """
        intake, verdict = self._load_newest_checkpoint()
        self._result.heads = dict(intake.base.heads)
        journal = self._open_journal()
        for number, link in enumerate(verdict.order, 1):
            self._take(journal, intake, link)
            self._database.checkpoint()
            self._progress("segments", number, len(verdict.order))
        self._report(intake, verdict)
        self._find_packs()
        self._note_blobs()
        return self._result, journal

    # ---- checkpoint ----------------------------------------------------------------------------------------------

    def _load_newest_checkpoint(self) -> tuple[Intake, Verdict]:
        """Load the newest checkpoint that opens, holds nothing but what counts, and lacks nothing that is there; return what
        comes after it.
        """
        checkpoints = self._survey.checkpoints(self._keys.namespace)
        loader = CheckpointLoader(self._database, self._reader, checkpoints)
        for number, parts in enumerate(reversed(checkpoints), 1):
            self._progress("checkpoint", number, len(checkpoints))
            try:
                loader.load(parts)
            except (DamageError, BlobMissing) as error:
                self._damaged(parts[-1].info.name.hex(), "checkpoint", str(error))
            else:
                intake, verdict = self._open_segments()
                if verdict.base_counts and not self._fills_a_hole():
                    return intake, verdict
            self._database.writer.run(tables.clear)
        return self._open_segments()

    def _fills_a_hole(self) -> bool:
        """Whether the store has a segment that the author of the loaded checkpoint had missed."""
        with self._database.reading() as connection:
            missing = holes(connection)
        there = {(found.label.incarnation, found.label.number) for found in self._segments}
        return any((gap.incarnation, number) in there for gap in missing for number in range(gap.first, gap.last + 1))

    def _open_segments(self) -> tuple[Intake, Verdict]:
        with self._database.reading() as connection:
            intake = Intake(self._reader, base_of(connection))
        total = len(self._segments)
        intake.take(self._segments, lambda done: self._progress("reading the log", done, total))
        return intake, intake.judge()

    # ---- segments ------------------------------------------------------------------------------------------------

    def _take(self, journal: Journal, intake: Intake, link: Link) -> None:
        try:
            opened = intake.opened(link)
        except (DamageError, BlobMissing) as error:
            self._damaged(intake.found(link).info.name.hex(), "segment", str(error))
            return
        take_segment(journal, opened, self._packs)
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
        """Look for every pack that the log names: where it lies now, or that it is lost."""
        with self._database.reading() as connection:
            known = connection.all(rows.STORED_PACKS)
        moved: list[tuple[BlobId | None, int, int]] = []
        for number, name, size, _, blob, damaged in known:
            found = self._packs.get(BlobName(name))
            if found is None:
                self._damaged(name.hex(), "pack", "the store does not have it")
                moved.append((None, 1, number))
            elif found.info.size != size:
                self._damaged(name.hex(), "pack", f"it has {found.info.size} bytes, not {size}")
                moved.append((found.info.id, 1, number))
            elif (blob, damaged) != (found.info.id, 0):
                moved.append((found.info.id, 0, number))
        self._database.writer.run(lambda transaction: transaction.executemany(rows.PLACE_PACK, moved))

    def _note_blobs(self) -> None:
        """Remember every blob that the store shows, so that one that goes missing is noticed, and what is missing."""
        known = [
            rows.blob_row(each.info.id, each.info.name, each.label.kind, each.label.size, each.label.body_hash)
            for each in self._survey.found
        ]
        known += [rows.blob_row(each.id, each.name, rows.HEADER, each.size, None) for each in self._survey.headers]

        def work(transaction: Transaction) -> None:
            transaction.executemany(rows.INSERT_BLOB, known)

        self._database.writer.run(work)

    def _damaged(self, blob: str, kind: str, reason: str) -> None:
        self._result.damage.append(Damage(blob, kind, reason))
