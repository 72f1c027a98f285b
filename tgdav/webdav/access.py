"""The one place that decides whether a request may change a resource: locks and conditions together.

A handler makes an ``Access`` for the request's own path (and one more for a Destination), calls ``check`` before it reads
the body, and hands ``check`` to the file system as its precondition, so that the same decision is made again at the very
moment of change. ``check`` itself asks no file system; what comes long after the request's head takes ``check_in``.
"""

from collections.abc import Iterable

from tgdav.errors import TgdavError
from tgdav.fs.api import Precondition
from tgdav.http import Request
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes
from tgdav.webdav import conditions
from tgdav.webdav.conditions import state_of
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import Refused
from tgdav.webdav.locks import Lock, directories_above, path_inodes, roots
from tgdav.webdav.resources import Resource, find
from tgdav.webdav.urls import split_destination


class Access:
    """Decides for one path of one request. ``own`` is False for a Destination, to which If-Match and the like do not apply."""

    def __init__(self, context: WebContext, request: Request, names: tuple[bytes, ...], *, own: bool = True) -> None:
        self._context = context
        self._request = request
        self._names = names
        self._own = own
        self._headers = request.headers
        header = request.headers.get("if")
        self._lists = conditions.parse_if(header) if header is not None else []
        self._tokens = self._submitted()
        self._tagged_states: dict[str, tuple[frozenset[str], str | None]] = {}
        self._above = self._inodes_above()
        if own:
            self._read_tagged_lists()

    def _submitted(self) -> frozenset[str]:
        tokens = conditions.submitted_tokens(self._lists)
        office = self._headers.get("lock-token")
        # Office sends PUT with Lock-Token and without If; that submits the token just as well.
        return tokens | {office.strip().strip("<>")} if office else tokens

    def _inodes_above(self) -> list[Inode]:
        if not self._context.locks.live() and not self._lists:
            return []  # the usual case: no lookups for locks that do not exist
        inodes = path_inodes(self._context.fs, self._names)
        return inodes[:-1] if len(inodes) > len(self._names) else inodes

    # ---- the decision --------------------------------------------------------------------------------------------

    def check(self, current: Attributes | None) -> None:
        """Decide on changing the content of ``current``, the resource as it is now (None: on creating it).

        Raises Refused 412 when a condition fails, 423 when a lock is in the way.
        """
        if self._own:
            self.check_conditions(current)
        self.require(self._locks_on(current) if current is not None else self._locks_on_directory())

    def check_in(self, parent: Inode) -> Precondition:
        """Return ``check`` for a name in ``parent`` that first finds out where that directory is, while there are locks.

        The directory may be locked, or moved into a locked one, while a body arrives. It is found by inode, not by name: names
        are cached, and a precondition may see changes that are undone later.
        """

        def check(current: Attributes | None) -> None:
            if self._context.locks.live() or self._lists:
                self._above = directories_above(self._context.fs, parent)
            self.check(current)

        return check

    def check_conditions(self, current: Attributes | None) -> None:
        """Evaluate the request's conditions alone. Raises Refused 412 or 304."""
        state = state_of(current) if current is not None else None
        conditions.check_conditions(self._request.method, self._headers, state)
        if self._lists and not conditions.if_holds(self._lists, lambda url: self._state_for(url, current)):
            raise Refused(412, "If does not hold")

    def check_membership(self) -> None:
        """Decide on adding the name to its directory, or removing it."""
        self.require(self._locks_on_directory())

    def check_tree(self, resource: Resource) -> list[Lock]:
        """Decide on removing or replacing a name and all below it; return the locks that end with it."""
        if resource.attributes is None or not self._context.locks.live():
            return []
        own = [lock for lock in self._context.locks.live() if lock.inode == resource.attributes.inode]
        inside = self._context.locks.inside(resource.attributes.inode)
        self.require(self._locks_on(resource.attributes))
        by_inode: dict[Inode, list[Lock]] = {}
        for lock in inside:
            by_inode.setdefault(lock.inode, []).append(lock)
        for locks in by_inode.values():
            self.require(locks)
        return own + inside

    def owns_lock(self, current: Attributes) -> bool:
        """Return whether every lock on the resource is held by the same user, whether the token was submitted or not."""
        return all(lock.details.principal == self._request.user for lock in self._locks_on(current))

    def require(self, locks: Iterable[Lock]) -> None:
        """Refuse with 423 unless there are no locks, or the user has submitted the token of one of them.

        One is enough: several locks on one resource are all shared.
        """
        locks = list(locks)
        if locks and not any(self.submits(lock) for lock in locks):
            raise Refused(423, condition="lock-token-submitted", inner=roots(locks, self._context.public.prefix))

    def submits(self, lock: Lock) -> bool:
        """Return whether the request submits the lock's token and its user took the lock: a token works for nobody else."""
        return lock.token in self._tokens and lock.details.principal == self._request.user

    def _locks_on(self, current: Attributes) -> list[Lock]:
        if current.inode == self._context.fs.root:
            return self._context.locks.covering([current.inode])
        return self._context.locks.covering([*self._above, current.inode])

    def _locks_on_directory(self) -> list[Lock]:
        return self._context.locks.covering(self._above) if self._above else []

    # ---- If ------------------------------------------------------------------------------------------------------

    def _state_for(self, url: str | None, current: Attributes | None) -> tuple[frozenset[str], str | None]:
        if url is not None and url in self._tagged_states:
            return self._tagged_states[url]
        if current is None:
            handed_down = self._context.locks.covering(self._above, exists=False) if self._above else []
            return frozenset(lock.token for lock in handed_down), None
        return frozenset(lock.token for lock in self._locks_on(current)), state_of(current).etag

    def _read_tagged_lists(self) -> None:
        """Look up, before the change, the state of other resources that tagged lists name."""
        for url in {item.resource for item in self._lists if item.resource is not None}:
            try:
                names = split_destination(url, self._headers.get("host", ""), self._context.public)
            except Refused as refusal:
                if refusal.status == 502:
                    raise
                self._tagged_states[url] = (frozenset(), None)
                continue
            if names != self._names:
                self._tagged_states[url] = self._state_at(names)

    def _state_at(self, names: tuple[bytes, ...]) -> tuple[frozenset[str], str | None]:
        inodes = path_inodes(self._context.fs, names)
        exists = len(inodes) > len(names)
        tokens = frozenset(lock.token for lock in self._context.locks.covering(inodes, exists=exists))
        try:
            return tokens, state_of(find(self._context.fs, names)).etag
        except TgdavError:
            return tokens, None
