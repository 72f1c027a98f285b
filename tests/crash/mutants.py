"""Mutations: each function breaks this process in one way, permanently. A detector must fail with a message that fits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

import tgdav.check.checker as check_module
import tgdav.replication.pusher as pusher_module
from tgdav.blobs.directory import DirectoryStore
from tgdav.check.checker import Checker
from tgdav.content.format import codec
from tgdav.content.format.pack import CheckedData, PackSizes
from tgdav.content.format.sealer import ChunkSealer
from tgdav.content.overlay import Overlay
from tgdav.content.staging.finalize import PackFinalizer
from tgdav.content.staging.pack_file import PackFile
from tgdav.content.staging.stream import StagedContent
from tgdav.crdt.ops import Op, Prune
from tgdav.crypto.chunk_seal import ChunkBinding
from tgdav.crypto.passphrase import Argon2Limits
from tgdav.crypto.sealing import OVERHEAD
from tgdav.db.redo_log import RedoLog
from tgdav.db.transaction import Transaction
from tgdav.db.writer import Writer
from tgdav.disk import SystemDisk
from tgdav.fs import liveness
from tgdav.fs.files.redo import FileRecords
from tgdav.fs.liveness import LiveChunks
from tgdav.fs.upload import FileUpload
from tgdav.http.bodies import SizedBody
from tgdav.metadata import history, journal, predecessors, retention
from tgdav.metadata.change import Change, IdSource
from tgdav.metadata.node_rows import InodeCounter
from tgdav.vault.lock import StateLock
from tgdav.volume import collector


@dataclass(frozen=True)
class Mutant:
    """``apply`` mutates this process. ``detector`` must then fail with an assertion whose message ``expected`` matches."""

    apply: Callable[[], None]
    detector: str
    expected: str


MUTANTS: dict[str, Mutant] = {}


def mutant(detector: str, expected: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a mutation; see ``Mutant``."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[function.__name__.replace("_", " ")] = Mutant(function, detector, expected)
        return function

    return register


def _nothing(*_: Any, **__: Any) -> None:
    return


def _replace(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} to mutate"
    setattr(owner, name, value)


# ---- durability ------------------------------------------------------------------------------------------------------


@mutant("power_cut", r"after the power cut: DamageError: a staged pack is gone")
def staging_is_not_synced() -> None:
    _replace(PackFile, "sync", _nothing)


@mutant("power_cut", r"after the power cut: wrong content of \[.*'row'")
def a_write_is_answered_before_the_log_is_synced() -> None:
    _replace(Writer, "_pass_barrier", _nothing)


@mutant("power_cut", r"after the power cut: DamageError: writes that were made durable are gone")
def folders_are_not_synced() -> None:
    _replace(SystemDisk, "sync_directory", _nothing)


@mutant("power_cut", r"after the power cut: wrong content of \['row'\]")
def the_overlay_is_not_synced() -> None:
    original = Overlay.fsync

    def fsync(overlay: Overlay) -> None:
        disk, overlay._disk = overlay._disk, _Syncless()  # type: ignore[assignment]
        try:
            original(overlay)
        finally:
            overlay._disk = disk

    _replace(Overlay, "fsync", fsync)


class _Syncless(SystemDisk):
    def sync(self, descriptor: int) -> None:
        return

    def sync_directory(self, folder: Path) -> None:
        return


@mutant("power_cut", r"after the power cut: StoreUnavailable:")
def the_store_answers_before_it_synced() -> None:
    original = DirectoryStore.__init__

    def __init__(store: Any, *arguments: Any, **options: Any) -> None:
        original(store, *arguments, **options | {"disk": _Syncless()})

    _replace(DirectoryStore, "__init__", __init__)


@mutant("order_of_steps", r"append, sync, commit, sync of the log came at")
def a_commit_comes_before_the_sync_of_what_it_names() -> None:
    commit, sync = Writer._commit, PackFile.sync

    def commit_first(writer: Writer, jobs: Any) -> None:
        commit(writer, jobs)
        for file in [file for job in jobs for file in job.sync if isinstance(file, PackFile)]:
            sync(file)

    _replace(PackFile, "sync", _nothing)
    _replace(Writer, "_commit", commit_first)


@mutant("failed_syncs", r"acknowledged: a pack whose sync failed")
def a_failed_sync_of_staging_is_passed_over() -> None:
    original = PackFile.sync

    def sync(pack: PackFile) -> None:
        try:
            original(pack)
        except Exception:
            pack.is_poisoned = False

    _replace(PackFile, "sync", sync)


@mutant("failed_syncs", r"acknowledged: a commit after one whose sync failed")
def writing_goes_on_after_a_failed_sync_of_the_log() -> None:
    _replace(Writer, "poison", _nothing)
    _replace(Writer, "_refuse", _nothing)


# ---- the log, the tree -----------------------------------------------------------------------------------------------


@mutant("segments_follow_packs", r"a machine that joins lacks content:")
def a_segment_leaves_before_its_packs() -> None:
    _replace(pusher_module, "_among", lambda _connection, _statement, chunks: set(chunks))


@mutant("crashes", r"without any crash: DamageError: \d+ operations name content that this machine has lost")
def chunks_are_not_recorded() -> None:
    _replace(StagedContent, "record", _nothing)


@mutant("crashes", r"without any crash: LocalFailure: rows were refused")
def ids_are_used_again_after_a_restart() -> None:
    original = IdSource.__init__
    _replace(IdSource, "__init__", lambda source, _prefix: original(source, bytes(8)))


@mutant("answers", r"shows neither state")
def changes_are_answered_before_they_are_written_down() -> None:
    original = RedoLog.append

    def append(log: RedoLog, notes: Any) -> bool:
        disk, log._disk = log._disk, _Writeless()
        try:
            return original(log, notes)
        finally:
            log._disk = disk

    _replace(RedoLog, "append", append)


class _Writeless(SystemDisk):
    def write(self, descriptor: int, data: Any, offset: int) -> None:
        return


@mutant("answers", r"at redo\.after-append, .*shows neither state")
def a_closed_file_is_not_written_down() -> None:
    _replace(FileRecords, "keep_content", lambda *_: True)


@mutant("one_of_two_creates", r"2 uploads made the same new name")
def a_precondition_is_judged_before_the_change() -> None:
    original = FileUpload.commit

    def commit(upload: FileUpload, *, precondition: Any = None, **options: Any) -> Any:
        if precondition is not None:
            precondition(None)
        return original(upload, **options)

    _replace(FileUpload, "commit", commit)


@mutant("two_owners", r"two opened the same state")
def the_state_has_no_lock() -> None:
    _replace(StateLock, "__init__", _nothing)
    _replace(StateLock, "release", _nothing)


@mutant("a_body_cut_off", r"an old content was cut")
def a_body_cut_off_is_stored_short() -> None:
    original = SizedBody._receive

    def receive(body: SizedBody, view: memoryview) -> int:
        try:
            return original(body, view)
        except Exception:
            body.finished = True
            return 0

    _replace(SizedBody, "_receive", receive)


# ---- damage ----------------------------------------------------------------------------------------------------------


def _decrypt_only(self: Any, sealed: Any, _associated: bytes, _what: str) -> bytes:
    """AES-GCM without its tag is AES-CTR from block 2 on."""
    data = bytes(sealed)
    decryptor = Cipher(AES(self), CTR(data[1:13] + b"\0\0\0\2")).decryptor()
    return decryptor.update(data[13 : len(data) - (OVERHEAD - 13)])


@mutant("damage", r"pack: flip .*: wrong bytes of")
def a_chunks_tag_and_id_are_not_checked() -> None:
    def open_(sealer: ChunkSealer, binding: ChunkBinding, sealed: Any, what: str) -> bytes:
        packed = _decrypt_only(sealer._keys.chunk_key(binding.chunk_id, binding.epoch), sealed, b"", what)
        return codec.decompress(binding.codec, packed, binding.raw_length, what)

    _replace(ChunkSealer, "open", open_)


@mutant("damage", r"flip .* went unnoticed")
def a_check_takes_every_blob_as_it_is() -> None:
    _replace(Checker, "_read_blob", _nothing)


@mutant("damage", r"flip .* went unnoticed")
def a_swapped_blob_is_accepted() -> None:
    """Every hash and size compares equal."""
    _replace(check_module.Checker, "_digest", lambda _checker, _info: _Anything())


class _Anything:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@mutant("rollback", r"of \d+ lost blobs 0 are named")
def a_store_rolled_back_is_not_noticed() -> None:
    _replace(Checker, "_check_listing", _nothing)


@mutant("staged_damage", r"a file is lost, and check says nothing")
def a_closed_pack_is_not_read_back() -> None:
    def read_back(closer: PackFinalizer, pack: PackFile, row: Any, _sizes: PackSizes) -> CheckedData:
        from tgdav.content import chunk_table

        with closer._context.database.reading() as connection:
            entries = chunk_table.entries(connection, row.no)
        return CheckedData(entries, blake3(pack.read(0, pack.length)))

    _replace(PackFinalizer, "_read_back", read_back)


# ---- garbage collection ----------------------------------------------------------------------------------------------


@mutant("garbage", r"gc deleted what is in use: .*saved|gc deleted what is in use: .*chunks that are nowhere")
def gc_ignores_earlier_contents() -> None:
    _replace(liveness, "_CONTENTS", "SELECT content FROM nodes WHERE kind = 1 AND content IS NOT NULL")


@mutant("garbage", r"a machine that joins misses .*the store does not have it")
def packs_are_deleted_before_their_retirement_is_stored() -> None:
    _replace(collector, "_COVERED", f"SELECT {1 << 62}")


@mutant("garbage", r"gc deleted what is in use|a machine that joins misses")
def dead_and_live_packs_are_the_same() -> None:
    _replace(LiveChunks, "__contains__", lambda _live, _chunk: False)


# ---- snapshots -------------------------------------------------------------------------------------------------------


@mutant("snapshots", r"snapshots: s1 reads otherwise")
def moved_entries_are_not_kept_for_snapshots() -> None:
    _replace(history, "close_entry", _nothing)


@mutant("replaced_names", r"the snapshot lacks an entry that names another node now")
def replaced_entries_are_not_kept_for_snapshots() -> None:
    _replace(history, "close_entry", _nothing)


@mutant("snapshots", r"snapshots: (s1 reads otherwise|cannot be read)")
def snapshots_are_forgotten_at_a_restart() -> None:
    _replace(journal, "snapshots", SimpleNamespace(read_policy=_nothing))


@mutant("snapshots", r"inodes: number \d+ names .* now, and named another node before")
def inode_numbers_are_used_twice() -> None:
    def largest_of_present(counter: InodeCounter, transaction: Transaction) -> None:
        (row,) = transaction.all("SELECT max(ino) FROM nodes")
        counter._last = counter._reserved = row[0]

    _replace(InodeCounter, "__init__", largest_of_present)


@mutant("order_of_groups", r"a snapshot was sent before a group that is held back")
def snapshots_overtake_what_is_held_back() -> None:
    _replace(pusher_module, "BARRIERS", ())


# ---- versions --------------------------------------------------------------------------------------------------------


@mutant("versions", r"a machine that joins has other versions")
def prunes_are_not_logged() -> None:
    log = Change._log

    def log_others(change: Change, op: Op) -> None:
        if not isinstance(op, Prune):
            log(change, op)

    _replace(Change, "_log", log_others)


@mutant("versions", r"the content before the last save is gone")
def the_newest_earlier_content_is_pruned() -> None:
    _replace(retention, "thin", lambda times, most, _now: list(range(len(times)))[most:])


@mutant("versions", r"a rename or the limit left \d+ versions")
def a_replaced_file_is_only_deleted() -> None:
    _replace(predecessors, "replace", lambda _rows, _op: predecessors.Outcome.DELETED)


@mutant("versions", r"a rename or the limit left \d+ versions")
def nothing_is_pruned() -> None:
    _replace(Change, "_prune", _nothing)


@mutant("forged_parameters", r"an Argon2 run outside the limits was done")
def argon2_parameters_are_not_bounded() -> None:
    _replace(Argon2Limits, "allow", lambda _limits, _parameters: True)
