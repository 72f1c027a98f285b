"""SQL text from SQLAlchemy Core, made once when a module is imported.

The schema stays the one place that knows tables and columns, and hot paths pay nothing for it: what they execute is a
plain string with ``:name`` parameters.
"""

import re
from collections.abc import Iterable
from typing import cast

from sqlalchemy import ClauseElement
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

DIALECT = sqlite.dialect(paramstyle="named")


def compiled(statement: ClauseElement, columns: Iterable[str] | None = None) -> str:
    """Return ``statement`` as SQLite text with ``:name`` parameters.

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
    return text
