"""Paging through a dialog as messages.getHistory and messages.search do (https://core.telegram.org/api/offsets)."""

from dataclasses import dataclass

from tests.mtproto.state.boxes import Stored
from tests.mtproto.state.database import Database


@dataclass(frozen=True)
class Page:
    """`limit` messages from `add_offset` places after the first one older than `offset_id` or `offset_date`."""

    offset_id: int = 0
    offset_date: int = 0
    add_offset: int = 0
    limit: int = 100
    max_id: int = 0
    min_id: int = 0


@dataclass(frozen=True)
class Wanted:
    """What a search looks for: a word of the text, only documents, only pinned."""

    word: str = ""
    documents: bool = False
    pinned: bool = False


def page(database: Database, box: int, peer: int, asked: Page, wanted: Wanted | None = None) -> list[Stored]:
    """Newest first.

    `min_id` and `max_id` filter the page that the offsets chose and do not move it, as Telegram's do.
    """
    where, values = _conditions(box, peer, wanted or Wanted())
    anchor = _anchor(database, box, peer, asked)
    older = f"SELECT * FROM messages WHERE {where} AND id < ? ORDER BY id DESC LIMIT ? OFFSET ?"
    newer = f"SELECT * FROM messages WHERE {where} AND id >= ? ORDER BY id LIMIT ?"
    rows = []
    if asked.add_offset < 0:
        ahead = database.rows(newer, *values, anchor, -asked.add_offset)
        clipped = -asked.add_offset - len(ahead)
        rows = ahead[::-1][: max(asked.limit - clipped, 0)]
        rest = asked.limit + asked.add_offset
    else:
        rest = asked.limit
    if rest > 0:
        rows += database.rows(older, *values, anchor, rest, max(asked.add_offset, 0))
    found = [Stored(*row) for row in rows]
    return [it for it in found if (not asked.max_id or it.id < asked.max_id) and it.id > asked.min_id]


def matches(database: Database, box: int, peer: int, wanted: Wanted) -> int:
    """How many messages of the dialog a search would find in all."""
    where, values = _conditions(box, peer, wanted)
    return database.number(f"SELECT count(*) FROM messages WHERE {where}", *values)


def _anchor(database: Database, box: int, peer: int, asked: Page) -> int:
    if asked.offset_id:
        return asked.offset_id
    if asked.offset_date:
        sql = "SELECT min(id) FROM messages WHERE box=? AND peer=? AND date>=?"
        if (first := database.number(sql, box, peer, asked.offset_date)) > 0:
            return first
    return 1 << 31


def _conditions(box: int, peer: int, wanted: Wanted) -> tuple[str, list[object]]:
    """Search knows whole words of the text only: never file names, never parts of words."""
    where, values = "box=? AND peer=?", [box, peer]
    parts: list[object] = list(values)
    if wanted.documents:
        where += " AND document IS NOT NULL"
    if wanted.pinned:
        where += " AND pinned"
    if wanted.word:
        where += " AND ' ' || lower(text) || ' ' LIKE ? ESCAPE '!'"
        word = wanted.word.lower()
        for special in "!%_":
            word = word.replace(special, "!" + special)
        parts.append(f"% {word} %")
    return where, parts
