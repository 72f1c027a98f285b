"""Turns pydantic's validation errors into problems for users: key path, value found, values allowed.

No problem contains the value of a secret, or of anything that may be a secret under a wrong key.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tgdav.wording import closest

Key = tuple[str | int, ...]
Problem = dict[str, str]
"""The keys ``file``, ``key``, ``found`` and ``allowed`` of ``ConfigError.problems``."""

HIDDEN = "(hidden)"
TOP = "(top level)"
MAX_PROBLEMS = 50
_MAX_SHOWN = 80
_QUOTES = ("'", '"')
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET_KEYS = {"api_hash", "password", "proxy", "users"}
_PUBLIC_KEYS = {"name", "type", "host", "port", "username"}
_LONG_HEX = re.compile(r"\s*[0-9a-fA-F]{24,}\s*")


def key_path(key: Iterable[str | int]) -> str:
    """Return the key path as text, such as ``namespaces[1].access[0].machine``."""
    path = ""
    for part in key:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += ("." if path else "") + (part if _PLAIN_KEY.fullmatch(part) else _short(part))
    return path or TOP


def is_secret(key: Key) -> bool:
    """Return whether the value at ``key`` may be a secret: the key, or one above it, is for secrets."""
    return any(part in _SECRET_KEYS for part in key) and key[-1] not in _PUBLIC_KEYS


def holds_secrets(tree: Any, key: Key = ()) -> bool:
    """Return whether a configuration's tree, before references are expanded, contains a secret itself."""
    if isinstance(tree, Mapping):
        return any(holds_secrets(value, (*key, str(name))) for name, value in tree.items())
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return any(holds_secrets(value, (*key, number)) for number, value in enumerate(tree))
    return tree is not None and bool(key) and is_secret(key) and "${" not in str(tree)


def shown(value: Any, key: Key) -> str:
    """Return ``value`` as it may appear in an error message."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    if value is None:
        return "nothing"
    if is_secret(key) or (isinstance(value, str) and _LONG_HEX.fullmatch(value)):
        return HIDDEN
    if isinstance(value, str) and len(key) < 2:
        return "text"  # a string where a section is expected may be a secret with wrong indentation
    return _short(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def problems_of(error: ValidationError, model: type[BaseModel], tree: Any, file: str) -> list[Problem]:
    """Return one problem for each error of ``model``. ``tree`` holds the values as written in ``file``."""
    details = error.errors(include_url=False, include_input=False)[:MAX_PROBLEMS]
    return [_problem(detail, model, tree, file) for detail in details]


def _problem(detail: ErrorDetails, model: type[BaseModel], tree: Any, file: str) -> Problem:
    context = detail.get("ctx", {})
    key: Key = (*detail["loc"], *context.get("key", ()))
    if detail["type"] == "extra_forbidden":
        allowed = _known_key(str(key[-1]), _keys_of(model, key[:-1]))
        name = key_path(key[-1:])
        found = f"the key {name if name.startswith(_QUOTES) else repr(name)}"
    else:
        allowed = context.get("allowed") or _allowed(model, key)
        found = shown(_value_at(tree, key), key)
    return {"file": file, "key": key_path(key), "found": found, "allowed": allowed}


def _known_key(name: str, known: list[str]) -> str:
    proposed = closest(name, known)
    return f"a known key: did you mean '{proposed}'?" if proposed else "a known key: one of " + ", ".join(known)


def _value_at(tree: Any, key: Key) -> Any:
    for part in key:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _model_of(model: type[BaseModel], key: Key) -> type[BaseModel]:
    for part in key:
        if isinstance(part, str) and part in model.model_fields:
            model = _nested(model.model_fields[part].annotation) or model
    return model


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested(part))), None)


def _keys_of(model: type[BaseModel], key: Key) -> list[str]:
    return list(_model_of(model, key).model_fields)


def _allowed(model: type[BaseModel], key: Key) -> str:
    names = [part for part in key if isinstance(part, str)]
    owner = _model_of(model, tuple(names[:-1]))
    extra = owner.model_fields[names[-1]].json_schema_extra if names else None
    return str(extra["allowed"]) if isinstance(extra, dict) else "a mapping"
