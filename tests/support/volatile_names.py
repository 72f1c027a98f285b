"""What a power cut does to names: a log of changes to folders that were not yet synced.

Every change is a list of moves, some from or to a hidden folder, the graveyard: creating is a move out of it,
unlinking a move into it. Undoing a change is its moves backwards, so no case needs code of its own.
"""

import os
import random
import shutil
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.volatile_data import Pinned

MOST_PENDING = 20_000
Slot = tuple[int, bytes]


@dataclass(frozen=True)
class Place:
    """A name in a folder."""

    folder: Pinned
    name: bytes

    @property
    def slot(self) -> Slot:
        return self.folder.number, self.name

    def move(self, target: "Place") -> None:
        os.rename(self.name, target.name, src_dir_fd=self.folder.descriptor, dst_dir_fd=target.folder.descriptor)

    def stat(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.folder.descriptor, follow_symlinks=False)

    def exists(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True


@dataclass
class NameChange:
    """One change: its moves in order, and the grave of the node it removed."""

    moves: list[tuple[Place, Place]] = field(default_factory=list)
    graves: list[bytes] = field(default_factory=list)
    of_folder: bool = False

    def move(self, source: Place, target: Place) -> None:
        source.move(target)
        self.moves.append((source, target))

    def undo(self) -> None:
        for source, target in reversed(self.moves):
            target.move(source)

    @property
    def slots(self) -> set[Slot]:
        return {place.slot for move in self.moves for place in move}

    @property
    def folders(self) -> set[int]:
        return {number for number, _ in self.slots}


class NameLog:
    """Changes of names in order, those not yet durable."""

    def __init__(self, graveyard: Path) -> None:
        """Bury in ``graveyard``, a folder that is made here, on the same file system."""
        graveyard.mkdir(mode=0o700)
        self._graveyard_path = graveyard
        self._graveyard = Pinned(str(graveyard))
        self._graves = 0
        self._buried: dict[bytes, int] = {}
        self._burials: Counter[int] = Counter()
        self.pending: list[NameChange] = []

    def new_grave(self) -> Place:
        self._graves += 1
        return Place(self._graveyard, b"%d" % self._graves)

    def burials(self, number: int) -> int:
        """Return how many names of inode ``number`` were unlinked and are still held for undo."""
        return self._burials[number]

    def add(self, made: Place, target: Place, *, is_folder: bool = False) -> None:
        """Log and perform a change: the node at the grave ``made`` gets the name ``target``."""
        change = NameChange(of_folder=is_folder)
        change.move(made, target)
        self._log(change)

    def remove(self, place: Place) -> None:
        """Log and do: ``place`` goes away."""
        change = NameChange()
        self._bury(change, place)
        self._log(change)

    def rename(self, source: Place, target: Place, *, is_folder: bool) -> None:
        """Log and do: ``source`` becomes ``target``, which is replaced."""
        change = NameChange(of_folder=is_folder)
        if target.exists():
            self._bury(change, target)
        change.move(source, target)
        self._log(change)

    def exchange(self, source: Place, target: Place) -> None:
        """Log and do: ``source`` and ``target`` change places."""
        change, between = NameChange(of_folder=True), self.new_grave()
        change.move(source, between)
        change.move(target, source)
        change.move(between, target)
        self._log(change)

    def _bury(self, change: NameChange, place: Place) -> None:
        grave, number = self.new_grave(), place.stat().st_ino
        change.move(place, grave)
        change.graves.append(grave.name)
        self._buried[grave.name] = number
        self._burials[number] += 1

    def _log(self, change: NameChange) -> None:
        self.pending.append(change)
        if len(self.pending) > MOST_PENDING:
            self._durable(self.pending[: MOST_PENDING // 2])

    def synced(self, folder: int) -> None:
        """Make every change in the folder with inode ``folder`` durable, and those that they build on."""
        needed: list[NameChange] = []
        slots: set[Slot] = set()
        of_folder = False
        for change in reversed(self.pending):
            touched = change.slots
            if folder in change.folders or touched & slots or (of_folder and change.of_folder):
                needed.append(change)
                slots |= touched
                of_folder = of_folder or change.of_folder
        self._durable(needed)

    def _durable(self, changes: list[NameChange]) -> None:
        done = {id(change) for change in changes}
        self.pending = [change for change in self.pending if id(change) not in done]
        graves = [grave for change in changes for grave in change.graves]
        # A folder that is gone for good was empty before, so the changes in it are durable too.
        for number in [self._buried[grave] for grave in graves]:
            if any(number in change.folders for change in self.pending):
                self.synced(number)
        for grave in graves:
            self._purge(grave)

    def _purge(self, grave: bytes) -> None:
        path = self._graveyard_path / os.fsdecode(grave)
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
        number = self._buried.pop(grave)
        self._burials[number] -= 1
        if not self._burials[number]:
            del self._burials[number]

    def power_cut(self, choose: random.Random) -> tuple[int, int]:
        """Keep a random beginning of the changes and undo the others, last first; return (kept, lost)."""
        total = len(self.pending)
        keep = choose.choice((0, total, choose.randint(0, total), choose.randint(0, total)))
        for change in reversed(self.pending[keep:]):
            change.undo()
        self.pending.clear()
        return keep, total - keep

    def close(self) -> None:
        """Drop all graves: the whole live state is durable now."""
        shutil.rmtree(self._graveyard_path)
