"""The table of WebDAV locks (RFC 4918 §6, §7): kept by inode, so that they follow a file and survive a restart.

Looking takes no lock and asks no file system: the table is a tuple that is replaced as a whole. So it may be looked at from
within a file system's preconditions.
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

LONGEST = 3600
"""Seconds; a longer wish is cut to this, so that what a crashed client leaves behind soon ends."""

USUAL = 600
"""Seconds for a client that asks for nothing."""

SECOND = 1_000_000_000


class LockDetails(msgspec.Struct, frozen=True):
    """What is kept of a lock beside token, inode and end: as MessagePack in ``LockRecord.data``.

    ``names`` is the path it was taken by, ``owner`` the client's XML as given, ``seconds`` its timeout.
    """

    names: tuple[bytes, ...]
    exclusive: bool
    infinite: bool
    principal: str
    owner: bytes
    seconds: int


class Lock(msgspec.Struct, frozen=True):
    """A lock. ``expires`` in ns since 1970 is what is kept of its end; ``until``, in monotonic seconds, is what counts here: a
    wall clock that is set to another time neither ends a lock nor makes it last.
    """

    token: str
    inode: Inode
    expires: int
    until: float
    details: LockDetails


def path_inodes(fs: FileSystem, names: Sequence[bytes]) -> list[Inode]:
    """Return the inodes from the root along a path, as far as it exists."""
    inodes = [fs.root]
    for name in names:
        try:
            inodes.append(look_up(fs, inodes[-1], name)[1].inode)
        except (NotFound, NotADirectory):
            break
    return inodes


def folders_above(fs: FileSystem, folder: Inode) -> list[Inode]:
    """Return the inodes from the root down to a folder. Raises NotFound."""
    inodes = [folder]
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
        self._locks: tuple[Lock, ...] = tuple(map(self._from_record, fs.load_locks()))

    # ---- looking -------------------------------------------------------------------------------------------------

    def live(self) -> tuple[Lock, ...]:
        """Return the locks that have not expired."""
        locks = self._locks
        if not locks:
            return locks
        now = self._clock.monotonic()
        return tuple(lock for lock in locks if lock.until > now)

    def covering(self, inodes: Sequence[Inode], *, exists: bool = True) -> list[Lock]:
        """Return the locks on the last of a path's inodes: its own and those that folders above hand down.

        ``exists`` False: the last inode is the folder of a name that does not exist yet; only infinite locks reach that.
        """
        last = inodes[-1] if exists else None
        above = set(inodes[:-1] if exists else inodes)
        return [lock for lock in self.live() if lock.inode == last or (lock.details.infinite and lock.inode in above)]

    def inside(self, folder: Inode) -> list[Lock]:
        """Return the locks on what lies anywhere below a folder."""
        return [
            lock
            for lock in self.live()
            if lock.inode != folder and folder in path_inodes(self._fs, lock.details.names)[:-1]
        ]

    # ---- changing ------------------------------------------------------------------------------------------------

    def add(self, inodes: Sequence[Inode], details: LockDetails, *, inside: Iterable[Lock] = ()) -> Lock:
        """Take a lock on the last of ``inodes``; durable. Raises LockConflict.

        ``inside`` are the locks below a folder that is to be locked with all it holds.
        """
        lock = Lock(self._new_token(), inodes[-1], *self._end(details.seconds), details)
        with self._changing:
            against = [
                other for other in (*self.covering(inodes), *inside) if other.details.exclusive or details.exclusive
            ]
            if against:
                raise LockConflict(against)
            before, self._locks = self._locks, (*self.live(), lock)
        self._save(lock)
        for expired in {other.token for other in before} - {other.token for other in self._locks}:
            self._fs.delete_lock(expired)
        return lock

    def _save(self, lock: Lock) -> None:
        """Keep a lock that is already in the table. Outside ``_changing``: the file system may be looking at us."""
        try:
            self._fs.save_lock(_to_record(lock))
        except BaseException:
            self._drop([lock.token])
            raise

    def refresh(self, lock: Lock, seconds: int) -> Lock:
        """Start a lock's time again."""
        details = msgspec.structs.replace(lock.details, seconds=seconds)
        renewed = Lock(lock.token, lock.inode, *self._end(seconds), details)
        self._replace(lock, renewed)
        return renewed

    def rebind(self, lock: Lock, inode: Inode) -> None:
        """Let a lock stand on what replaced its resource under the same URL."""
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
        """Return when a lock of so many seconds ends: ns since 1970, monotonic seconds."""
        return self._clock.now_ns() + int(seconds * SECOND), self._clock.monotonic() + seconds

    def _from_record(self, record: LockRecord) -> Lock:
        """Take up a lock that was kept, for as long as it was taken at most: its end may come from a clock that was wrong."""
        details = msgspec.msgpack.decode(record.data, type=LockDetails)
        left = (record.expires - self._clock.now_ns()) / SECOND
        return Lock(record.token, record.inode, *self._end(min(left, details.seconds, LONGEST)), details)

    def seconds_left(self, lock: Lock) -> int:
        """Return a lock's rest, in whole seconds."""
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
    """End one use of ``share_table``; with the last one the table is forgotten, and is loaded anew when next shared."""
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
