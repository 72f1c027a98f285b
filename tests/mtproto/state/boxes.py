"""Message boxes: an account's (Saved Messages, private chats) and each channel's.

Ids grow with gaps, every event has the next pts. A box is named by the user id, or by the negated channel id; so are peers.
"""

import json
import random
from dataclasses import dataclass

from tests.mtproto.state.database import Database


@dataclass(frozen=True)
class Stored:
    """A message as kept. `sender` is a user id, 0 in a channel; `action` names a service message."""

    box: int
    id: int
    peer: int
    sender: int
    date: int
    edited: int | None
    text: str
    document: int | None
    action: str | None
    pinned: int


@dataclass(frozen=True)
class Event:
    """Something that took `count` steps of pts, the last of them `pts`: "new", "edit" or "delete" of `ids`."""

    pts: int
    count: int
    kind: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Draft:
    """A message to be."""

    peer: int
    sender: int
    date: int
    text: str = ""
    document: int | None = None
    action: str | None = None


class Boxes:
    """The ordered content of all boxes. `gaps` is the most ids that a message may skip (other chats take them)."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self._database = database
        self._chance = chance
        self.gaps = 3

    def _heads(self, box: int) -> tuple[int, int]:
        row = self._database.row("SELECT pts, last FROM boxes WHERE box=?", box)
        if row is None:
            self._database.run("INSERT INTO boxes VALUES (?,1,0,1)", box)
            return 1, 0
        return row["pts"], row["last"]

    def pts(self, box: int) -> int:
        """The box's current pts, at least 1."""
        return self._heads(box)[0]

    def append(self, box: int, draft: Draft) -> tuple[Stored, int]:
        """Adds one message; (it, its pts)."""
        with self._database.together():
            pts, last = self._heads(box)
            skip = self._chance.randint(0, self.gaps) if box > 0 and self.gaps else 0
            identity = last + 1 + skip
            self._insert(box, [(identity, draft)])
            self._database.run("UPDATE boxes SET last=? WHERE box=?", identity, box)
            event = self._note(box, 1, "new", [identity])
        assert event.pts == pts + 1
        return self.get(box, [identity])[identity], event.pts

    def plant(self, box: int, drafts: list[Draft]) -> list[int]:
        """Adds many at once, without events: who knew the box before finds the difference too long."""
        with self._database.together():
            pts, last = self._heads(box)
            identities = []
            for _ in drafts:
                last += 1 + (self._chance.randint(0, self.gaps) if box > 0 and self.gaps else 0)
                identities.append(last)
            self._insert(box, list(zip(identities, drafts, strict=True)))
            pts += len(drafts)
            self._database.run("UPDATE boxes SET pts=?, last=?, floor=? WHERE box=?", pts, last, pts, box)
        return identities

    def _insert(self, box: int, rows: list[tuple[int, Draft]]) -> None:
        self._database.many(
            "INSERT INTO messages (box, id, peer, sender, date, text, document, action) VALUES (?,?,?,?,?,?,?,?)",
            ((box, i, d.peer, d.sender, d.date, d.text, d.document, d.action) for i, d in rows),
        )
        for peer in {draft.peer for _, draft in rows}:
            self._count(box, peer, sum(draft.peer == peer for _, draft in rows))

    def _count(self, box: int, peer: int, change: int) -> None:
        sql = "INSERT INTO dialogs VALUES (?,?,?) ON CONFLICT DO UPDATE SET count = count + excluded.count"
        self._database.run(sql, box, peer, change)

    def _note(self, box: int, count: int, kind: str, ids: list[int]) -> Event:
        pts = self._heads(box)[0] + count
        self._database.run("UPDATE boxes SET pts=? WHERE box=?", pts, box)
        self._database.run("INSERT INTO events VALUES (?,?,?,?,?)", box, pts, count, kind, json.dumps(ids))
        return Event(pts, count, kind, tuple(ids))

    def get(self, box: int, ids: list[int]) -> dict[int, Stored]:
        """Those of `ids` that exist."""
        found = {}
        for identity in ids:
            row = self._database.row("SELECT * FROM messages WHERE box=? AND id=?", box, identity)
            if row is not None:
                found[identity] = Stored(*row)
        return found

    def edit(self, box: int, identity: int, text: str, date: int) -> Event:
        """Replaces a message's text."""
        with self._database.together():
            self._database.run("UPDATE messages SET text=?, edited=? WHERE box=? AND id=?", text, date, box, identity)
            return self._note(box, 1, "edit", [identity])

    def delete(self, box: int, ids: list[int]) -> tuple[Event | None, list[int]]:
        """Deletes what exists of `ids`; (the event, documents that no message names any more)."""
        found = list(self.get(box, sorted(set(ids))).values())
        if not found:
            return None, []
        with self._database.together():
            for message in found:
                self._database.run("DELETE FROM messages WHERE box=? AND id=?", box, message.id)
                self._count(box, message.peer, -1)
            event = self._note(box, len(found), "delete", [message.id for message in found])
        loose = {message.document for message in found if message.document is not None}
        used = {one for one in loose if self._database.number("SELECT count(*) FROM messages WHERE document=?", one)}
        return event, sorted(loose - used)

    def count(self, box: int, peer: int) -> int:
        """The messages of a dialog."""
        return self._database.number("SELECT count FROM dialogs WHERE box=? AND peer=?", box, peer)

    def dialogs(self, box: int) -> list[tuple[int, int]]:
        """(peer, newest message id) of each dialog that has messages."""
        rows = self._database.rows("SELECT peer FROM dialogs WHERE box=? AND count > 0", box)
        newest = "SELECT max(id) FROM messages WHERE box=? AND peer=?"
        return [(row["peer"], self._database.number(newest, box, row["peer"])) for row in rows]

    def ids(self, box: int, peer: int) -> list[int]:
        """All message ids of a dialog, oldest first."""
        return [
            row["id"]
            for row in self._database.rows("SELECT id FROM messages WHERE box=? AND peer=? ORDER BY id", box, peer)
        ]

    def since(self, box: int, pts: int, kept: int, limit: int) -> tuple[list[Event], bool] | None:
        """At most `limit` events after `pts` and whether those are all; None if some of them are no longer known."""
        row = self._database.row("SELECT pts, floor FROM boxes WHERE box=?", box)
        if row is not None and (pts < row["floor"] or row["pts"] - pts > kept):
            return None
        sql = "SELECT pts, count, kind, ids FROM events WHERE box=? AND pts>? ORDER BY pts LIMIT ?"
        rows = self._database.rows(sql, box, pts, limit + 1)
        events = [
            Event(each["pts"], each["count"], each["kind"], tuple(json.loads(each["ids"]))) for each in rows[:limit]
        ]
        return events, len(rows) <= limit
