"""The blobs that the store should have, by this machine's database."""

import msgspec

from tgdav.crypto.label import BlobKind
from tgdav.db.database import Database
from tgdav.ids import BlobName
from tgdav.replication import sql

_ROLES = {sql.HEADER: "header", BlobKind.PACK: "pack", BlobKind.SEGMENT: "segment", BlobKind.CHECKPOINT: "checkpoint"}
_BLOBS = "SELECT id, name, kind, size, hash, gone FROM blobs ORDER BY id"
_PACKS = "SELECT blob, name, size, hash FROM packs WHERE state = 3"
_SEGMENTS = "SELECT blob, name, size, hash FROM segments WHERE blob IS NOT NULL"
_SUSPECTED = "SELECT blob FROM damage UNION SELECT lower(hex(name)) FROM packs WHERE damaged = 1 AND state = 3"


def role_of(kind: int) -> str:
    """Return the name of a kind of blob, for people."""
    return _ROLES.get(kind, "blob")


class KnownBlob(msgspec.Struct, frozen=True):
    """A blob that should be in the store; ``id`` 0 for one that was never seen there."""

    id: int
    name: BlobName
    kind: int
    size: int
    hash: bytes | None

    @property
    def role(self) -> str:
        """The name of its kind, for people."""
        return role_of(self.kind)


class ExpectedBlobs(msgspec.Struct, frozen=True):
    """``expected`` by id; ``lost_packs``; and ``suspected``: names (hex) of blobs that are recorded as damaged."""

    expected: list[KnownBlob]
    lost_packs: list[KnownBlob]
    suspected: set[str]

    @classmethod
    def of(cls, database: Database) -> "ExpectedBlobs":
        """Read them from the database: the recorded blobs, and those that the log or a checkpoint names besides."""
        with database.reading() as connection:
            recorded = connection.all(_BLOBS)
            packs = connection.all(_PACKS)
            segments = connection.all(_SEGMENTS)
            suspected = {row[0] for row in connection.all(_SUSPECTED)}
        names = {row[1] for row in recorded}
        expected = [KnownBlob(*row[:5]) for row in recorded if not row[5]]
        # A store that was set back assigns ids again: then the row of a lost blob belongs to another one.
        for kind, found in ((BlobKind.PACK, packs), (BlobKind.SEGMENT, segments)):
            expected += [
                KnownBlob(blob, name, kind, size, hash_)
                for blob, name, size, hash_ in found
                if blob is not None and name not in names
            ]
        lost = [KnownBlob(0, name, BlobKind.PACK, size, hash_) for blob, name, size, hash_ in packs if blob is None]
        return cls(expected, lost, suspected)

    def expects(self, blob: KnownBlob) -> bool:
        """Whether a blob is expected here, or known to be lost."""
        return blob in self.expected or blob in self.lost_packs

    def hashes(self) -> dict[tuple[int, bytes], bytes | None]:
        """Return the hash that each expected blob should have, if it is known, by id and name."""
        return {(each.id, each.name): each.hash for each in self.expected}
