"""Sealed files on their way to the store: written once, durable before they are named, sent byte for byte."""

import os
from pathlib import Path

from blake3 import blake3

from tgdav.blobs.contract import BlobInfo, BlobStore, FileSource
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.label import Label, encode_label
from tgdav.db.database import Database
from tgdav.disk import Disk
from tgdav.entropy import Entropy
from tgdav.errors import DamageError, LocalFailure, NoSpace
from tgdav.failpoints import reach
from tgdav.ids import BlobName


class SealedFile:
    """The exact bytes of a blob in a file of the outbox; ``sync`` before a row may name it."""

    def __init__(self, folder: Path, name: BlobName, data: bytes, disk: Disk) -> None:
        self.file = f"{name.hex()}.log"
        self.hash = blake3(data).digest()
        self.size = len(data)
        self._disk = disk
        self._path = folder / self.file
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            disk.write(self._descriptor, data, 0)
        except OSError as error:
            raise NoSpace("the local disk is full or failing") from error

    def sync(self) -> None:
        """Make bytes and name durable. Raises LocalFailure."""
        reach("outbox.before-sync")
        try:
            self._disk.sync(self._descriptor)
            self._disk.sync_folder(self._path.parent)
        except OSError as error:
            raise LocalFailure("a sealed part of the log could not be synced") from error
        finally:
            os.close(self._descriptor)
        reach("outbox.after-sync")


def seal_label(vault_keys: VaultKeys, label: Label, name: BlobName, entropy: Entropy) -> str:
    """Return the label's text."""
    return encode_label(label, vault_keys, name, entropy)


def send(store: BlobStore, folder: Path, file: str, name: BlobName, hash_: bytes, label: str) -> BlobInfo:
    """Append a sealed file, as it is; checked once more before it leaves.

    Raises DamageError when the file is not what was sealed, or another blob of this name lies in the store.
    """
    source = FileSource(folder / file)
    if blake3(source.read(0, source.size)).digest() != hash_:
        raise DamageError("a sealed part of the log was changed on the local disk", blob=name.hex())
    reach("outbox.before-append")
    info = store.append(name, source, label)
    reach("outbox.after-append")
    if info.size != source.size or info.label != label:
        raise DamageError(f"the store holds another blob under the name {name.hex()}", blob=name.hex())
    return info


def remove_leftovers(database: Database, folder: Path, disk: Disk) -> None:
    """Remove files of the outbox that no row names: a crash came between the file and its row, or after it."""
    with database.reading() as connection:
        rows = connection.all(
            "SELECT file FROM segments WHERE file IS NOT NULL"
            " UNION SELECT file FROM checkpoint_parts WHERE file IS NOT NULL"
        )
    named = {row[0] for row in rows}
    for path in folder.iterdir():
        if path.name not in named:
            disk.unlink(path)
