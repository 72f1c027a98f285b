"""A local state rebuilt from the store, in which this machine is to be the writer: by joining, and again for a join that was
held up over a hole in the log that the store has filled since.
"""

from tgdav.blobs.interface import BlobStore
from tgdav.config import Config
from tgdav.crypto.keys import NamespaceKeys, VaultKeys
from tgdav.crypto.machine import MachineIdentity
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.ids import Incarnation
from tgdav.metadata import settings
from tgdav.metadata.journal import Journal
from tgdav.platform import Platform
from tgdav.replication import tables
from tgdav.replication.checkpoint import LAST_NUMBER, OUTLINE
from tgdav.replication.intake import LEFT_OUT, note_left_out
from tgdav.replication.rebuild import Progress, Rebuilder, Rebuilt
from tgdav.replication.survey import Survey
from tgdav.replication.watch import GAPS_REPORTED, SEEN
from tgdav.volume.log_start import begin_log, open_journal

UNFINISHED = "joining.rebuild-unfinished"
"""Set while a state is rebuilt in the place of an older one."""
_ALSO_CLEARED = ("log", "checkpoints", "checkpoint_parts", "blobs", "damage")
_FORGOTTEN = (settings.NAMESPACE, OUTLINE, LAST_NUMBER, LEFT_OUT, GAPS_REPORTED)


def rebuild(
    database: Database,
    store: BlobStore,
    survey: Survey,
    vault_keys: VaultKeys,
    keys: NamespaceKeys,
    identity: MachineIdentity,
    config: Config,
    platform: Platform,
    progress: Progress,
) -> tuple[Rebuilt, int]:
    """Rebuild into an empty database, and log that this machine is the writer; return what was found, and the epoch.

    Raises StoreUnavailable, LocalFailure, NoSpace.
    """
    incarnation = Incarnation(0)

    def begin() -> Journal:
        nonlocal incarnation
        journal, incarnation = open_journal(database, config, identity, keys, platform)
        return journal

    rebuilt, journal = Rebuilder(store, survey, vault_keys, keys, database, begin, progress).run()
    now = platform.clock.now_ns()
    database.writer.run(lambda transaction: _note(transaction, survey, rebuilt, now))
    # Where the log's beginning is lost, somebody was its writer all the same.
    epoch = rebuilt.writer.epoch + 1 if rebuilt.writer is not None else 2
    begin_log(database, config, identity, journal, incarnation, epoch=epoch, predecessor=rebuilt.writer)
    return rebuilt, epoch


def is_unfinished(database: Database) -> bool:
    """Whether a rebuild in the place of an older state was interrupted."""
    with database.reading() as connection:
        return bool(settings.get(connection, UNFINISHED, False))


def rebuild_again(
    database: Database,
    store: BlobStore,
    vault_keys: VaultKeys,
    keys: NamespaceKeys,
    identity: MachineIdentity,
    config: Config,
    platform: Platform,
) -> None:
    """Rebuild a state in which nothing was changed since it joined. An interrupted attempt is begun anew by the next start.

    Raises StoreUnavailable, LocalFailure, NoSpace.
    """
    survey = Survey(store.list(), vault_keys)
    database.writer.run(_clear, durable=True)
    rebuild(database, store, survey, vault_keys, keys, identity, config, platform, lambda *_: None)
    database.writer.run(lambda transaction: settings.remove(transaction, UNFINISHED), durable=True)


def _clear(transaction: Transaction) -> None:
    settings.put(transaction, UNFINISHED, True)
    tables.clear(transaction)
    for name in _ALSO_CLEARED:
        transaction.execute(f"DELETE FROM {name}")  # noqa: S608 - a constant
    for key in _FORGOTTEN:
        settings.remove(transaction, key)


def _note(transaction: Transaction, survey: Survey, rebuilt: Rebuilt, now_ns: int) -> None:
    settings.put(transaction, SEEN, survey.last)
    note_left_out(transaction, rebuilt.left_out, rebuilt.claims)
    found = [(each.blob, each.kind, each.reason, now_ns) for each in rebuilt.damage]
    transaction.executemany("INSERT OR REPLACE INTO damage (blob, kind, reason, found) VALUES (?, ?, ?, ?)", found)
