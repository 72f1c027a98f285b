"""The redo log: answered changes that are not committed yet, in sealed files that survive the end of the process.

A record is written with one plain write before its change is answered. It is never synced: the kernel keeps it when the
process dies, and nothing is promised for a power cut. Two kinds of records share one sequence of serial numbers:

- *changes*: the statements and deferred rows of lazy jobs, to be executed again;
- *kept* records: bytes that a caller wants to find at the next start, until a transaction releases them.

The database records which of them it does not contain. Each commit that is not synced at once also takes a serial number and
writes it into the database, together with the serial numbers of the records that are still kept. At the next start those
records count that follow the state of the database, up to the first missing one: after a kill all of them; after a power cut
that lost commits, never a later record without the earlier ones.

The log has two files; each is overwritten from its beginning once none of its records counts. A generation of the log starts
with the first commit made for it. It has its own files and its own key, which only the (encrypted) database holds, so files of
an earlier process are never mistaken for current ones. ``docs/formats/redo-log.md`` describes the bytes.
"""

import logging
import os
import struct
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tgdav.db.connection import Connection, Parameters
from tgdav.db.deferred import kind_of
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NewerFormat, NoSpace, TgdavError
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)

SETTING = "redo log"
"""Key of the row of ``settings`` that records which part of the log the database contains."""

SWITCH_BYTES = 1 << 20
"""When a file is longer, writing switches to the other file as soon as that one is free."""

FILE_BYTES = 32 << 20
"""A file of this length takes no more records; changes are then committed before they are answered."""

_SMALL = 1024
"""Kept records up to this size, bytes, are copied to the current file if only they prevent the other one from being reused."""

_VERSION = 1
_CHANGES, _KEPT = 1, 2
_HEAD = struct.Struct("<IQB")
"""Bytes that follow, serial number, kind."""
_ASSOCIATED = b"tgdav redo 1"
_KEY_BYTES, _NAME_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 8, 12, 16
_READ = "SELECT value FROM settings WHERE key = ?"
_DELETE = "DELETE FROM settings WHERE key = ?"
_UPDATE = "UPDATE settings SET value = ?2 WHERE key = ?1"
_INSERT = "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)"
_encode = msgspec.msgpack.Encoder().encode

RedoEntry = tuple[str, Parameters] | tuple[int, Any]
"""A statement with its parameters, or the number of a kind of deferred write with a row."""


class KeptRecord:
    """A kept record. ``payload`` is set for small records and for records found at start, else None."""

    __slots__ = ("payload", "serial")

    def __init__(self, serial: int, payload: bytes | None) -> None:
        self.serial, self.payload = serial, payload


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """The database's view of the log: it contains all records up to ``serial`` except the ``kept`` ones."""

    version: int
    key: bytes
    name: bytes
    serial: int
    kept: tuple[int, ...]


class _File:
    """One of a generation's two files.

    ``kept``: serial numbers of records that must not be overwritten; ``large``: those whose payload is not in memory.
    """

    def __init__(self) -> None:
        self.descriptor = -1
        self.end = 0
        self.last = 0
        self.kept: set[int] = set()
        self.large: set[int] = set()


