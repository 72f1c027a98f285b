"""Parts on their way to becoming a document (https://core.telegram.org/api/files#uploading-files)."""

from dataclasses import dataclass
from hashlib import md5

from tests.mtproto.errors import bad
from tests.mtproto.rules import PART_MAX, SMALL_FILE_MAX
from tests.mtproto.state.accounts import random_long
from tests.mtproto.state.database import Database
from tests.mtproto.state.spool import Spool


@dataclass(frozen=True)
class Finished:
    """A complete upload: where its bytes lie. `offsets` are the starts of its parts in the spool file."""

    spool: str
    part_size: int
    offsets: list[int]
    size: int


class Uploads:
    """Uploads of all users, by (user, file id)."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool
        self._names: dict[tuple[int, int], tuple[str, bool]] = {}

    def save(self, user: int, file: int, part: int, total: int | None, data: bytes, now: int) -> None:
        """Keeps one part. `total` is the announced number of a big file (-1: unknown yet), None for a small file."""
        if not data:
            raise bad("FILE_PART_EMPTY")
        if len(data) > PART_MAX:
            raise bad("FILE_PART_TOO_BIG")
        if (total is None or part != total - 1) and total != -1 and total is not None and not _size_allowed(len(data)):
            raise bad("FILE_PART_SIZE_INVALID")
        if total is not None and total > 0 and part >= total:
            raise bad("FILE_PART_INVALID")
        name = self._open(user, file, total, now)
        start = self._spool.append(name, data)
        self._database.run("INSERT OR REPLACE INTO parts VALUES (?,?,?,?,?)", user, file, part, start, len(data))

    def _open(self, user: int, file: int, total: int | None, now: int) -> str:
        known = self._names.get((user, file))
        if known is None:
            row = self._database.row("SELECT spool, big FROM uploads WHERE user=? AND file=?", user, file)
            known = (
                (row["spool"], bool(row["big"])) if row is not None else (f"{random_long():016x}", total is not None)
            )
            if row is None:
                values = (user, file, known[1], total, None, known[0], now)
                self._database.run("INSERT INTO uploads VALUES (?,?,?,?,?,?,?)", *values)
            self._names[user, file] = known
        if known[1] != (total is not None):
            raise bad("FILE_PARTS_INVALID")
        if total is not None and total > 0:
            self._database.run(
                "UPDATE uploads SET total=? WHERE user=? AND file=? AND total<>?", total, user, file, total
            )
        return known[0]

    def finish(self, user: int, file: int, parts: int, big: bool, checksum: str, limit: int) -> Finished:
        """Checks that the upload is whole and hands it over; the refusals are those that sendMedia gives."""
        if not 0 < parts <= limit:
            raise bad("FILE_PARTS_INVALID")
        rows = self._database.rows(
            "SELECT part, start, size FROM parts WHERE user=? AND file=? ORDER BY part", user, file
        )
        found = {row["part"]: (row["start"], row["size"]) for row in rows}
        for part in range(parts):
            if part not in found:
                raise bad(f"FILE_PART_{part}_MISSING")
        upload = self._database.row("SELECT spool, big, total FROM uploads WHERE user=? AND file=?", user, file)
        assert upload is not None
        if len(found) != parts or bool(upload["big"]) != big or (upload["total"] or -1) not in (-1, parts):
            raise bad("FILE_PARTS_INVALID")
        sizes = [found[part][1] for part in range(parts)]
        _check_sizes(sizes, big)
        done = Finished(upload["spool"], sizes[0], [found[part][0] for part in range(parts)], sum(sizes))
        if not big and checksum:
            self._check_digest(done, sizes, checksum)
        return done

    def _check_digest(self, done: Finished, sizes: list[int], checksum: str) -> None:
        digest = md5(usedforsecurity=False)
        for start, size in zip(done.offsets, sizes, strict=True):
            digest.update(self._spool.read(done.spool, start, size))
        if digest.hexdigest() != checksum.lower():
            raise bad("MD5_CHECKSUM_INVALID")

    def taken(self, user: int, file: int) -> None:
        """The upload has become a document: its parts are gone, its spool file stays."""
        self._drop(user, file)

    def forget_part(self, user: int, file: int, part: int) -> None:
        """Loses one part."""
        self._database.run("DELETE FROM parts WHERE user=? AND file=? AND part=?", user, file, part)

    def pending(self, user: int) -> list[int]:
        """File ids under way."""
        return [row["file"] for row in self._database.rows("SELECT file FROM uploads WHERE user=?", user)]

    def expire(self, before: int) -> int:
        """Forgets uploads begun before a time; how many."""
        rows = self._database.rows("SELECT user, file, spool FROM uploads WHERE touched < ?", before)
        for row in rows:
            self._drop(row["user"], row["file"])
            self._spool.remove(row["spool"])
        return len(rows)

    def _drop(self, user: int, file: int) -> None:
        self._names.pop((user, file), None)
        self._database.run("DELETE FROM parts WHERE user=? AND file=?", user, file)
        self._database.run("DELETE FROM uploads WHERE user=? AND file=?", user, file)


def _size_allowed(size: int) -> bool:
    return size % 1024 == 0 and PART_MAX % size == 0


def _check_sizes(sizes: list[int], big: bool) -> None:
    if any(size != sizes[0] for size in sizes[:-1]) or sizes[-1] > sizes[0]:
        raise bad("FILE_PART_SIZE_CHANGED")
    if len(sizes) > 1 and not _size_allowed(sizes[0]):
        raise bad("FILE_PART_SIZE_INVALID")
    if not big and sum(sizes) > SMALL_FILE_MAX:
        raise bad("FILE_PARTS_INVALID")
