"""Logins whose password is known only as an Argon2id hash: made to be slow to check, so each is checked once.

A pair that was right costs no Argon2 run while the process lives, nor does one of the last wrong ones. Runs go one after
another, so guessing has the memory and the cores of one run at most; who is known already never waits for them.
"""

import threading
from collections.abc import Mapping

from tgdav.crypto.password_hash import matches
from tgdav.web.errors import Refused

WAITING = 16
"""Logins not known yet that may wait for their run, each holding a thread; more are asked to come again."""

_KEPT = 1024


class HashedLogins:
    """Users and the hashes of their passwords, in PHC form and of a bounded cost."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(WAITING)
        self._known: dict[bytes, bool] = {}

    def __contains__(self, user: str) -> bool:
        return user in self._hashes

    def check(self, user: str, password: bytes, pair: bytes) -> bool:
        """Return whether ``password`` is the user's. ``pair`` is a keyed hash of user and password, to know them again.

        Raises Refused 503 when too many wait, LocalFailure when Argon2 has not the memory it needs.
        """
        known = self._known.get(pair)
        if known is not None:
            return known
        if not self._places.acquire(blocking=False):
            raise Refused(503, "too many logins at once", headers=(("Retry-After", "1"),))
        try:
            with self._turn:
                known = self._known.get(pair)
                return self._remember(pair, matches(self._hashes[user], password)) if known is None else known
        finally:
            self._places.release()

    def _remember(self, pair: bytes, right: bool) -> bool:
        """Keep an answer. Right ones are few, for each user has one password; of wrong ones only the last are kept."""
        self._known[pair] = right
        if len(self._known) > _KEPT:
            oldest = next((each for each, good in self._known.items() if not good), None)
            if oldest is not None:
                del self._known[oldest]
        return right
