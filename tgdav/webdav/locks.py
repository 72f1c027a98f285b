"""The table of WebDAV locks (RFC 4918 §6, §7): kept by inode, so that they follow a file and survive a restart.

Reading takes no mutex and calls no file system: the table is a tuple that is replaced as a whole. So a precondition of the file
system may read it.
"""

import threading
import uuid
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

import msgspec

from tgdav.clock import Clock
from tgdav.entropy import Entropy
from tgdav.errors import NotADirectory, NotFound
from tgdav.fs.api import FileSystem, LockRecord
from tgdav.ids import Inode
from tgdav.webdav.errors import Refused
from tgdav.webdav.resources import look_up
from tgdav.webdav.urls import href

MAX_TIMEOUT = 3600
"""Seconds; longer requests are cut to this, so that locks of crashed clients end soon."""

DEFAULT_TIMEOUT = 600
"""Seconds for a client that requests no timeout."""

SECOND = 1_000_000_000


class LockDetails(msgspec.Struct, frozen=True):
    """What is stored of a lock beside token, inode and expiry: as MessagePack in ``LockRecord.data``.

    ``names`` is the path it was taken by, ``owner`` the client's XML as given, ``seconds`` its timeout.
    """

    names: tuple[bytes, ...]
    exclusive: bool
    infinite: bool
    principal: str
    owner: bytes
    seconds: int


class Lock(msgspec.Struct, frozen=True):
    """A lock. ``expires`` (ns since 1970) is its end as stored, ``until`` (monotonic seconds) its end in this process.

    Setting the wall clock neither ends a lock nor extends it.
    """

    token: str
    inode: Inode
    expires: int
    until: float
    details: LockDetails


def path_inodes(fs: FileSystem, names: Sequence[bytes]) -> list[Inode]:
    """Return the inodes along a path from the root, as far as it exists."""
    inodes = [fs.root]
    for name in names:
        try:
            inodes.append(look_up(fs, inodes[-1], name)[1].inode)
        except (NotFound, NotADirectory):
            break
    return inodes


def directories_above(fs: FileSystem, directory: Inode) -> list[Inode]:
    """Return the inodes from the root down to a directory. Raises NotFound."""
    inodes = [directory]
    while inodes[-1] != fs.root:
        inodes.append(fs.parent(inodes[-1]))
    return inodes[::-1]


class LockConflict(Exception):
    """``locks`` exclude the lock that was to be taken."""

    def __init__(self, locks: list[Lock]) -> None:
        super().__init__()
        self.locks = locks

    def refusal(self, prefix: Sequence[bytes]) -> Refused:
        """Return the response (RFC 4918 §16)."""
        return Refused(423, condition="no-conflicting-lock", inner=roots(self.locks, prefix))


