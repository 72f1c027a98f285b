"""The redo log: what was answered and is not committed yet, in sealed files that survive the end of the process.

A record is written with one plain write before its change is answered; it is never synced, for the kernel keeps it when the
process dies, and nobody was promised that it survives a power cut. Two kinds of records share one sequence of serial numbers:

- *changes*: what lazy jobs of the writer executed and deferred, to be done again;
- *kept* ones: bytes that a caller wants to find at the next start, until a transaction releases them.

The database says which of them are missing in it. Each commit that is not synced at once takes a serial number too, and
writes it into the database together with the serial numbers of the records that are still kept. So at the next start exactly
those records count that follow the state the database is in, up to the first that is not there: after a kill all of them, and
after a power cut that took commits none that would come without an earlier one.

The log has two files, which are written from their beginning again as soon as nothing in them counts. A generation of the log
begins with the first commit that is made for it: it has files and a key of its own, which only the (encrypted) database knows,
so that no file of an earlier life is taken for this one's. The bytes are described in ``docs/formats/redo-log.md``.
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
from tgdav.errors import DamageError, LocalFailure, NoSpace, TgdavError
from tgdav.failpoints import failpoint

_log = logging.getLogger(__name__)

SETTING = "redo log"
"""Key of the row in ``settings`` that says what the database holds of the log."""

SWITCH_BYTES = 1 << 20
"""A file that is longer is left for the other one as soon as that is free."""

FILE_BYTES = 32 << 20
"""A file that is as long takes no more; what is to be answered is committed before."""

_SMALL = 1024
"""Kept records up to this many bytes are written again where they alone keep a file from being used again."""

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

Note = tuple[str, Parameters] | tuple[int, Any]
"""A statement with its parameters, or the number of a kind of deferred writes with a row."""


class Kept:
    """A kept record. ``payload`` is there for small ones, and for those that were found at start."""

    __slots__ = ("payload", "serial")

    def __init__(self, serial: int, payload: bytes | None) -> None:
        self.serial, self.payload = serial, payload


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """What the database says of the log: all records up to ``serial`` are in it, but for the ``kept`` ones."""

    version: int
    key: bytes
    name: bytes
    serial: int
    kept: tuple[int, ...]


class _File:
    """One of a generation's two files.

    ``kept``: serial numbers of records that must not be overwritten; ``large``: those of them that are not held in memory.
    """

    def __init__(self) -> None:
        self.descriptor = -1
        self.end = 0
        self.last = 0
        self.kept: set[int] = set()
        self.large: set[int] = set()


class RedoLog:
    """The log of one database. ``keep`` may be called by any thread, all else in the writer's turn."""

    def __init__(self, database: Path, disk: Disk, entropy: Entropy) -> None:
        self._database, self._disk, self._entropy = database, disk, entropy
        self._lock = threading.Lock()
        self._key, self._name = b"", b""
        self._cipher: AESGCM | None = None
        self._files = (_File(), _File())
        self._current = 0
        self._serial = self._nonce = 0
        self._kept: set[Kept] = set()
        self._has_changes = False
        self._is_wanted = self._has_row = self._is_stopped = False
        self.found: Sequence[Kept] = ()
        """Kept records of an earlier process, in their order; for those whose they are."""

    # ---- writing -------------------------------------------------------------------------------------------------

    def append(self, notes: Sequence[Note] | None) -> bool:
        """Write what lazy jobs did (None: it cannot be told); False if it is to be committed before the jobs are answered."""
        if not notes:
            return notes is not None
        try:
            payload = _encode(notes)
        except (TypeError, OverflowError):
            return False  # a value that only the database can take, or refuse
        with self._lock:
            written = self._write(_CHANGES, payload) > 0
            self._has_changes |= written
            return written

    def keep(self, payload: bytes, replaced: Iterable[Kept] = ()) -> Kept | None:
        """Write bytes that the next start is to find until they are released, instead of the ``replaced`` ones.

        Those may be found too until the next commit. None if that is not possible: then nothing is changed.
        """
        with self._lock:
            serial = self._write(_KEPT, payload)
            if not serial:
                return None
            is_small = len(payload) <= _SMALL
            kept, file = Kept(serial, payload if is_small else None), self._files[self._current]
            file.kept.add(serial)
            if not is_small:
                file.large.add(serial)
            self._kept.add(kept)
            self._kept.difference_update(replaced)
            self._make_room()
            return kept

    def _write(self, kind: int, payload: bytes) -> int:
        """Append a record; return its serial number, 0 if it could not be written."""
        cipher, length = self._cipher, _NONCE_BYTES + len(payload) + _TAG_BYTES
        file = None if cipher is None or self._is_stopped else self._file_for(_HEAD.size + length)
        if file is None or cipher is None:
            self._is_wanted = True
            return 0
        serial = self._serial + 1
        self._nonce += 1  # never used twice, though a serial number may be: the key is this process's alone
        nonce = self._nonce.to_bytes(_NONCE_BYTES, "little")
        head = _HEAD.pack(length, serial, kind)
        record = b"".join((head, nonce, cipher.encrypt(nonce, payload, _ASSOCIATED + head)))
        failpoint("redo.before-append")
        try:
            self._disk.write(file.descriptor, record, file.end)
        except OSError:
            return 0  # the next record is written over what is torn
        failpoint("redo.after-append")
        file.end += len(record)
        self._serial = file.last = serial
        return serial

    def _file_for(self, length: int) -> _File | None:
        file, other = self._files[self._current], self._files[1 - self._current]
        if file.end > SWITCH_BYTES and not other.end:
            self._current, file = 1 - self._current, other
        if file.end + length > FILE_BYTES:
            return None
        if file.descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                file.descriptor = os.open(self._path(self._current), flags, 0o600)
            except OSError:
                return None
        return file

    def _make_room(self) -> None:
        """Write small records again that alone keep the other file from being used, once this one is long enough.

        Such are attributes of files that stay open for minutes.
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

    def commit(self, connection: Connection, released: Collection[Kept], *, durable: bool) -> None:
        """Commit, and have the database say what it holds of the log.

        ``released`` is kept no longer. ``durable``: the commit is synced before anything else is written. Raises as
        ``Connection.execute``; then the log is as before.
        """
        is_begun = self._cipher is not None
        has_news = released or self._has_changes or not durable
        if self._is_stopped or not (has_news if is_begun else self._is_wanted):
            connection.execute("COMMIT")
            return
        with self._lock:  # a record that is written meanwhile would have to follow a commit that may fail
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
                if not file.kept:
                    file.end = 0

    def _begin(self) -> AESGCM:
        self._key, self._name = self._entropy.bytes(_KEY_BYTES), self._entropy.bytes(_NAME_BYTES)
        return AESGCM(self._key)

    def stop(self) -> None:
        """Take nothing more: what is in the log and not in the database is for the next start."""
        self._is_stopped = True

    def close(self) -> None:
        """Close the files, and remove them if nothing in them counts."""
        with self._lock:
            is_over = not (self._is_stopped or self._kept or self._has_changes)
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
        """Bring the database to where its log ends, in one transaction, and forget all older files.

        Kept records that count are in ``found``, and in the log again. Raises NoSpace, LocalFailure, DamageError.
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

    def _keep_again(self, payload: bytes) -> Kept:
        kept = self.keep(payload)
        if kept is None:
            raise NoSpace("there is no room to take over what was answered before a crash")
        kept.payload = payload
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
        mark = msgspec.msgpack.decode(row[0], type=Mark)
        if mark.version == _VERSION and len(mark.key) == _KEY_BYTES:
            return mark
    raise DamageError("what the local database says of its redo log cannot be understood", blob="database")


