"""From a path to a resource: the only way, for our own handlers and for the WsgiDAV provider.

``find`` returns what exists; ``locate`` also where a name could be created. Names are compared by Unicode NFC, so that a
client finds a file under any normalization of its name (macOS sends NFD).
"""

from collections.abc import Sequence

import msgspec

from tgdav.errors import NotADirectory, NotFound
from tgdav.fs.api import FileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, Kind
from tgdav.webdav.errors import Refused
from tgdav.webdav.urls import normal, unescaped


class Resource(msgspec.Struct, frozen=True, gc=False):
    """What a path leads to: the parent directory, the name in it as stored (or as sent, if it is new), and the node, if any.

    The root is its own parent, with an empty name.
    """

    names: tuple[bytes, ...]
    parent: Inode
    name: bytes
    attributes: Attributes | None


def find(fs: FileSystem, names: Sequence[bytes]) -> Attributes:
    """Return what a path leads to. Raises NotFound, also if a component is not a directory."""
    try:
        return fs.resolve(names, normalized=True)
    except NotADirectory as error:
        raise NotFound from error
    except NotFound:
        stored = unescaped(names)
        if stored == tuple(names):
            raise
        return fs.resolve(stored, normalized=True)


def locate(fs: FileSystem, names: tuple[bytes, ...]) -> Resource:
    """Return the resource at a path, existing or not. Raises Refused 409 if its parent does not exist."""
    if not names:
        return Resource(names, fs.root, b"", fs.attributes(fs.root))
    parent = find_parent(fs, names)
    try:
        name, found = look_up(fs, parent, names[-1])
    except NotFound:
        return Resource(names, parent, names[-1], None)
    return Resource(names, parent, stored_name(fs, parent, name, found), found)


def look_up(fs: FileSystem, parent: Inode, name: bytes) -> tuple[bytes, Attributes]:
    """Look up a name in a directory, as sent or with its ``%XX`` turned back. Raises NotFound, NotADirectory."""
    try:
        return name, fs.lookup(parent, name, normalized=True)
    except NotFound:
        (stored,) = unescaped((name,))
        if stored == name:
            raise
        return stored, fs.lookup(parent, stored, normalized=True)


def find_parent(fs: FileSystem, names: Sequence[bytes]) -> Inode:
    """Return the directory that contains a path's last name. Raises Refused 409 if there is none."""
    if len(names) < 2:
        return fs.root
    try:
        parent = find(fs, names[:-1])
    except NotFound as error:
        raise Refused(409, "the parent folder does not exist") from error
    if parent.kind != Kind.DIRECTORY:
        raise Refused(409, "the parent is no folder")
    return parent.inode


def stored_name(fs: FileSystem, parent: Inode, name: bytes, found: Attributes) -> bytes:
    """Return the bytes of ``found``'s name in its directory; ``name`` may be another normalization of it."""
    if name.isascii():
        return name
    try:
        if fs.lookup(parent, name).inode == found.inode:
            return name
    except NotFound:
        pass
    wanted = normal(name)
    matches = [
        entry.name
        for entry in fs.list_directory(parent)
        if entry.attributes.inode == found.inode and normal(entry.name) == wanted
    ]
    return matches[0] if matches else name
