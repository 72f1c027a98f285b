"""Names what damage affects: paths of present files, and of versions, snapshots and deleted entries as the drive shows them.

They are found in a database that may be damaged itself: a cycle of directories ends here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from tgdav.check.problem import State
from tgdav.db.connection import Connection
from tgdav.db.schema import ROOT_INODE, TRASH_INODE
from tgdav.fs.history_views import version_name
from tgdav.ids import ChunkId, EntryId, Inode
from tgdav.metadata import as_of, queries, snapshots, trash
from tgdav.metadata.versions import Version, versions_of

MOST_WITH_HISTORY = 2000
"""States of which one report names the places in history, too; of further ones it names only present paths."""
_DEEPEST = 4096
"""Directories above a file that a path shows."""
_CONTENTS = """SELECT n.ino, n.since, NULL, coalesce(m.data, n.content)
FROM nodes n LEFT JOIN manifests m ON m.no = n.manifest WHERE n.kind = 1 AND n.size > 0
UNION ALL SELECT n.ino, n.since, n.until, coalesce(m.data, n.content)
FROM nodes_past n LEFT JOIN manifests m ON m.no = n.manifest WHERE n.kind = 1 AND n.size > 0"""
_PLACES = "SELECT id, parent, name, deleted FROM entries WHERE ino = ? ORDER BY stamp, id"
_IDENTITY = {
    True: "SELECT tag, written FROM nodes WHERE ino = ?1 AND ?2 IS NULL",
    False: "SELECT tag, written FROM nodes_past WHERE ino = ?1 AND until = ?2",
}
_SUCCESSORS = "SELECT e.ino FROM predecessors p JOIN entries e ON e.id = p.entry WHERE p.ino = ?"
_EXTENT_BYTES, _CHUNK_AT = 40, 8
"""A manifest consists of such records; ``tgdav.content.format.manifest`` describes them. Even a broken one is searched here."""

Places = Callable[[Inode], list[tuple[Inode, bytes]]]


def states_naming(connection: Connection, blobs: Mapping[ChunkId, str]) -> dict[str, list[State]]:
    """Return the contents, present and earlier, that name one of some chunks, by what ``blobs`` says of the chunk."""
    found: dict[str, list[State]] = {}
    if not blobs:
        return found
    for ino, since, until, content in connection.each(_CONTENTS):
        chunks = (content[at + _CHUNK_AT : at + _EXTENT_BYTES] for at in range(0, len(content or b""), _EXTENT_BYTES))
        for blob in {blobs[ChunkId(chunk)] for chunk in chunks if chunk in blobs}:
            found.setdefault(blob, []).append(State(ino, since, until))
    return found


def present_paths(connection: Connection, ino: Inode) -> list[bytes]:
    """Return the paths of a node, each beginning with ``/``; none if it is in the trash, has no entry, or is in a cycle."""
    return _paths(lambda each: queries.places_of(connection, each), ino)


def _paths(places_of: Places, ino: Inode) -> list[bytes]:
    return [b"/"] if ino == ROOT_INODE else [path for place in places_of(ino) if (path := _path(places_of, *place))]


def _path(places_of: Places, directory: Inode, name: bytes) -> bytes:
    """Return the path of a name in a directory; empty if that does not lead up to the root."""
    names = [name]
    while directory != ROOT_INODE:
        above = places_of(directory)
        if not above or len(names) > _DEEPEST:
            return b""
        directory, name = above[0]
        names.append(name)
    return b"/" + b"/".join(reversed(names))


class Names:
    """Names states of nodes, in one state of the database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._snapshots = snapshots.listed(connection)
        self._days: dict[str, dict[EntryId, bytes]] = {}
        self._versions: dict[Inode, list[Version]] = {}

    def paths(self, states: Iterable[State]) -> list[bytes]:
        """Return the paths at which users see these states: those of present files, then those in history, each sorted."""
        present, history = set[bytes](), set[bytes]()
        for number, state in enumerate(states):
            if state.until is None:
                present.update(present_paths(self._connection, state.ino))
            if number < MOST_WITH_HISTORY:
                history.update(self._in_history(state))
        return [*sorted(present), *sorted(history)]

    def _in_history(self, state: State) -> Iterator[bytes]:
        if state.until is None:
            yield from self._in_trash(state.ino)
        yield from self._in_snapshots(state)
        yield from self._as_version(state)

    def _in_snapshots(self, state: State) -> Iterator[bytes]:
        for each in self._snapshots:
            at = each.position
            if state.since <= at and (state.until is None or at < state.until):
                places = lambda ino, at=at: as_of.places_of(self._connection, at, ino)  # noqa: E731
                yield from (b"/.snapshots/" + each.name.encode() + path for path in _paths(places, state.ino))

    # ---- versions ------------------------------------------------------------------------------------------------

    def _as_version(self, state: State) -> Iterator[bytes]:
        row = self._connection.one(_IDENTITY[state.until is None], (state.ino, state.until))
        for owner in self._owners(state.ino) if row is not None else ():
            paths = present_paths(self._connection, owner)
            names = [version_name(each) for each in self._earlier(owner) if row == _identity(each, state.ino)]
            yield from (b"/.versions" + path + b"/" + name for path in paths[:1] for name in names)

    def _owners(self, ino: Inode) -> Iterator[Inode]:
        """Yield the files in whose history a node's contents are: itself, what replaced it under its name, and so on."""
        seen, waiting = {ino}, [ino]
        while waiting:
            owner = waiting.pop()
            yield owner
            following = {row[0] for row in self._connection.all(_SUCCESSORS, (owner,))} - seen
            seen |= following
            waiting += following

    def _earlier(self, owner: Inode) -> list[Version]:
        if owner not in self._versions:
            found = versions_of(self._connection, owner)
            self._versions[owner] = [each for each in found if not each.is_current]
        return self._versions[owner]

    # ---- trash ---------------------------------------------------------------------------------------------------

    def _in_trash(self, ino: Inode) -> Iterator[bytes]:
        names = list[bytes]()
        while len(names) <= _DEEPEST:
            places = self._connection.all(_PLACES, (ino,))
            for entry, _, _, deleted in places:
                if deleted is not None and (shown := self._deleted(entry, deleted)):
                    yield b"/".join([shown, *reversed(names)])
                    return
            if not places or places[0][1] in (ROOT_INODE, TRASH_INODE):
                return
            ino = places[0][1]
            names.append(places[0][2])

    def _deleted(self, entry: EntryId, deleted: int) -> bytes:
        """Return the path of an entry in the trash; empty if it shows only as an earlier version of another file."""
        day = f"{datetime.fromtimestamp(deleted // 1_000_000_000, UTC):%Y-%m-%d}"
        if day not in self._days:
            self._days[day] = {each.entry: name for name, each in trash.deleted_on(self._connection, day)}
        name = self._days[day].get(entry)
        return b"" if name is None else b"/.trash/" + day.encode() + b"/" + name


def _identity(version: Version, ino: Inode) -> tuple[object, object] | None:
    return (version.attributes.tag, version.time) if version.attributes.inode == ino else None
