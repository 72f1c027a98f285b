"""A storm: all faults of Telegram and of the connection to it, in an order from a seed, while workers use a store.

``storm`` takes the work as a function, so that any user of a store can be tested. After a fault that ends the login, the
store is opened with a new one, as a user would do.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Protocol, TypeVar

from tests.mtproto.harness import Server
from tests.support.stacks import calls_under_way, stacks
from tests.support.telegram import TelegramAccount
from tests.support.waiting import wait_for
from tgdav.blobs import BlobInfo, BlobStore, Source
from tgdav.blobs.interface import START
from tgdav.blobs.retry import RetryPolicy, RetryStore
from tgdav.blobs.telegram import TelegramStore
from tgdav.blobs.telegram.rate_limit import RateLimitedStore
from tgdav.blobs.wrapper import StoreWrapper
from tgdav.clock import SystemClock
from tgdav.entropy import SystemEntropy
from tgdav.errors import AccessError, BlobMissing, DamageError, StoreRejected, StoreUnavailable, TgdavError
from tgdav.ids import BlobId, BlobName

RATES = {
    **dict.fromkeys(("internal", "timeout", "rpc_call_fail", "worker_busy", "bad_salt", "noise"), 0.01),
    **dict.fromkeys(("part_refused", "part_lost", "md5_invalid", "short_read", "other_dc"), 0.01),
    **dict.fromkeys(("reference_expired", "lost_answer", "dropped_connection", "dropped_answer"), 0.003),
}
"""The faults that happen all the time, with the probability of each per call."""

FAULTS = (
    *("flood_wait", "flood_premium_wait", "internal", "timeout", "rpc_call_fail", "worker_busy", "bad_salt"),
    *("part_refused", "part_lost", "part_zero_lost", "md5_invalid", "noise", "other_dc"),
    *("reference_expired", "reference_invalid", "reference_empty", "file_id_invalid", "short_read", "damaged_read"),
    *("lost_answer", "dropped_connection", "dropped_answer", "half_open", "restart"),
    *("transport_404", "transport_429", "auth_key_unregistered", "session_revoked", "session_expired"),
    *("user_deactivated", "update_lost", "update_late", "updates_too_long", "difference_too_long"),
)
"""The faults that happen at least once in each storm."""

OUR_BUGS = ("FILE_PARTS_INVALID", "FILE_PART_SIZE_INVALID", "FILE_PART_TOO_BIG", "MEDIA_CAPTION_TOO_LONG")
LONGEST_OUTAGE = 0.3
"""Seconds for which Telegram is unreachable, silent or wrong if no request reaches it meanwhile."""
BEATS = 0.15
"""Seconds between faults."""
LONGEST = 120.0
"""Seconds after its end at which a storm fails if not every fault has happened."""
Result = TypeVar("Result")


class Going:
    """Returns whether work continues: true until ``enough`` is set."""

    def __init__(self, enough: threading.Event) -> None:
        self._enough = enough

    def __call__(self) -> bool:
        return not self._enough.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, unless ``enough`` is set."""
        self._enough.wait(seconds)


class Work(Protocol):
    """Uses a store until ``going()`` is false, and returns the blobs that must exist, with their bytes."""

    def __call__(self, store: BlobStore, chance: random.Random, going: Going) -> list[tuple[BlobInfo, bytes]]: ...


