"""Field types of the configuration. Each field describes its allowed values as text, which error messages quote.

The text is in the field's ``json_schema_extra["allowed"]``. An error that a validator raises may bring its own
(``ctx["allowed"]``), and the path from the model being validated to the offending key (``ctx["key"]``).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

MAX_LENGTH = 4096
_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]+$"

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}", re.ASCII)
_PREFIXED = re.compile(r"0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?", re.ASCII)


class FromEnvironment(str):
    """A string in which a reference was expanded. Unlike other strings, it may be read as a number or a boolean."""

    __slots__ = ()


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Return the value of an unquoted scalar in YAML's core schema (YAML 1.2.2, section 10.3.2)."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _PREFIXED.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def invalid(allowed: str, *key: str | int) -> PydanticCustomError:
    """Return the error for a value that is not allowed; ``key`` leads from the model being validated to it."""
    return PydanticCustomError("invalid", "invalid", {"allowed": allowed, "key": list(key)})


class Section(BaseModel):
    """A frozen mapping of known keys. A key whose value is null counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise invalid("a mapping with the keys " + ", ".join(cls.model_fields))
        known = cls.model_fields
        return {
            key: _typed(item, known[key].annotation) if key in known else item
            for key, item in value.items()
            if item is not None or key not in known
        }


def _typed(value: Any, annotation: Any) -> Any:
    if not isinstance(value, FromEnvironment):
        return value
    if not {annotation, *get_args(annotation)} & {int, float, bool}:
        return value
    parsed = plain_scalar(value)
    return value if parsed is None else parsed


def _extra(allowed: str) -> JsonDict:
    return {"allowed": allowed}


def integer(default: int | None, low: int, high: int) -> Any:
    """Return a field for an integer from ``low`` to ``high``."""
    return Field(
        default, strict=True, ge=low, le=high, json_schema_extra=_extra(f"a whole number from {low} to {high}")
    )


def gibibytes(default: float | None) -> Any:
    """Return a field for a size in GiB (1024³ bytes)."""
    allowed = "a number of GiB above 0, at most 1000000"
    return Field(default, strict=True, gt=0, le=1_000_000, json_schema_extra=_extra(allowed))


def boolean(default: bool) -> Any:
    """Return a field for true or false."""
    return Field(default, strict=True, json_schema_extra=_extra("true or false"))


def choice(default: Any, *names: str) -> Any:
    """Return a field for one of ``names``; the annotation is the ``Literal`` of the same names."""
    return Field(default, json_schema_extra=_extra("one of " + ", ".join(names)))


def string(default: Any = None, *, max_length: int = 128, excluding: str = "", allowed: str = "") -> Any:
    """Return a field for one line of text without the characters ``excluding``. Default ``...``: required."""
    pattern = _NO_CONTROL if not excluding else _NO_CONTROL.replace("[^", "[^" + re.escape(excluding))
    usual = f"text in one line, 1 to {max_length} characters" + (f", without {excluding}" if excluding else "")
    extra = _extra(allowed or usual)
    return Field(default, min_length=1, max_length=max_length, pattern=pattern, json_schema_extra=extra)


def custom(default: Any, allowed: str) -> Any:
    """Return a field whose annotation validates the value; ``allowed`` describes it. Default ``...``: required."""
    return Field(default, json_schema_extra=_extra(allowed))


def path(default: Any = None) -> Any:
    """Return a field for a path. Default ``...``: required."""
    return custom(default, "a path")


def _resolve_path(value: Any, information: ValidationInfo) -> Any:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or len(value) > MAX_LENGTH or not re.match(_NO_CONTROL, value):
        raise invalid("a path")
    context = information.context or {}
    if value == "~" or value.startswith("~/"):
        home = context.get("home")
        if not home:
            raise invalid("a path that does not begin with ~, since HOME is not set")
        return Path(home, value[2:])
    return Path(context.get("directory", ""), value)


FilePath = Annotated[Path, BeforeValidator(_resolve_path)]
"""A path. ``~/`` is the context's ``home``; a relative path starts from the context's ``directory``, if there is one."""
