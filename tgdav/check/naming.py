"""Paths for reports of damage. They are found in a database that may be damaged itself: a cycle of directories ends here."""

from tgdav.db.connection import Connection
from tgdav.db.schema import ROOT_INODE
from tgdav.ids import Inode
from tgdav.metadata import queries

_DEEPEST = 4096
"""Directories above a file that a path shows."""


def present_paths(connection: Connection, ino: Inode) -> list[bytes]:
    """Return the paths of a node, each beginning with ``/``; none if it is in the trash, has no entry, or is in a cycle."""
    return [path for path in (_path(connection, place) for place in queries.places_of(connection, ino)) if path]


def _path(connection: Connection, place: tuple[Inode, bytes]) -> bytes:
    """Return the path of a name in a directory; empty if that does not lead up to the root."""
    names = list[bytes]()
    directory, name = place
    while len(names) < _DEEPEST:
        names.append(name)
        if directory == ROOT_INODE:
            return b"/" + b"/".join(reversed(names))
        above = queries.places_of(connection, directory)
        if not above:
            return b""
        directory, name = above[0]
    return b""
