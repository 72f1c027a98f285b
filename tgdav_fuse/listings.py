"""Open folders: what a readdir goes through, with cookies that stay put while entries come and go.

The names are taken once, when reading begins (at cookie 0, so rewinding takes them anew), and a cookie is a place among
them. Before an entry is shown after something changed, it is looked up again: what is gone is skipped, and what the
kernel learns beside the name is as of now.
"""

from collections.abc import Iterator

from tgdav.errors import NotFound
from tgdav.fs.api import FileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes, DirectoryEntry


class Listing:
    """One open folder."""

    def __init__(self, fs: FileSystem, inode: Inode) -> None:
        self._fs, self.inode = fs, inode
        self._entries: list[DirectoryEntry] | None = None
        self._taken = -1

    def begin(self, changes: int) -> None:
        """Take the entries, as of now; ``changes`` counts what was changed so far. Raises NotFound, NotADirectory."""
        self._taken = changes
        self._entries = self._fs.list_directory(self.inode)

    @property
    def begun(self) -> bool:
        """Whether the entries were taken."""
        return self._entries is not None

    def after(self, cookie: int, changes: int) -> Iterator[tuple[int, bytes, Attributes]]:
        """Yield (cookie, name, attributes) of what comes after ``cookie``; "." and ".." are cookies 1 and 2."""
        entries = self._entries or []
        for place in range(max(cookie - 2, 0), len(entries)):
            entry = entries[place]
            if changes == self._taken:
                yield place + 3, entry.name, entry.attributes
                continue
            try:
                yield place + 3, entry.name, self._fs.lookup(self.inode, entry.name)
            except NotFound:
                continue
