"""A disk with a volatile write cache, as a model over an ordinary folder.

The promises are those of POSIX, no more; each is at least as strict as ext4, XFS and btrfs keep them:

- fsync and fdatasync of a file make its bytes and its size durable, not its name.
- fsync of a folder makes the names directly in it durable (creations, links, unlinks, renames from or to it), and
  whatever earlier changes those build on; not the folder's own name in its parent, not the bytes of its files.
- One rename is atomic. Other changes of names become durable in order: a power cut keeps a random beginning of them.
- Of un-synced bytes each 4 KiB page survives or not, independently; the size is the old, the new or one between.
  Lost pages past the old end read as zeros. A truncation is a change of bytes: lost pages show the old bytes again.
- A failed fsync gives its pages up: a later one that succeeds does not save them (as Linux does since 2.6).
- Modes, owners and times are durable at once: nothing may rest on them.

The same seed and the same calls give the same power cut.
"""

import errno
import os
import random
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.volatile_data import FileUndo, Pinned
from tests.support.volatile_names import NameLog, Place


@dataclass(frozen=True)
class CutReport:
    """How much unsynced data a power cut kept and lost, in pages of 4 KiB and changes of names."""

    pages_kept: int = 0
    pages_lost: int = 0
    names_kept: int = 0
    names_lost: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class VolatileDisk:
    """The live tree below ``root``, with the undo data of a power cut."""

    def __init__(self, root: Path, seed: int | str) -> None:
        """Take over ``root``, a folder; all that is in it is durable. Buries in ``root`` + ``.graveyard``."""
        self.root = Pinned(str(root))
        self.names = NameLog(root.with_name(root.name + ".graveyard"))
        self._choose = random.Random(seed)
        self._undo: dict[int, FileUndo] = {}

    def _undo_of(self, file: Pinned) -> FileUndo:
        if file.number not in self._undo:
            self._undo[file.number] = FileUndo.begin(file)
        return self._undo[file.number]

    def write(self, file: Pinned, offset: int, data: bytes) -> int:
        """Write ``data``; return how many bytes went in."""
        undo = self._undo_of(file)
        undo.before_write(offset, len(data))
        return os.pwrite(undo.descriptor, data, offset)

    def truncate(self, file: Pinned, length: int) -> None:
        """Set the size of ``file``."""
        undo = self._undo_of(file)
        undo.before_truncate(length)
        os.ftruncate(undo.descriptor, length)

    def sync_file(self, file: Pinned) -> None:
        """Make the bytes and the size of ``file`` durable."""
        undo = self._undo.get(file.number)
        if undo is not None and undo.synced():
            del self._undo[file.number]

    def sync_file_failed(self, file: Pinned) -> None:
        """Note that a sync of ``file`` was answered with an error."""
        if file.number in self._undo:
            self._undo[file.number].sync_failed()

    def sync_directory(self, folder: Pinned) -> None:
        """Make the names in ``folder`` durable."""
        self.names.synced(folder.number)
        gone = [number for number, undo in self._undo.items() if undo.file.stat().st_nlink == 0]
        for number in gone:
            del self._undo[number]

    def make(self, place: Place, maker: Callable[[bytes, int], None], *, is_folder: bool = False) -> None:
        """Create a node by ``maker(name, directory descriptor)`` and give it the name ``place``."""
        if place.exists():
            raise FileExistsError(errno.EEXIST, "exists")
        grave = self.names.new_grave()
        maker(grave.name, grave.folder.descriptor)
        self.names.add(grave, place, is_folder=is_folder)

    def create(self, place: Place, mode: int) -> Pinned:
        """Make an empty file, whose durable state is empty too."""
        self.make(place, lambda name, folder: os.mknod(name, mode, dir_fd=folder))
        return Pinned(place.name, place.folder)

    def link(self, file: Pinned, place: Place) -> None:
        """Give ``file`` the further name ``place``."""
        self.make(place, lambda name, folder: os.link(file.path, name, dst_dir_fd=folder, follow_symlinks=True))

    def unlink(self, place: Place) -> None:
        """Remove a name; open handles of the file stay valid."""
        place.stat()
        self.names.remove(place)

    def rmdir(self, place: Place) -> None:
        """Take an empty folder away. Raises OSError (ENOTEMPTY)."""
        _require_empty(place)
        self.names.remove(place)

    def rename(self, source: Place, target: Place, *, replace: bool = True) -> None:
        """Rename, replacing ``target``. Raises FileExistsError unless ``replace``."""
        found = source.stat()
        if target.exists():
            if not replace:
                raise FileExistsError(errno.EEXIST, "exists")
            if target.stat().st_ino == found.st_ino:
                return
            if stat.S_ISDIR(target.stat().st_mode):
                _require_empty(target)
        self.names.rename(source, target, is_folder=stat.S_ISDIR(found.st_mode))

    def links(self, file: Pinned) -> int:
        """Return the number of names that ``file`` has in the live tree."""
        return max(0, file.stat().st_nlink - self.names.burials(file.number))

    def power_cut(self) -> CutReport:
        """Put the tree into a state in which a power cut might leave it. The model is of no use afterwards."""
        pages = [undo.power_cut(self._choose) for undo in self._undo.values()]
        kept, lost = self.names.power_cut(self._choose)
        self.close()
        return CutReport(sum(one.kept for one in pages), sum(one.lost for one in pages), kept, lost)

    def close(self) -> None:
        """End as an orderly unmount does: the live tree is the durable one."""
        self._undo.clear()
        self.names.close()


def _require_empty(place: Place) -> None:
    descriptor = os.open(place.name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=place.folder.descriptor)
    try:
        with os.scandir(descriptor) as entries:
            if next(entries, None) is not None:
                raise OSError(errno.ENOTEMPTY, "not empty")
    finally:
        os.close(descriptor)
