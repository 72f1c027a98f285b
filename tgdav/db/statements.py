"""SQL text compiled from SQLAlchemy Core when a module is imported.

So the schema alone knows tables and columns, and hot paths execute a plain string. Parameters have names in our code but
numbers in the text: SQLite's binding may switch threads at each *name* it looks up, which with many threads costs more than
the statement itself.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import ClauseElement
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

DIALECT = sqlite.dialect(paramstyle="named")
_NAME = re.compile(r":([a-z_]\w*)", re.IGNORECASE)


class Statement(str):
    """SQL text with parameters ``?1``, ``?2`` …; ``in_order`` returns the values of a mapping by name in that order."""

    __slots__ = ("in_order", "text")

    text: str
    """The same text as an exact ``str``."""
    in_order: Callable[[Mapping[str, Any]], tuple[Any, ...]]


def numbered(text: str) -> Statement:
    """Return ``text`` with its ``:name`` parameters numbered. It must not contain ``:name`` within quotes."""
    names = list(dict.fromkeys(_NAME.findall(text)))
    statement = Statement(_NAME.sub(lambda match: f"?{names.index(match[1]) + 1}", text))
    statement.in_order, statement.text = _getter(names), str(statement)
    return statement


def plain(sql: str) -> str:
    """Return ``sql`` as an exact ``str``."""
    return sql.text if type(sql) is Statement else sql


def _getter(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) > 1:
        return cast(Callable[[Mapping[str, Any]], tuple[Any, ...]], itemgetter(*names))
    return lambda values: tuple(values[name] for name in names)


def compiled(statement: ClauseElement, columns: Iterable[str] | None = None) -> Statement:
    """Return ``statement`` as SQLite text with named parameters.

    For an insert or update without values, ``columns`` lists the columns that become parameters (None: all). Integers in the
    statement become literals. Raises ValueError for other constants: pass them as parameters.
    """
    names = None if columns is None else list(columns)
    result = cast(SQLCompiler, statement.compile(dialect=DIALECT, column_keys=names))
    text = str(result)
    for name, parameter in result.binds.items():
        if parameter.required:
            continue
        value = parameter.value
        if not isinstance(value, int):
            raise ValueError(f"parameter {name} has a value that is not an integer")
        text = re.sub(rf":{re.escape(name)}\b", str(int(value)), text)
    return numbered(text)
