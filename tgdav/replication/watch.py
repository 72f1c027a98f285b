"""Looking at the log in the store before adding to it: is this machine still the writer, and is its state the newest?"""

import msgspec

from tgdav.blobs.contract import BlobStore
from tgdav.crdt.ops import Member
from tgdav.crypto.label import BlobKind
from tgdav.crypto.sealing import Kind
from tgdav.db.database import Database
from tgdav.db.writer import Transaction
from tgdav.errors import BlobMissing, DamageError
from tgdav.ids import BlobId
from tgdav.metadata import settings
from tgdav.replication import envelope, rows
from tgdav.replication.fetching import fetch
from tgdav.replication.identity import LogIdentity
from tgdav.replication.segment import decode
from tgdav.replication.survey import Found, Survey

SEEN = "store.last-seen"
REPLACED = "writer.replaced"
REPORTED = "store.losses-reported"
"""Losses of blobs up to this id were reported by a check; they no longer hold pushing up."""
_NEWEST = "SELECT id, name FROM blobs WHERE gone = 0 ORDER BY id DESC LIMIT 1"


class Verdict(msgspec.Struct, frozen=True):
    """What a look at the store said. ``reason`` is why this machine may not write any more, or None."""

    reason: str | None


class LogWatch:
    """Remembers how far the listing of the store was seen."""

    def __init__(self, database: Database, store: BlobStore, log: LogIdentity) -> None:
        self._database, self._store, self._log = database, store, log

    def replaced(self) -> str | None:
        """Return why this machine is no longer the writer, as an earlier look found it."""
        with self._database.reading() as connection:
            found: str | None = settings.get(connection, REPLACED, None)
        return found

    def look(self) -> Verdict:
        """List what is new in the store, and judge it.

        Raises StoreUnavailable; DamageError when the newest blob that this machine knows is gone: the store was set back.
        """
        self._refuse_older_store()
        with self._database.reading() as connection:
            after = BlobId(settings.get(connection, SEEN, 0))
            epoch = connection.one("SELECT coalesce(max(epoch), 0) FROM machines")
        survey = Survey(self._store.list(after), self._log.vault_keys, after)
        if survey.last == after:
            return Verdict(self.replaced())
        reason = self._judge(survey, int(epoch[0]) if epoch else 0)
        self._remember(survey, reason)
        return Verdict(reason or self.replaced())

    def _refuse_older_store(self) -> None:
        """Adding to a store that was set back would bury what it lost; a check says what that is first."""
        with self._database.reading() as connection:
            newest = connection.one(_NEWEST)
            reported = settings.get(connection, REPORTED, 0)
        if newest is None or newest[0] <= reported:
            return
        first = next(iter(self._store.list(BlobId(newest[0] - 1))), None)
        if first is None or (first.id, first.name) != newest:
            raise DamageError(
                "the store no longer has the newest blob that this machine knows: it was set back, or lost something",
                blob=newest[1].hex(),
                hint="nothing is sent until 'tgdav check' has said what is missing",
            )

    def _judge(self, survey: Survey, epoch: int) -> str | None:
        reason = None
        for found in survey.of(self._log.namespace, BlobKind.SEGMENT):
            if found.label.machine == self._log.machine_id and found.label.incarnation == self._log.incarnation:
                reason = self._judge_own(found) or reason
                continue
            for member in self._members(found):
                if member.epoch > epoch:
                    epoch = member.epoch
                    reason = f"machine {member.name} is the writer since epoch {member.epoch}"
        return reason

    def _judge_own(self, found: Found) -> str | None:
        """A segment of our own that we do not know: this state is a restored backup."""
        with self._database.reading() as connection:
            known = connection.one("SELECT 1 FROM segments WHERE name = ?", (found.info.name,))
        if known is not None:
            return None
        return "the store holds later changes of this very machine (was its state restored from a backup?)"

    def _members(self, found: Found) -> list[Member]:
        name = found.info.name
        try:
            blob = fetch(self._store, found)
            content = envelope.unwrap(self._log.vault_keys, self._log.keys, Kind.SEGMENT, name, blob)
            return decode(content, name).members
        except (DamageError, BlobMissing):
            return []

    def _remember(self, survey: Survey, reason: str | None) -> None:
        headers = [rows.blob_row(each.id, each.name, rows.HEADER, each.size, None) for each in survey.headers]

        def work(transaction: Transaction) -> None:
            settings.put(transaction, SEEN, survey.last)
            transaction.executemany(rows.INSERT_BLOB, headers)
            if reason is not None:
                settings.put(transaction, REPLACED, reason)

        self._database.writer.run(work, durable=reason is not None)