class RedoLog:
    """The log of one database. Any thread may call ``keep``; only the writer's leader calls the other methods."""

    def __init__(self, database: Path, disk: Disk, entropy: Entropy) -> None:
        self._database, self._disk, self._entropy = database, disk, entropy
        self._lock = threading.Lock()
        self._key, self._name = b"", b""
        self._cipher: AESGCM | None = None
        self._files = (_File(), _File())
        self._current = 0
        self._serial = self._nonce = 0
        self._kept: set[KeptRecord] = set()
        self._has_changes = False
        self._is_wanted = self._has_row = self._is_stopped = False
        self.found: Sequence[KeptRecord] = ()
        """Kept records of an earlier process, in order, for the callers that wrote them."""

    # ---- writing -------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[RedoEntry] | None) -> bool:
        """Write the entries of lazy jobs (None: they are incomplete); False if the jobs must be committed before the answer."""
        if not entries:
            return entries is not None
        try:
            payload = _encode(entries)
        except (TypeError, OverflowError):
            return False  # only the database can accept or refuse such a value
        with self._lock:
            written = self._write(_CHANGES, payload) > 0
            self._has_changes |= written
            return written

    def keep(self, payload: bytes, replaced: Iterable[KeptRecord] = ()) -> KeptRecord | None:
        """Write bytes that the next start finds unless they are released; they replace the records in ``replaced``.

        Until the next commit the replaced records may be found as well. Returns None, and changes nothing, if it fails.
        """
        with self._lock:
            serial = self._write(_KEPT, payload)
            if not serial:
                return None
            is_small = len(payload) <= _SMALL
            kept, file = KeptRecord(serial, payload if is_small else None), self._files[self._current]
            file.kept.add(serial)
            if not is_small:
                file.large.add(serial)
            # The replaced records stay in ``_File.kept`` until the next commit records that they no longer count.
            self._kept.add(kept)
            self._kept.difference_update(replaced)
            self._copy_small_records()
            return kept

    def _write(self, kind: int, payload: bytes) -> int:
        """Append a record; return its serial number, 0 if it could not be written."""
        cipher, length = self._cipher, _NONCE_BYTES + len(payload) + _TAG_BYTES
        file = None if cipher is None or self._is_stopped else self._file_for(_HEAD.size + length)
        if file is None or cipher is None:
            self._is_wanted = True
            return 0
        serial = self._serial + 1
        self._nonce += 1  # unlike a serial number it is never reused; no other process has this key
        nonce = self._nonce.to_bytes(_NONCE_BYTES, "little")
        head = _HEAD.pack(length, serial, kind)
        # The head is authenticated too: a record cannot be moved to another serial number.
        record = b"".join((head, nonce, cipher.encrypt(nonce, payload, _ASSOCIATED + head)))
        failpoint("redo.before-append")
        try:
            # At an explicit offset: after a failed write the next record overwrites the torn one.
            self._disk.write(file.descriptor, record, file.end)
        except OSError:
            return 0  # the next record overwrites the torn one
        failpoint("redo.after-append")
        file.end += len(record)
        self._serial = file.last = serial
        return serial

    def _file_for(self, length: int) -> _File | None:
        file, other = self._files[self._current], self._files[1 - self._current]
        # ``other.end`` is 0 once none of its records counts.
        if file.end > SWITCH_BYTES and not other.end:
            self._current, file = 1 - self._current, other
        if file.end + length > FILE_BYTES:
            return None
        if file.descriptor < 0:
            # O_EXCL: the name is random, so a file of this name was put there by somebody else.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                file.descriptor = os.open(self._path(self._current), flags, 0o600)
            except OSError:
                return None
        return file

    def _copy_small_records(self) -> None:
        """Copy small records here if only they prevent the other file from being reused, once this file is long.

        Attributes of files that stay open for minutes are such records.
        """
        file, other = self._files[self._current], self._files[1 - self._current]
        if file.end <= SWITCH_BYTES or not other.kept or other.large:
            return
        left = sorted((each for each in self._kept if each.serial in other.kept), key=lambda each: each.serial)
        for each in left:
            serial = self._write(_KEPT, each.payload or b"")
            if serial:
                each.serial = serial
                file.kept.add(serial)

    def _path(self, number: int) -> Path:
        return _path(self._database, self._name, number)

    # ---- commits -------------------------------------------------------------------------------------------------

    def commit(self, connection: Connection, released: Collection[KeptRecord], *, durable: bool) -> None:
        """Commit, and record in the database which part of the log it contains.

        ``released`` records are dropped. ``durable``: the commit is synced before anything else is written. Raises as
        ``Connection.execute``; then the log is unchanged.
        """
        is_begun = self._cipher is not None
        has_news = released or self._has_changes or not durable
        if self._is_stopped or not (has_news if is_begun else self._is_wanted):
            connection.execute("COMMIT")
            return
        with self._lock:  # a record written meanwhile would follow a commit that may still fail
            cipher = self._cipher if is_begun else self._begin()
            kept = self._kept.difference(released)
            serial, serials = self._serial + 1, {each.serial for each in kept}
            mark = _encode(Mark(_VERSION, self._key, self._name, serial, tuple(sorted(serials))))
            connection.execute(_UPDATE if self._has_row else _INSERT, (SETTING, mark))
            connection.execute("COMMIT")
            self._cipher, self._serial, self._kept = cipher, serial, kept
            self._has_row, self._has_changes = True, False
            for file in self._files:
                file.kept &= serials
                file.large &= serials
                # All its records are in the database: overwrite the file from its beginning.
                if not file.kept:
                    file.end = 0

    def _begin(self) -> AESGCM:
        self._key, self._name = self._entropy.bytes(_KEY_BYTES), self._entropy.bytes(_NAME_BYTES)
        return AESGCM(self._key)

    def stop(self) -> None:
        """Accept no more records: what is in the log but not in the database remains for the next start."""
        self._is_stopped = True

    def close(self) -> None:
        """Close the files, and remove them if none of their records counts."""
        with self._lock:
            is_over = not (self._is_stopped or self._kept or self._has_changes)
            # After ``stop`` the files stay: the next start needs what the database does not have.
            self._is_stopped = True
            for number, file in enumerate(self._files):
                if file.descriptor >= 0:
                    os.close(file.descriptor)
                    file.descriptor = -1
                    if is_over:
                        with suppress(OSError):
                            self._disk.unlink(self._path(number))

    # ---- at start ------------------------------------------------------------------------------------------------

    def replay(self, connection: Connection) -> None:
        """Apply the log to the database in one transaction, and remove all older files.

        Kept records that count are then in ``found`` and in the new log. Raises NoSpace, LocalFailure, DamageError, NewerFormat.
        """
        mark = _read_mark(connection)
        self._has_row = mark is not None
        records = [] if mark is None else list(_following(self._database, mark))
        if records:
            failpoint("redo.before-replay")
            self._replay(connection, records)
            failpoint("redo.after-replay")
        self._sweep()

    def _replay(self, connection: Connection, records: Sequence[tuple[int, bytes]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            payloads = _apply_all(connection, records)
            if payloads:
                self._cipher = self._begin()
                self.found = [self._keep_again(payload) for payload in payloads]
            else:
                connection.execute(_DELETE, (SETTING,))
                self._has_row = False
            self.commit(connection, (), durable=False)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _keep_again(self, payload: bytes) -> KeptRecord:
        kept = self.keep(payload)
        if kept is None:
            raise NoSpace("the disk is too full to recover the changes that were answered before a crash")
        kept.payload = payload
        self._files[self._current].large.discard(kept.serial)  # in memory, so it can be copied like a small one
        return kept

    def _sweep(self) -> None:
        """Remove the files of other generations."""
        mine = {self._path(number).name for number in (0, 1)}
        with suppress(OSError):
            for path in self._database.parent.glob(f"{self._database.name}-redo-*"):
                if path.name not in mine:
                    self._disk.unlink(path)


def _path(database: Path, name: bytes, number: int) -> Path:
    return database.with_name(f"{database.name}-redo-{name.hex()}-{number + 1}")


def _read_mark(connection: Connection) -> Mark | None:
    row = connection.one(_READ, (SETTING,))
    if row is None:
        return None
    with suppress(msgspec.MsgspecError):
        fields = msgspec.msgpack.decode(row[0], type=list[Any])
        if fields and isinstance(fields[0], int) and fields[0] > _VERSION:
            raise NewerFormat("the redo log", fields[0])
        mark = msgspec.msgpack.decode(row[0], type=Mark)
        if mark.version == _VERSION and len(mark.key) == _KEY_BYTES:
            return mark
    raise DamageError("the local database's record of its redo log is malformed", blob="database")


def _following(database: Path, mark: Mark) -> Iterator[tuple[int, bytes]]:
    """Yield kind and payload of the records that follow the state of the database, up to the first missing one."""
    cipher = AESGCM(mark.key)
    records: dict[int, tuple[int, bytes]] = {}
    for number in (0, 1):
        records.update(_records(_path(database, mark.name, number), cipher))
    # Kept records are older than the mark; the changes after it must be without a gap.
    for serial in chain(sorted(mark.kept), count(mark.serial + 1)):
        found = records.get(serial)
        if found is None:
            return
        yield found


def _records(path: Path, cipher: AESGCM) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """Yield serial number, kind and payload of a file's records up to the first that is torn, altered or older."""
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError:
        return
    except OSError as error:
        raise LocalFailure(f"the redo log could not be read: {error.strerror}") from error
    offset = before = 0
    while offset + _HEAD.size <= len(data):
        head = data[offset : offset + _HEAD.size]
        length, serial, kind = _HEAD.unpack(head)
        start = offset + _HEAD.size
        offset = start + length
        # Older records follow where the file was overwritten; their serial numbers are lower.
        if serial <= before or length < _NONCE_BYTES + _TAG_BYTES or offset > len(data):
            return
        nonce, sealed = data[start : start + _NONCE_BYTES], data[start + _NONCE_BYTES : offset]
        try:
            yield serial, (kind, cipher.decrypt(nonce, sealed, _ASSOCIATED + head))
        except InvalidTag:
            return
        before = serial


def _apply_all(connection: Connection, records: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """Execute the changes of the records again, in order; return the payloads of kept records."""
    kept: list[bytes] = []
    for kind, payload in records:
        if kind == _KEPT:
            kept.append(payload)
        elif not _apply(connection, msgspec.msgpack.decode(payload)):
            break
    return kept


def _apply(connection: Connection, entries: Iterable[Any]) -> bool:
    """Execute all changes of one record again, or none; False if the database refuses them."""
    connection.execute("SAVEPOINT record")
    try:
        for what, values in entries:
            if isinstance(what, str):
                connection.execute(what, values)
            else:
                kind_of(what).write(connection, (values,))
    except TgdavError:
        raise
    except Exception:
        _log.exception("a change that was answered before a crash cannot be applied to the local database; it is lost")
        connection.execute("ROLLBACK TO record")
        return False
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE record")
    return True
