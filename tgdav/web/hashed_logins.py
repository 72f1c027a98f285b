"""Logins whose password is known only as an Argon2id hash: made to be slow to check, so each is checked once.

A pair that was right costs no Argon2 run while the process lives, nor does one of the last wrong ones. Runs go one after
another, so guessing has the memory and the cores of one run at most; who is known already never waits for them. A name that
does not exist costs the same run, so that neither the answer nor its time tells which names do.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tgdav.password_hash import verify
from tgdav.web.errors import Refused

WAITING = 48
"""Logins not known yet that may wait for their run, each holding a thread; more are asked to come again."""

_KEPT = 1024


class HashedLogins:
    """Users and the hashes of their passwords, in PHC form and of a bounded cost."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)
        self._costs = list(hashes.values())
        self._turns = Turns()
        self._known: dict[bytes, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def check(self, user: str, password: bytes, pair: bytes, peer: str = "") -> bool:
        """Return whether ``password`` is the user's. ``pair`` is a keyed hash of user and password, to know them again.

        Raises Refused 503 when too many wait, LocalFailure when Argon2 has not the memory it needs.
        """
        known = self._known.get(pair)
        if known is not None:
            return known
        with self._turns.turn(peer):
            known = self._known.get(pair)
            return self._remember(pair, self._run(user, password, pair)) if known is None else known

    def _run(self, user: str, password: bytes, pair: bytes) -> bool:
        # Hashes may differ in cost; the pair's own keyed hash chooses one for a name that has none.
        encoded = self._hashes.get(user) or self._costs[int.from_bytes(pair[:8], "big") % len(self._costs)]
        return verify(encoded, password) and user in self._hashes

    def _remember(self, pair: bytes, right: bool) -> bool:
        """Keep an answer. Right ones are few, for each user has one password; of wrong ones only the last are kept."""
        self._known[pair] = right
        if len(self._known) > _KEPT:
            oldest = next((each for each, good in self._known.items() if not good), None)
            if oldest is not None:
                del self._known[oldest]
        return right


class _Ticket:
    """One that waits for its turn. ``refused`` when it had to make room."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.refused = False


class Turns:
    """Lets one after another in: peers in turn, and of one peer the last and the first to come in turn.

    So a login behind a burst of guesses waits for two runs or so instead of all of them, and none waits for ever.

    When ``WAITING`` wait, one more from a peer that has fewer waiting takes the place of the last one of the peer that has
    most, so no peer can keep the others out.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queues: OrderedDict[str, deque[_Ticket]] = OrderedDict()
        self._inside: _Ticket | None = None
        self._last_first = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(map(len, self._queues.values()))

    @contextmanager
    def turn(self, peer: str) -> Iterator[None]:
        """Wait for a turn of ``peer`` and have it. Raises Refused 503 when too many wait."""
        ticket = _Ticket(peer)
        with self._changed:
            self._queue(ticket)
            while self._inside is not ticket:
                self._changed.wait()
                if ticket.refused:
                    raise _busy()
        try:
            yield
        finally:
            with self._changed:
                self._let_in_next()
                self._changed.notify_all()

    def _queue(self, ticket: _Ticket) -> None:
        if self._inside is None:
            self._inside = ticket
            return
        if self._count() >= WAITING:
            self._make_room(ticket.peer)
        self._queues.setdefault(ticket.peer, deque()).append(ticket)

    def _make_room(self, peer: str) -> None:
        most = max(self._queues.values(), key=len)
        if len(self._queues.get(peer, ())) + 1 >= len(most):
            raise _busy()
        most.pop().refused = True
        self._changed.notify_all()

    def _let_in_next(self) -> None:
        self._inside = None
        if self._queues:
            peer, queue = self._queues.popitem(last=False)
            self._last_first = not self._last_first
            self._inside = queue.pop() if self._last_first else queue.popleft()
            if queue:
                self._queues[peer] = queue


def _busy() -> Refused:
    return Refused(503, "too many logins at once", headers=(("Retry-After", "1"),))
