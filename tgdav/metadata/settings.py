"""Named msgpack values in the local database, beside the tree."""

from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects import sqlite

from tgdav.db import Connection, Transaction, compiled, schema
from tgdav.errors import DamageError

NAMESPACE = "namespace"
"""(name, mode, creation time in ns) of the namespace, from the first operation of its log."""
TRASH_POLICY = "policy.trash"
"""After how many days deleted entries are purged, by the log."""
VERSION_POLICY = "policy.versions"
"""How many earlier contents of each file are kept, by the log."""
LAST_INODE = "inode.last"
"""A number that is at least the largest inode number ever allocated."""
SWEPT = "history.swept"
"""Up to which row the past tables were swept since a snapshot was deleted last; see ``tgdav.metadata.sweep``."""
WITHDRAWN = "junk.withdrawn"
"""Ids of nodes and entries that became junk here, and that the log deleted: other machines have them in the trash."""
PRUNED = "versions.pruned"
"""(limit, inode): the limit that versions were pruned to, and the last file that was; None: all files were."""
TRASH_LOOK = "trash.look"
"""(wall clock in ns when the trash was last purged of what expired, ns that such a purge has been put off)."""
IN_CHECKPOINTS = (NAMESPACE, TRASH_POLICY, VERSION_POLICY, LAST_INODE)
"""The settings that belong to the namespace, not to this machine."""

_c = schema.settings.c
_GET = compiled(select(_c.value).where(_c.key == bindparam("name")))
_upsert = sqlite.insert(schema.settings)
_SET = compiled(_upsert.on_conflict_do_update(set_={"value": _upsert.excluded.value}))
_DELETE = compiled(delete(schema.settings).where(_c.key == bindparam("name")))


def get(connection: Connection, key: str, default: Any = None) -> Any:
    """Return the value of ``key``. Raises DamageError if it is not valid msgpack."""
    row = connection.one(_GET, {"name": key})
    if row is None:
        return default
    try:
        return msgspec.msgpack.decode(row[0])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamageError(f"the local setting {key} cannot be read", blob="database") from error


def of_namespace(connection: Connection) -> dict[str, bytes]:
    """Return the encoded values of the settings that travel in checkpoints."""
    found = ((key, connection.one(_GET, {"name": key})) for key in IN_CHECKPOINTS)
    return {key: bytes(row[0]) for key, row in found if row is not None}


def put(transaction: Transaction, key: str, value: Any) -> None:
    """Set ``key`` to a value that msgpack can encode."""
    transaction.execute(_SET, {"key": key, "value": msgspec.msgpack.encode(value)})


def change(transaction: Transaction, key: str, value: Any) -> bool:
    """As ``put``; return whether that changed the value."""
    is_new = bool(get(transaction, key) != value)
    if is_new:
        put(transaction, key, value)
    return is_new


def remove(transaction: Transaction, key: str) -> None:
    """Delete ``key``, if it exists."""
    transaction.execute(_DELETE, {"name": key})


def begin_sweep(transaction: Transaction) -> None:
    """Let the past tables be swept from the beginning, also if a sweep is at work just now."""
    # Another number than before: the step at work finds that its beginning is not the latest one.
    put(transaction, SWEPT, [get(transaction, SWEPT, [0])[0] + 1])
