"""What the configuration's fields are made of: each says in plain words what it allows.

A refusal carries these words (``ctx["allowed"]``) and, where it concerns another key than the one that was being
read, that key's place below (``ctx["key"]``).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

MAX_TEXT = 4096
_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]+$"

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}", re.ASCII)
_PREFIXED = re.compile(r"0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?", re.ASCII)


class FromEnvironment(str):
    """Text in which a reference was replaced; unlike other text it may stand for a number or a truth value."""

    __slots__ = ()


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Return what an unquoted scalar means in YAML's core schema (YAML 1.2.2, section 10.3.2)."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _PREFIXED.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def refused(allowed: str, *key: str | int) -> PydanticCustomError:
    """Return the error of a value that may not be; ``key`` leads from the model being read to the culprit."""
    return PydanticCustomError("refused", "refused", {"allowed": allowed, "key": list(key)})


class Section(BaseModel):
    """A frozen mapping of known keys. A key without a value (null) is a key that is not there."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise refused("a mapping with the keys " + ", ".join(cls.model_fields))
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
    meant = plain_scalar(value)
    return value if meant is None else meant


def _allowing(words: str) -> JsonDict:
    return {"allowed": words}


def whole(default: int | None, low: int, high: int) -> Any:
    """Return a field of whole numbers, ``low`` and ``high`` included."""
    return Field(
        default, strict=True, ge=low, le=high, json_schema_extra=_allowing(f"a whole number from {low} to {high}")
    )


def gibibytes(default: float | None) -> Any:
    """Return a field of sizes in GiB (1024³ bytes)."""
    allowed = "a number of GiB above 0, at most 1000000"
    return Field(default, strict=True, gt=0, le=1_000_000, json_schema_extra=_allowing(allowed))


def switch(default: bool) -> Any:
    """Return a field that is on or off."""
    return Field(default, strict=True, json_schema_extra=_allowing("true or false"))


def choice(default: Any, *names: str) -> Any:
    """Return a field of fixed words; the annotation is the ``Literal`` of the same words."""
    return Field(default, json_schema_extra=_allowing("one of " + ", ".join(names)))


def text(default: Any = None, *, longest: int = 128, excluding: str = "", allowed: str = "") -> Any:
    """Return a field of one line of text; ``excluding`` are characters that it may not hold. ``...``: required."""
    pattern = _NO_CONTROL if not excluding else _NO_CONTROL.replace("[^", "[^" + re.escape(excluding))
    usual = f"text in one line, 1 to {longest} characters" + (f", without {excluding}" if excluding else "")
    extra = _allowing(allowed or usual)
    return Field(default, min_length=1, max_length=longest, pattern=pattern, json_schema_extra=extra)


def words(default: Any, allowed: str) -> Any:
    """Return a field whose type checks itself; ``allowed`` says what it takes. ``...``: required."""
    return Field(default, json_schema_extra=_allowing(allowed))


def place(default: Any = None) -> Any:
    """Return a field for a path. ``...``: required."""
    return words(default, "a path")


def _path(value: Any, information: ValidationInfo) -> Any:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT or not re.match(_NO_CONTROL, value):
        raise refused("a path")
    context = information.context or {}
    if value == "~" or value.startswith("~/"):
        home = context.get("home")
        if not home:
            raise refused("a path that does not begin with ~, for HOME is not set")
        return Path(home, value[2:])
    return Path(context.get("folder", ""), value)


FilePath = Annotated[Path, BeforeValidator(_path)]
"""A path. ``~/`` is the context's ``home``; a relative one starts from the context's ``folder``, if there is one."""
