"""The kernel's requests, translated into calls of ``tgdav.fs.api``."""

import pyfuse3

from tgdav.errors import NotFound
from tgdav.fs.api import FileSystem
from tgdav.ids import Inode
from tgdav_fuse.attributes import Presentation, Translator
from tgdav_fuse.errors import request


class TgdavOperations(pyfuse3.Operations):
    """Answers for one mount."""

    supports_dot_lookup = False

    def __init__(self, fs: FileSystem, shown: Presentation) -> None:
        super().__init__()
        self._fs = fs
        self._translator = Translator(shown)

    @request
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Find a name."""
        try:
            return self._translator.entry(self._fs.lookup(Inode(parent_inode), name))
        except NotFound:
            return self._translator.nothing()

    @request
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Show a node's attributes."""
        return self._translator.entry(self._fs.attributes(Inode(inode)))