class Reviving(StoreWrapper):
    """Logs in again, by ``open_one``, when a login or an account is lost; counts errors by class."""

    def __init__(self, open_one: Callable[[], BlobStore]) -> None:
        super().__init__(open_one())
        self._open_one = open_one
        self._lock = threading.Lock()
        self.met: Counter[str] = Counter()

    def _alive(self, call: Callable[[BlobStore], Result]) -> Result:
        for _ in range(100):
            store = self.inner
            try:
                return call(store)
            except (AccessError, StoreRejected) as error:
                self.met[type(error).__name__] += 1
                self._revive(store)
            except (StoreUnavailable, BlobMissing, DamageError) as error:
                self.met[type(error).__name__] += 1
                raise
        raise AssertionError("no login lasts")

    def _revive(self, lost: BlobStore) -> None:
        with self._lock:
            if self.inner is lost:
                lost.close()
                self.inner = self._open_one()

    def append(
        self, name: BlobName, source: Source, label: str, *, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        return self._alive(lambda store: store.append(name, source, label, progress=progress))

    def read(self, blob_id: BlobId, offset: int, length: int) -> bytes:
        return self._alive(lambda store: store.read(blob_id, offset, length))

    def size(self, blob_id: BlobId) -> int:
        return self._alive(lambda store: store.size(blob_id))

    def list(self, after: BlobId = START) -> Iterator[BlobInfo]:
        yield from self._alive(lambda store: [*store.list(after)])

    def find(self, name: BlobName) -> BlobInfo | None:
        return self._alive(lambda store: store.find(name))

    def delete(self, ids: Sequence[BlobId]) -> None:
        self._alive(lambda store: store.delete(ids))


class Weather:
    """Causes each fault, and events of the network, the user and the account, in an order from the seed."""

    def __init__(self, server: Server, account: TelegramAccount, chance: random.Random, store: BlobStore) -> None:
        self._server, self._account, self._chance, self._store = server, account, chance, store
        self._where = (account.channel, account.channel is not None)
        self._listeners: list[TelegramStore] = []
        self.done: Counter[str] = Counter()
        self.wanted = set(FAULTS) - ({"difference_too_long"} if account.channel is not None else set())
        blows = (self._drop, self._silence, self._restart, self._away, self._no_answer, self._age, self._expire)
        ends = (self._end_logins, self._forget_keys, self._freeze, self._second_connection, self._skew, self._move)
        self._blows = [*blows, *ends, self._user_deletes, self._refuse]

    def blow(self, going: Callable[[], bool], pause: Callable[[float], object]) -> None:
        """Cause faults until each has happened and ``going()`` is false; then disarm all."""
        self._server.set_rates(RATES, seconds=(1, 1))
        deck: list[str | Callable[[], None]] = []
        while going() or self.missing():
            if not deck:
                # At the end only faults that have not happened: the others may prevent them from happening.
                deck = [*(self.missing() or self.wanted), *(self._blows if going() else [])]
                self._chance.shuffle(deck)
            self._deal(deck.pop())
            pause(BEATS * self._chance.uniform(0.2, 2))
        self._server.disarm()
        for store in self._listeners:
            store.close()

    def missing(self) -> list[str | Callable[[], None]]:
        """The faults that have not happened, in an order that does not change between runs."""
        missed: list[str | Callable[[], None]] = [*sorted(self.wanted - set(self._server.fault_counts()))]
        # A copy of a login that was ended or refused meanwhile does not count as a second connection.
        return missed if self._count("violations", "AUTH_KEY_DUPLICATED") else [*missed, self._second_connection]

    def _deal(self, card: str | Callable[[], None]) -> None:
        if not isinstance(card, str):
            card()
            self.done[card.__name__.strip("_")] += 1
        elif card.startswith("update") or card == "difference_too_long":
            self._listen()
            self._server.arm(card)
            if card == "difference_too_long":
                self._server.arm("updates_too_long")
        else:
            self._server.arm(card, seconds=1)

    def _listen(self) -> None:
        """Start an update watcher in another session of the account."""
        self._listeners.append(self._account.open())
        self._listeners[-1].watch(lambda info: None, silence=0.5, retry=0.2)
        if len(self._listeners) > 2:
            self._listeners.pop(0).close()

    def _drop(self) -> None:
        self._server.drop_connections()

    def _silence(self) -> None:
        self._server.silence_connections()

    def _restart(self) -> None:
        self._server.restart(self._chance.choice((0.0, 0.3)))

    def _away(self) -> None:
        with suppress(RuntimeError):
            self._server.stop_listening()
            self._until(self._meets_it)
            self._server.listen_again()

    def _meets_it(self) -> bool:
        try:
            self._store.size(BlobId(1))
        except StoreUnavailable:
            return True
        except TgdavError:
            return False
        return False

    def _until(self, seen: Callable[[], bool]) -> None:
        """Wait until a request has met the fault, but not for ever: all workers may be waiting for something else."""
        with suppress(TimeoutError):
            wait_for(seen, LONGEST_OUTAGE)

    def _count(self, number: str, *keys: str) -> int:
        found = self._server.statistics()[number]
        return int(sum(found.get(key, 0) for key in keys) if keys else found)

    def _until_more(self, number: str, *keys: str) -> None:
        """Wait until one of the server's counters has grown."""
        before = self._count(number, *keys)
        self._until(lambda: self._count(number, *keys) > before)

    def _no_answer(self) -> None:
        self._server.accept_silently()
        self._server.drop_connections()
        self._until_more("connections")
        self._server.accept_silently(False)

    def _age(self) -> None:
        self._server.age_references()

    def _expire(self) -> None:
        self._server.expire_uploads()

    def _end_logins(self) -> None:
        self._server.end_logins(self._account.phone, "401 SESSION_REVOKED")

    def _forget_keys(self) -> None:
        self._server.forget_keys(self._account.phone)

    def _freeze(self) -> None:
        self._server.set_status(self._account.phone, "frozen")
        self._until_more("errors", "FROZEN_METHOD_INVALID")
        self._server.set_status(self._account.phone, "")

    def _second_connection(self) -> None:
        """A second program uses a copy of a login."""
        login = self._server.session(self._account.phone)
        pair = [self._account.session_of(login) for _ in range(2)]
        stores = [TelegramStore(one, peer=self._account.peer, entropy=SystemEntropy()) for one in pair]
        for store in stores * 10:
            try:
                store.size(BlobId(1))
            except AccessError:
                break
            except TgdavError:
                continue
        for store in stores:
            store.close()

    def _skew(self) -> None:
        """The server's clock differs from ours: by little, then by more than Telegram tolerates."""
        for seconds in (5.0, self._chance.choice((-400.0, 400.0)), 0.0):
            self._server.skew(seconds)
            self._until_more("bytes_received")

    def _move(self) -> None:
        """The account moves to another data centre."""
        kind = self._chance.choice(("USER_MIGRATE_4", "NETWORK_MIGRATE_4"))
        self._server.arm("error", code=303, text=kind)

    def _refuse(self) -> None:
        """An error that would be a bug of this program, which must be raised."""
        self._server.arm("error", "messages.sendMedia", code=400, text=self._chance.choice(OUR_BUGS))

    def _user_deletes(self) -> None:
        """The user deletes a blob."""
        data = b"eA=="
        entry = {"text": "planted", "name": SystemEntropy().bytes(16).hex(), "data": data.decode()}
        (planted,) = self._server.plant(self._account.phone, [entry], *self._where)
        self._server.delete(self._account.phone, [planted], *self._where)
        with suppress(TgdavError):
            self._store.read(BlobId(planted), 0, 1)


def storm(directory: Path, seed: int, *, channel: bool, seconds: float, work: Work, workers: int = 4) -> Counter[str]:
    """Run a storm of ``seconds`` on a fresh server; return how often each fault happened and each error was raised.

    Afterwards exactly the blobs that the workers returned must exist, each once.
    """
    stop, end = threading.Event(), time.monotonic() + seconds
    with Server(directory, seed=seed) as server:
        account = TelegramAccount(server, channel=channel, patience=1.0, connect_timeout=1.0, transport_backoff=0.5)
        opened: list[TelegramStore] = []

        def open_one() -> BlobStore:
            opened[:] = [account.open()]
            return RateLimitedStore(opened[0], clock=SystemClock(), stop=stop)

        reviving = Reviving(open_one)
        policy = RetryPolicy(first_wait=0.05, longest_wait=0.5, give_up_after=inf)
        store = RetryStore(reviving, clock=SystemClock(), entropy=SystemEntropy(), stop=stop, policy=policy)
        weather = Weather(server, account, random.Random(seed), reviving)
        kept: list[tuple[BlobInfo, bytes]] = []

        def worker(number: int) -> Worker:
            chance = random.Random(f"{seed}-{number}")
            return Worker(lambda going: kept.extend(work(store, chance, going)))

        def waits() -> str:
            return f"{store.reachability()}\n{calls_under_way(opened[0]._session)}"

        work_through(weather, [worker(number) for number in range(workers)], end, waits)
        compare(store, kept)
        store.close()
        return counted(server, weather) + reviving.met + Counter({"blobs": len(kept)})


def counted(server: Server, weather: Weather) -> Counter[str]:
    """How often each fault happened, the server's errors and violations, and how much was sent and received."""
    seen = server.statistics()
    answers, broken = Counter[str](seen["errors"]), Counter[str](seen["violations"])
    sizes = {"MB sent": seen["file_bytes_uploaded"] // 10**6, "MB read": seen["file_bytes_downloaded"] // 10**6}
    work = Counter({"messages": seen["messages_sent"], "connections": seen["connections"], **sizes})
    work["failures of the server itself"] = len(seen["bugs"])
    return Counter(server.fault_counts()) + weather.done + answers + broken + work


class Worker(threading.Thread):
    """Runs ``work(going)`` on a thread, until ``enough`` is set."""

    def __init__(self, work: Callable[[Going], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.enough = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work(Going(self.enough))
        except BaseException as failure:
            self.failure = failure
            raise


def work_through(weather: Weather, crew: list[Worker], end: float, waits: Callable[[], str]) -> None:
    """Run workers until ``end`` (monotonic) and until every fault has happened.

    ``waits`` describes what the store waits for, in the message if a worker does not return.
    """
    try:
        for one in crew:
            one.start()
        weather.blow(lambda: _still(end, crew, weather), lambda seconds: crew[0].enough.wait(seconds))
    finally:
        stop_working(crew, waits)


def _still(end: float, crew: list[Worker], weather: Weather) -> bool:
    assert all(one.is_alive() for one in crew), [one.failure for one in crew]
    assert time.monotonic() < end + LONGEST, f"never met: {weather.missing()}"
    return time.monotonic() < end


def stop_working(crew: list[Worker], waits: Callable[[], str]) -> None:
    for one in crew:
        one.enough.set()
    for one in crew:
        one.join(60.0)
        assert not one.is_alive(), f"{one.name} hangs\n{waits()}\n{stacks()}"
        assert one.failure is None, one.failure


def compare(store: BlobStore, kept: list[tuple[BlobInfo, bytes]]) -> None:
    """The listing is what was acknowledged, without loss, duplicates or orphans; and all of it can be read."""
    kept.sort(key=lambda pair: pair[0].id)
    assert [*store.list()] == [info for info, _ in kept]
    for info, data in kept:
        assert store.read(info.id, 0, info.size) == data
