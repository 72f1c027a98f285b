"""Which blobs this machine knows to be in the store, or to have been."""

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
    """Return what a blob of a kind is, for people."""
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
        """What it is, for people."""
        return role_of(self.kind)


class ExpectedBlobs(msgspec.Struct, frozen=True):
    """What should be in the store. ``suspected`` are blobs (hex) in which damage was met."""

    expected: list[KnownBlob]
    lost_packs: list[KnownBlob]
    suspected: set[str]

    @classmethod
    def of(cls, database: Database) -> "ExpectedBlobs":
        """Read it from the database: the blobs that were noted, and what else the log or a checkpoint names."""
        with database.reading() as connection:
            noted = connection.all(_BLOBS)
            packs = connection.all(_PACKS)
            segments = connection.all(_SEGMENTS)
            suspected = {row[0] for row in connection.all(_SUSPECTED)}
        names = {row[1] for row in noted}
        expected = [KnownBlob(*row[:5]) for row in noted if not row[5]]
        # Ids of a store that was set back are given out again: then the row of what was lost is another's now.
        for kind, found in ((BlobKind.PACK, packs), (BlobKind.SEGMENT, segments)):
            expected += [
                KnownBlob(blob, name, kind, size, hash_)
                for blob, name, size, hash_ in found
                if blob is not None and name not in names
            ]
        lost = [KnownBlob(0, name, BlobKind.PACK, size, hash_) for blob, name, size, hash_ in packs if blob is None]
        return cls(expected, lost, suspected)

    def expects(self, blob: KnownBlob) -> bool:
        """Whether a blob of another inventory is in this one."""
        return blob in self.expected or blob in self.lost_packs

    def hashes(self) -> dict[tuple[int, bytes], bytes | None]:
        """Return the hash that each expected blob should have, if it is known, by id and name."""
        return {(each.id, each.name): each.hash for each in self.expected}
