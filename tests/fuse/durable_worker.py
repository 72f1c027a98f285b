"""Changes with a promise (files with fsync, or rows of a database), each recorded before and after.

Run as ``python -m tests.fuse.durable_worker KIND DIRECTORY NOTES SEED`` until the mount dies. A line of NOTES (on another file
system) is ``begin NAME STATE`` before a change that leads to STATE, and ``done NAME STATE`` once that was promised.

``files`` are for kills of the process, ``cuts`` for power cuts: there part of the changes is not synced, and may be lost, but
only as a whole. What was synced later covers what was done before.
"""

import hashlib
import os
import random
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

FILES = 4
LONGEST = 300_000


def state_of(content: bytes) -> str:
    """Return the digest that represents a content in the notes."""
    return hashlib.sha256(content).hexdigest()[:16]


class Notes:
    """An append-only file outside the mount. It survives the mount, but not a power cut."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, *words: str) -> None:
        os.write(self._file, (" ".join(words) + "\n").encode())


def change_files(directory: Path, notes: Notes, choose: random.Random) -> None:
    """Saves files by rename, or changes them in place."""
    content: dict[str, bytes] = {}
    while True:
        name = f"file-{choose.randrange(FILES)}"
        old = content.get(name, b"")
        if not old or choose.random() < 0.4:
            content[name] = choose.randbytes(choose.randrange(1, LONGEST))
            notes.add("begin", name, state_of(content[name]))
            save(directory / name, content[name])
        else:
            place, data = choose.randrange(len(old)), choose.randbytes(choose.randrange(1, 9000))
            content[name] = old[:place] + data + old[place + len(data) :]
            notes.add("begin", name, state_of(content[name]))
            change(directory / name, place, data)
        notes.add("done", name, state_of(content[name]))


def save(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Write a new file and rename it over the old one, as editors do."""
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as file:
        file.write(content)
        _sync(file, synced=synced)
    os.rename(draft, path)


def change(path: Path, place: int, data: bytes, *, synced: bool = True) -> None:
    """Write in place."""
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)
        _sync(file, synced=synced)


def _sync(file: BinaryIO, *, synced: bool) -> None:
    file.flush()
    if synced:
        os.fsync(file.fileno())


def change_files_loosely(directory: Path, notes: Notes, choose: random.Random) -> None:
    """Save and change files, synced or not. Now and then sync the directory, before which no rename is promised."""
    content: dict[str, bytes] = {}
    while True:
        name, synced = f"file-{choose.randrange(FILES)}", choose.random() < 0.6
        old = content.get(name, b"")
        if old and choose.random() < 0.5:
            place, data = choose.randrange(len(old)), choose.randbytes(choose.randrange(1, 9000))
            content[name] = old[:place] + data + old[place + len(data) :]
            notes.add("begin", name, state_of(content[name]))
            change(directory / name, place, data, synced=synced)
            promised = synced
        else:
            content[name] = choose.randbytes(choose.randrange(1, LONGEST))
            notes.add("begin", name, state_of(content[name]))
            save(directory / name, content[name], synced=synced)
            promised = choose.random() < 0.5
            if promised:
                _sync_directory(directory)
        if promised:
            for each, whole in content.items():
                notes.add("done", each, state_of(whole))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fill_database(mode: str) -> Callable[[Path, Notes, random.Random], None]:
    """Return a worker that adds rows to a SQLite database in journal mode ``mode``."""

    def work(directory: Path, notes: Notes, choose: random.Random) -> None:
        connection = sqlite3.connect(directory / "database", isolation_level=None)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, data BLOB)")
        (number,) = connection.execute("SELECT coalesce(max(number), 0) FROM rows").fetchone()
        while True:
            number += 1
            notes.add("begin", "row", str(number))
            connection.execute("INSERT INTO rows VALUES (?, ?)", (number, choose.randbytes(2000)))
            notes.add("done", "row", str(number))

    return work


WORK = {
    "files": change_files,
    "cuts": change_files_loosely,
    "wal": fill_database("WAL"),
    "delete": fill_database("DELETE"),
}


def main() -> None:
    """Work until the mount is killed."""
    kind, directory, notes, seed = sys.argv[1:]
    WORK[kind](Path(directory), Notes(Path(notes)), random.Random(int(seed)))


if __name__ == "__main__":
    main()
