"""Opening a state that may have been restored from a backup: looking first, and going on from what the store shows."""

import logging

import msgspec

from tgdav.blobs.interface import BlobStore
from tgdav.config import Config
from tgdav.db.database import Database
from tgdav.db.transaction import Transaction
from tgdav.errors import DamageError, TgdavError, WriterReplaced
from tgdav.metadata import settings
from tgdav.platform import Platform
from tgdav.replication.identity import LogIdentity
from tgdav.replication.resuming import Resumer
from tgdav.replication.watch import RESTORED, UNSEEN, LogWatch, Verdict
from tgdav.threads import Worker
from tgdav.volume.log_start import incarnation_of, open_journal
from tgdav.volume.rebuilding import is_unfinished, rebuild_again
from tgdav.volume.stores import Stores

_log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
"""How long opening waits for a store that has a network in between."""


def resume_if_restored(
    database: Database, stores: Stores, log: LogIdentity, config: Config, platform: Platform
) -> LogIdentity:
    """Return in whose name to go on: as before, or under a fresh incarnation where the store was ahead of this state.

    Nothing is changed here before that look; a store that is away does not keep the volume shut, and is looked at later.
    Nor does it where joining was held up over a gap, unless the gap was being filled. Raises LocalFailure, NoSpace; and
    StoreUnavailable in that case.
    """
    if is_unfinished(database):
        return _rebuild(database, stores.store, log, config, platform)
    verdict = _look(database, stores, log)
    if verdict is not None and verdict.is_refilled:
        return _rebuild(database, stores.store, log, config, platform)
    if verdict is not None and verdict.held:
        verdict = None
    with database.reading() as connection:
        was_unseen = bool(settings.get(connection, UNSEEN, False))
    if verdict is None or not verdict.is_restored:
        if was_unseen != (verdict is None):
            database.writer.run(lambda transaction: _note_unseen(transaction, verdict is None), durable=True)
        return log
    return _resume(database, stores.store, log, config, platform)


def _look(database: Database, stores: Stores, log: LogIdentity) -> Verdict | None:
    """Look once at the log in the store; None if that fails, whyever, or takes too long: background work will tell."""
    watch, seen = LogWatch(database, stores.counting, log), list[Verdict]()

    def look() -> None:
        try:
            seen.append(watch.look(at_start=True))
        except TgdavError as error:
            _log.info("the store could not be looked at: %s", error.message)

    if stores.bounded is not None:
        with stores.bounded.time_limit(LOOK_SECONDS):
            look()
    else:
        thread = Worker("tgdav-first-look", look, restart=False)
        thread.start()
        thread.join(LOOK_SECONDS)
    return seen[0] if seen else None


def _note_unseen(transaction: Transaction, unseen: bool) -> None:
    if unseen:
        settings.put(transaction, UNSEEN, True)
    else:
        settings.remove(transaction, UNSEEN)


def _rebuild(database: Database, store: BlobStore, log: LogIdentity, config: Config, platform: Platform) -> LogIdentity:
    """Join once more: what was missing from the log is there, and belongs before what was applied."""
    rebuild_again(database, store, log.vault_keys, log.keys, log.machine, config, platform)
    _log.warning("a part of the log that was missing when this machine joined was taken in")
    return msgspec.structs.replace(log, incarnation=incarnation_of(database))


def _resume(database: Database, store: BlobStore, log: LogIdentity, config: Config, platform: Platform) -> LogIdentity:
    resumer = Resumer(database, store, log, clock=platform.clock, entropy=platform.entropy)
    try:
        done = resumer.run(lambda: open_journal(database, config, log.machine, log.keys, platform))
    except (WriterReplaced, DamageError) as error:
        reason = f"{error.message}; {error.hint}" if error.hint else error.message
        _log.error("%s", reason)
        database.writer.run(lambda transaction: settings.put(transaction, RESTORED, reason), durable=True)
        return log
    except TgdavError as error:
        _log.warning("what this machine sent after its backup cannot be taken in now: %s", error.message)
        return log
    _log.warning(
        "this machine's state was restored from a backup: it has taken in what it had sent since (%d segments of its log),"
        " keeps %d operations that were never sent, and goes on as the writer of epoch %d",
        done.segments,
        done.kept,
        done.epoch,
    )
    return msgspec.structs.replace(log, incarnation=incarnation_of(database))
