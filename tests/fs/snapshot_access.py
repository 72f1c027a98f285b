"""Snapshots under the behaviour suite: what a behaviour changes is live, and what it reads comes from a snapshot made since."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tests.fs.access import Ability, Access, Status

READING = frozenset(
    ("read_file", "read_range", "tag", "listdir", "status", "readlink", "get_xattr", "list_xattrs", "properties")
)
LACKS = frozenset({Ability.HANDLES})
"""Open files see each other's changes; a snapshot sees none."""

NOT_KEPT = frozenset(("an_access_time_is_set_alone",))
"""Behaviours of what snapshots do not keep."""

_NODE = (1 << 40) - 1
"""The part of an inode number of history that all snapshots of a node have in common."""


class SnapshotAccess:
    """``take`` makes a snapshot of what ``live`` shows, and returns an access to its root."""

    def __init__(self, live: Access, take: Callable[[], Any], *, lacks: frozenset[Ability] = LACKS) -> None:
        self.abilities = live.abilities - lacks
        self._live, self._take = live, take
        self._snapshot: Any = None

    def __getattr__(self, name: str) -> Any:
        if name not in READING:
            return lambda *args, **options: self._change(name, *args, **options)
        if self._snapshot is None:
            self._snapshot = self._take()
        return getattr(self._snapshot, name)

    def _change(self, name: str, *args: Any, **options: Any) -> Any:
        try:
            return getattr(self._live, name)(*args, **options)
        finally:
            self._snapshot = None

    def status(self, path: bytes) -> Status:
        shown: Status = self.__getattr__("status")(path)
        return dataclasses.replace(shown, identity=shown.identity & _NODE)


class Below:
    """The reading half of an access, below a directory."""

    def __init__(self, access: Access, directory: bytes) -> None:
        self._access, self._directory = access, directory

    def __getattr__(self, name: str) -> Callable[..., Any]:
        assert name in READING
        method = getattr(self._access, name)
        return lambda path, *more: method(self._directory + (b"/" + path if path else b""), *more)