class LockTable:
    """All locks of a file system."""

    def __init__(self, fs: FileSystem, clock: Clock, entropy: Entropy) -> None:
        self._fs = fs
        self._clock = clock
        self._entropy = entropy
        self._changing = threading.Lock()
        self._locks: tuple[Lock, ...] = tuple(map(self._restored, fs.load_locks()))

    # ---- queries -------------------------------------------------------------------------------------------------

    def live(self) -> tuple[Lock, ...]:
        """Return the locks that have not expired."""
        locks = self._locks
        if not locks:
            return locks
        now = self._clock.monotonic()
        return tuple(lock for lock in locks if lock.until > now)

    def covering(self, inodes: Sequence[Inode], *, exists: bool = True) -> list[Lock]:
        """Return the locks on the last of a path's inodes: its own and those inherited from directories above.

        ``exists`` False: the last inode is the directory of a name that does not exist yet; only infinite locks apply to that.
        """
        last = inodes[-1] if exists else None
        above = set(inodes[:-1] if exists else inodes)
        return [lock for lock in self.live() if lock.inode == last or (lock.details.infinite and lock.inode in above)]

    def inside(self, directory: Inode) -> list[Lock]:
        """Return the locks on anything below a directory."""
        return [
            lock
            for lock in self.live()
            if lock.inode != directory and directory in path_inodes(self._fs, lock.details.names)[:-1]
        ]

    # ---- changes -------------------------------------------------------------------------------------------------

    def add(self, inodes: Sequence[Inode], details: LockDetails, *, inside: Iterable[Lock] = ()) -> Lock:
        """Take a lock on the last of ``inodes``; durable. Raises LockConflict.

        ``inside`` are the locks below a directory that is to be locked with infinite depth.
        """
        lock = Lock(self._new_token(), inodes[-1], *self._end(details.seconds), details)
        with self._changing:
            # Checked and added under one mutex: of two conflicting LOCKs one gets 423.
            against = [
                other for other in (*self.covering(inodes), *inside) if other.details.exclusive or details.exclusive
            ]
            if against:
                raise LockConflict(against)
            before, self._locks = self._locks, (*self.live(), lock)
        self._save(lock)
        # Expired locks are removed from the database when the table changes; nothing waits for that.
        for expired in {other.token for other in before} - {other.token for other in self._locks}:
            self._fs.delete_lock(expired)
        return lock

    def _save(self, lock: Lock) -> None:
        """Store a lock that is already in the table. Not under ``_changing``: a precondition may be reading the table."""
        try:
            self._fs.save_lock(_to_record(lock))
        except BaseException:
            self._drop([lock.token])
            raise

    def refresh(self, lock: Lock, seconds: int) -> Lock:
        """Restart a lock's timeout."""
        details = msgspec.structs.replace(lock.details, seconds=seconds)
        renewed = Lock(lock.token, lock.inode, *self._end(seconds), details)
        self._replace(lock, renewed)
        return renewed

    def rebind(self, lock: Lock, inode: Inode) -> None:
        """Move a lock to the resource that replaced its own under the same URL."""
        self._replace(lock, msgspec.structs.replace(lock, inode=inode))

    def _replace(self, old: Lock, new: Lock) -> None:
        with self._changing:
            self._locks = tuple(new if lock.token == old.token else lock for lock in self._locks)
        self._fs.save_lock(_to_record(new))

    def remove(self, locks: Iterable[Lock]) -> None:
        """End locks; durable."""
        tokens = [lock.token for lock in locks]
        if tokens:
            self._drop(tokens)
        for token in tokens:
            self._fs.delete_lock(token)

    def _drop(self, tokens: Sequence[str]) -> None:
        with self._changing:
            self._locks = tuple(lock for lock in self._locks if lock.token not in tokens)

    def _new_token(self) -> str:
        return uuid.UUID(bytes=self._entropy.bytes(16), version=4).urn

    def _end(self, seconds: float) -> tuple[int, float]:
        """Return the end of a lock of so many seconds: in ns since 1970, and in monotonic seconds."""
        return self._clock.now_ns() + int(seconds * SECOND), self._clock.monotonic() + seconds

    def _restored(self, record: LockRecord) -> Lock:
        """Return a stored lock, for at most its own timeout: its end may have been computed by a wrong clock."""
        details = msgspec.msgpack.decode(record.data, type=LockDetails)
        left = (record.expires - self._clock.now_ns()) / SECOND
        return Lock(record.token, record.inode, *self._end(min(left, details.seconds, MAX_TIMEOUT)), details)

    def seconds_left(self, lock: Lock) -> int:
        """Return how many whole seconds a lock has left."""
        return max(0, int(lock.until - self._clock.monotonic()))


def _to_record(lock: Lock) -> LockRecord:
    return LockRecord(lock.token, lock.inode, lock.expires, msgspec.msgpack.encode(lock.details))


# ---- one table for each file system --------------------------------------------------------------------------------


class _Shared:
    def __init__(self, table: LockTable) -> None:
        self.table = table
        self.users = 0


_shared: "WeakKeyDictionary[FileSystem, _Shared]" = WeakKeyDictionary()
_sharing = threading.Lock()


def share_table(fs: FileSystem, clock: Clock, entropy: Entropy) -> LockTable:
    """Return the table of a file system, the same for all that serve it in this process; ``release_table`` is its counterpart.

    Two tables over one file system would not see each other's locks.
    """
    with _sharing:
        shared = _shared.get(fs)
        if shared is None:
            shared = _shared[fs] = _Shared(LockTable(fs, clock, entropy))
        shared.users += 1
        return shared.table


def release_table(fs: FileSystem) -> None:
    """End one use of ``share_table``; after the last one the table is dropped, and loaded again when next shared."""
    with _sharing:
        shared = _shared.get(fs)
        if shared is not None:
            shared.users -= 1
            if not shared.users:
                del _shared[fs]


# ---- the property ------------------------------------------------------------------------------------------------


def roots(locks: Iterable[Lock], prefix: Sequence[bytes]) -> str:
    """Return the ``D:href`` elements of the URLs that locks were taken by, below the names of a prefix."""
    return "".join(f"<D:href>{href(lock.details.names, folder=False, below=prefix)}</D:href>" for lock in locks)


def lockdiscovery(table: LockTable, locks: Iterable[Lock], prefix: Sequence[bytes]) -> str:
    """Return the property that lists locks (RFC 4918 §15.8), inherited ones too."""
    active = "".join(_active(table, held, prefix) for held in locks)
    return f"<D:lockdiscovery>{active}</D:lockdiscovery>" if active else "<D:lockdiscovery/>"


def _active(table: LockTable, held: Lock, prefix: Sequence[bytes]) -> str:
    details = held.details
    return (
        f"<D:activelock><D:locktype><D:write/></D:locktype>"
        f"<D:lockscope><D:{'exclusive' if details.exclusive else 'shared'}/></D:lockscope>"
        f"<D:depth>{'infinity' if details.infinite else '0'}</D:depth>"
        f"{details.owner.decode()}"
        f"<D:timeout>Second-{table.seconds_left(held)}</D:timeout>"
        f"<D:locktoken><D:href>{held.token}</D:href></D:locktoken>"
        f"<D:lockroot>{roots([held], prefix)}</D:lockroot>"
        f"</D:activelock>"
    )
