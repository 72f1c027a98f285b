"""Parses a configuration file into a tree of plain values, and expands environment variables in it.

The file is JSON or YAML, bounded in size, depth and number of values. Tags are refused, so no object is ever built from
one. An alias counts as many values as its anchor holds each time it is used, so a small file cannot expand into a huge
tree. A key given twice is refused. Unquoted scalars follow YAML 1.2's core schema: ``yes`` and ``12:30`` are strings, ``true`` is
a boolean.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from tgdav.config.fields import FromEnvironment, plain_scalar
from tgdav.config.validation_errors import Key, Problem, key_path, shown
from tgdav.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 24
MAX_VALUES = 10_000

_TAG = "tag:yaml.org,2002:"
_TAGS = {None, "!", _TAG + "str", _TAG + "map", _TAG + "seq"}
_QUOTED = re.compile(r"""\s*('(?!<)[^']{2,}'|"[^"]{2,}")""")
_INVALID = re.compile("[\0\ud800-\udfff]")
"""Characters that no file name, environment variable or UTF-8 output can hold."""
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?")
_ALLOWED_REFERENCE = "${NAME} of a variable that is set in the environment, or $${ for the characters ${"


class Document(NamedTuple):
    """``tree`` consists of dict, list, str, int, float, bool and None. ``is_json``: the text begins with ``{``."""

    tree: Any
    is_json: bool


class _Mapping(dict[str, Any]):
    """A mapping that records a key that occurred twice."""

    repeated: str | None = None

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, Any]]) -> "_Mapping":
        mapping = cls()
        for key, value in pairs:
            if key in mapping:
                mapping.repeated = key
            mapping[key] = value
        return mapping


def read_document(data: bytes, file: str) -> Document:
    """Parse ``data``. ``file`` is its name in error messages. Raises ConfigError."""
    if len(data) > MAX_BYTES:
        raise config_error(file, "(file)", "more than 1 MiB", "a file of at most 1 MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise config_error(file, f"byte {error.start}", "a byte that is not UTF-8", "text in UTF-8") from None
    is_json = text.lstrip().startswith("{")
    tree = _parse_json(text, file) if is_json else _parse_yaml(text, file)
    _check_bounds(tree, file)
    return Document(tree, is_json)


def config_error(file: str, key: str, found: str, allowed: str) -> ConfigError:
    """Return the error for a single problem."""
    return ConfigError([{"file": file, "key": key, "found": found, "allowed": allowed}])


def _parse_json(text: str, file: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Mapping.of)
    except json.JSONDecodeError:
        return _parse_yaml(text, file)  # a YAML flow mapping begins with a brace, too
    except RecursionError:
        raise _too_deep(file) from None
    except ValueError:
        raise config_error(file, "(file)", "a number with thousands of digits", "shorter numbers") from None


def _too_deep(file: str) -> ConfigError:
    return config_error(file, "(file)", f"more than {MAX_DEPTH} levels", f"at most {MAX_DEPTH} levels of nesting")


def _too_many(file: str) -> ConfigError:
    return config_error(file, "(file)", f"more than {MAX_VALUES} values", f"at most {MAX_VALUES} values")


def _parse_yaml(text: str, file: str) -> Any:
    try:
        return _Builder(text, file).document()
    except yaml.MarkedYAMLError as error:
        # The parser quotes the text at fault, which may be part of a secret.
        found = _QUOTED.sub("", error.problem or "a syntax error").removeprefix("found ")
        raise config_error(
            file, _position(error.problem_mark), found, "well-formed YAML; text with special characters in quotes"
        ) from None
    except yaml.reader.ReaderError as error:
        raise config_error(file, f"character {error.position}", "a control character", "printable text") from None


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "(file)"


class _Builder:
    """Builds the values of one YAML document from the parser's events.

    PyYAML's own constructors follow YAML 1.1 (``yes`` is true, ``12:30`` is 750) and expand aliases without a bound.
    """

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._anchors: dict[str, Any] = {}
        self._count = 0
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))

    def document(self) -> Any:
        """Return the value of the only document, None when the text is empty."""
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._error(after, "a second document", "one document")
        return value

    def _error(self, event: Any, found: str, allowed: str) -> ConfigError:
        return config_error(self._file, _position(event.start_mark), found, allowed)

    def _value(self, event: Any, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _too_many(self._file)
        if depth > MAX_DEPTH:
            raise _too_deep(self._file)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._error(event, "an alias (*) without its anchor", "an anchor before it, or text in quotes")
            return self._anchors[event.anchor]
        if event.tag not in _TAGS:
            raise self._error(event, "a tag (!)", "no tags; text with special characters in quotes")
        value = self._untagged(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = value
        return value

    def _untagged(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None and event.implicit[0]
            return plain_scalar(event.value) if plain else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        pairs = (
            (self._key(key), self._value(next(self._events), depth + 1)) for key in self._until(yaml.MappingEndEvent)
        )
        return _Mapping.of(pairs)

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error(event, "a key that is not a string", "strings as keys")
        return str(event.value)


def _check_bounds(tree: Any, file: str) -> None:
    """Raise ConfigError for too many values or levels, a key given twice, or a string with an invalid character."""
    waiting: list[tuple[Key, Any]] = [((), tree)]
    count = 0
    while waiting:
        key, value = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise _too_many(file)
        if len(key) > MAX_DEPTH:
            raise _too_deep(file)
        if isinstance(value, _Mapping):
            if value.repeated is not None:
                raise config_error(file, key_path((*key, value.repeated)), "this key twice", "each key once")
            waiting += [((*key, name), item) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [((*key, index), item) for index, item in enumerate(value)]
        strings = value if isinstance(value, _Mapping) else [value]
        if any(isinstance(each, str) and _INVALID.search(each) for each in strings):
            raise config_error(
                file, key_path(key), "an invalid character (NUL or unpaired surrogate)", "Unicode text without NUL"
            )


def expand(tree: Any, environment: Mapping[str, str], file: str) -> tuple[Any, list[Problem]]:
    """Return ``tree`` with each ``${NAME}`` in its values replaced by the environment's value, and what failed.

    ``$${`` becomes ``${``. Replacements are not searched for references again.
    """
    problems: list[Problem] = []

    def walk(value: Any, key: Key) -> Any:
        if isinstance(value, dict):
            return {name: walk(item, (*key, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*key, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return FromEnvironment(_REFERENCE.sub(lambda match: _replacement(match, environment), value))
        except KeyError:
            problem = {"file": file, "key": key_path(key), "found": shown(value, key), "allowed": _ALLOWED_REFERENCE}
            problems.append(problem)
            return None

    return walk(tree, ()), problems


def _replacement(match: re.Match[str], environment: Mapping[str, str]) -> str:
    """Return the replacement of one reference. Raises KeyError where there is none."""
    if match[0] == "$${":
        return "${"
    value = environment[match[1] or ""]
    if _INVALID.search(value):  # undecodable bytes of the environment are surrogates here
        raise KeyError(match[1])
    return value