def _following(database: Path, mark: Mark) -> Iterator[tuple[int, bytes]]:
    """Return kind and payload of the records that follow the state of the database, up to the first that is not there."""
    cipher = AESGCM(mark.key)
    records: dict[int, tuple[int, bytes]] = {}
    for number in (0, 1):
        records.update(_records(_path(database, mark.name, number), cipher))
    for serial in chain(sorted(mark.kept), count(mark.serial + 1)):
        found = records.get(serial)
        if found is None:
            return
        yield found


def _records(path: Path, cipher: AESGCM) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """Return serial number, kind and payload of a file's records up to the first that is torn, changed or older."""
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
        if serial <= before or length < _NONCE_BYTES + _TAG_BYTES or offset > len(data):
            return
        nonce, sealed = data[start : start + _NONCE_BYTES], data[start + _NONCE_BYTES : offset]
        try:
            yield serial, (kind, cipher.decrypt(nonce, sealed, _ASSOCIATED + head))
        except InvalidTag:
            return
        before = serial


def _apply_all(connection: Connection, records: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """Make the changes of the records again, in order; return what is kept."""
    kept: list[bytes] = []
    for kind, payload in records:
        if kind == _KEPT:
            kept.append(payload)
        elif not _apply(connection, msgspec.msgpack.decode(payload)):
            break
    return kept


def _apply(connection: Connection, notes: Iterable[Any]) -> bool:
    """Make the changes of one record again, all or none; False if the database refuses them."""
    connection.execute("SAVEPOINT record")
    try:
        for what, values in notes:
            if isinstance(what, str):
                connection.execute(what, values)
            else:
                kind_of(what).write(connection, (values,))
    except TgdavError:
        raise
    except Exception:
        _log.exception("a change that was answered before a crash does not fit the local database, and is left out")
        connection.execute("ROLLBACK TO record")
        return False
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE record")
    return True
