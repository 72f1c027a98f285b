"""Named msgpack values in the local database, beside the tree."""

from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects import sqlite

from tgdav.db import Connection, Transaction, compiled, schema
from tgdav.errors import DamageError

NAMESPACE = "namespace"
"""(name, mode, creation time in ns) of the namespace, from the first operation of its log."""

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


def everything(connection: Connection, prefix: str) -> dict[str, bytes]:
    """Return the encoded values of all keys that begin with ``prefix``."""
    rows = connection.all("SELECT key, value FROM settings WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
    return {str(key): bytes(value) for key, value in rows}


def put(transaction: Transaction, key: str, value: Any) -> None:
    """Set ``key`` to a value that msgpack can encode."""
    transaction.execute(_SET, {"key": key, "value": msgspec.msgpack.encode(value)})


def remove(transaction: Transaction, key: str) -> None:
    """Delete ``key``, if it exists."""
    transaction.execute(_DELETE, {"name": key})
