"""SQL text from SQLAlchemy Core, made once when a module is imported.

The schema stays the one place that knows tables and columns, and hot paths pay nothing for it: what they execute is a
string, with parameters by name. SQLite's binding gives other threads a chance at each *name* it looks up, which with many
threads costs more than the statement; so the text has numbers, and names are put in order before.
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
    """SQL text whose parameters ``?1``, ``?2`` … have names; ``in_order`` puts a mapping's values into their order."""

    __slots__ = ("in_order", "text")

    text: str
    """The same, of the type itself."""
    in_order: Callable[[Mapping[str, Any]], tuple[Any, ...]]


def numbered(text: str) -> Statement:
    """Return ``text``, which has ``:name`` parameters and no such thing within quotes, with numbered ones."""
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

    For an insert or update without values, ``columns`` names those that become parameters (None: all). Integers written
    into the statement become literals; other constants are refused with ValueError: give them as parameters.
    """
    names = None if columns is None else list(columns)
    result = cast(SQLCompiler, statement.compile(dialect=DIALECT, column_keys=names))
    text = str(result)
    for name, parameter in result.binds.items():
        if parameter.required:
            continue
        value = parameter.value
        if not isinstance(value, int):
            raise ValueError(f"parameter {name} has a value that is no integer")
        text = re.sub(rf":{re.escape(name)}\b", str(int(value)), text)
    return numbered(text)
