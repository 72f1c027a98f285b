"""Authorization keys: one a client and DC, with its salt, its layer and its login.

They outlive connections and restarts.
"""

import os
import struct
from dataclasses import dataclass

from tests.mtproto.state.database import Database
from tests.mtproto.wire.crypt import key_id


@dataclass
class Authorization:
    """A key at a DC.

    `pending` is the user whose password is still to come; `refusal` ("code TEXT") is the end of the login.
    """

    id: bytes
    dc: int
    key: bytes
    salt: int
    user: int | None = None
    pending: int | None = None
    layer: int | None = None
    refusal: str | None = None


def fresh_salt() -> int:
    """A server salt."""
    (salt,) = struct.unpack("<q", os.urandom(8))
    return int(salt) or 1


class Authorizations:
    """All keys; the objects are shared, so every connection of a key sees the same login."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[int, bytes], Authorization] = {}
        for row in database.rows("SELECT id, dc, key, salt, user, pending, layer, refusal FROM auth_keys"):
            self._known[row["dc"], row["id"]] = Authorization(*row)

    def add(self, dc: int, key: bytes) -> Authorization:
        """Registers the key of a finished exchange."""
        made = Authorization(key_id(key), dc, key, fresh_salt())
        self._known[dc, made.id] = made
        self.save(made)
        return made

    def find(self, dc: int, name: bytes) -> Authorization | None:
        """The key of that id at that DC, or None."""
        return self._known.get((dc, name))

    def save(self, it: Authorization) -> None:
        """Writes a changed key down."""
        values = (it.id, it.dc, it.key, it.salt, it.user, it.pending, it.layer, it.refusal)
        self._database.run("INSERT OR REPLACE INTO auth_keys VALUES (?,?,?,?,?,?,?,?)", *values)

    def of(self, user: int) -> list[Authorization]:
        """The keys that are logged in as `user`."""
        return [it for it in self._known.values() if it.user == user]

    def log_in(self, it: Authorization, user: int) -> None:
        """The key is the user's from here on."""
        it.user, it.pending, it.refusal = user, None, None
        self.save(it)

    def end(self, it: Authorization, refusal: str | None) -> None:
        """Ends the login of a key; later calls get `refusal`, or AUTH_KEY_UNREGISTERED."""
        it.user, it.pending, it.refusal = None, None, refusal
        self.save(it)

    def forget(self, it: Authorization) -> None:
        """Forgets the key itself: transport error -404 from here on."""
        self._known.pop((it.dc, it.id), None)
        self._database.run("DELETE FROM auth_keys WHERE id=? AND dc=?", it.id, it.dc)
