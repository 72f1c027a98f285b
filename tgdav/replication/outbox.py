"""Sealed files that wait for the store: written once, durable before a row names them, sent byte for byte."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from tgdav.blobs.interface import BlobInfo, BlobStore, FileSource
from tgdav.db.database import Database
from tgdav.disk import Disk
from tgdav.errors import DamageError, LocalFailure, NoSpace
from tgdav.failpoints import failpoint
from tgdav.ids import BlobName

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAMED = """SELECT file FROM segments WHERE file IS NOT NULL
UNION SELECT file FROM checkpoint_parts WHERE file IS NOT NULL"""


class SealedFile:
    """The exact bytes of a blob in a file of the outbox. ``sync`` must return before a row names it.

    Raises NoSpace, LocalFailure when it cannot be written; then nothing is left of it.
    """

    def __init__(self, directory: Path, name: BlobName, data: bytes, disk: Disk) -> None:
        self.file = f"{name.hex()}.log"
        self.hash = blake3(data).digest()
        self.size = len(data)
        self._disk = disk
        self._path = directory / self.file
        try:
            self._descriptor: int | None = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            disk.write(self._descriptor, data, 0)
        except OSError as error:
            self.discard()
            if error.errno in _FULL:
                raise NoSpace("the local disk is full") from error
            raise LocalFailure(f"a sealed part of the log could not be written: {error.strerror}") from error

    def sync(self) -> None:
        """Make bytes and name durable. Raises LocalFailure."""
        failpoint("outbox.before-sync")
        try:
            assert self._descriptor is not None, "synced once"
            self._disk.sync(self._descriptor)
            self._disk.sync_directory(self._path.parent)
        except OSError as error:
            raise LocalFailure("a sealed part of the log could not be synced") from error
        finally:
            self._close()
        failpoint("outbox.after-sync")

    def discard(self) -> None:
        """Remove it: no row names it."""
        self._close()
        remove(self._path, self._disk)

    def _close(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", None), None
        if descriptor is not None:
            os.close(descriptor)


def send(store: BlobStore, directory: Path, file: str, name: BlobName, hash_: bytes, label: str) -> BlobInfo:
    """Append a sealed file to the store, after checking its hash.

    Raises DamageError when the file is not what was sealed, or the store has another blob of this name.
    """
    source = FileSource(directory / file)
    if blake3(source.read(0, source.size)).digest() != hash_:
        raise DamageError("a sealed part of the log was changed on the local disk", blob=name.hex())
    failpoint("outbox.before-append")
    info = store.append(name, source, label)
    failpoint("outbox.after-append")
    if info.size != source.size or info.label != label:
        raise DamageError(f"the store has another blob of the name {name.hex()}", blob=name.hex())
    return info


def remove(path: Path, disk: Disk) -> None:
    """Remove a file if it exists. Raises LocalFailure."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LocalFailure(f"a file of the outbox could not be removed: {error.strerror}") from error


def discard_unnamed(database: Database, files: Iterable[SealedFile]) -> None:
    """Remove those of ``files`` that no row names: recording them failed, but the transaction may have been committed."""
    named = _named(database)
    for file in files:
        if file.file not in named:
            file.discard()


def remove_leftovers(database: Database, directory: Path, disk: Disk) -> None:
    """Remove files of the outbox that no row names: left by a crash before the row was written or after it was removed."""
    named = _named(database)
    for path in directory.iterdir():
        if path.name not in named:
            remove(path, disk)


def _named(database: Database) -> set[str]:
    with database.reading() as connection:
        return {row[0] for row in connection.all(_NAMED)}
