"""From bytes to a tree of plain values: JSON or YAML, bounded in size, depth and number of values.

No object is ever built from a tag, aliases count as often as they are used, and a key given twice is refused.
Unquoted scalars follow YAML's core schema: ``yes`` and ``12:30`` are text, ``true`` is a truth value.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from tgdav.config.fields import plain_scalar
from tgdav.config.problems import Key, key_path
from tgdav.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 24
MAX_VALUES = 10_000

_TAG = "tag:yaml.org,2002:"
_TAGS = {None, "!", _TAG + "str", _TAG + "map", _TAG + "seq"}
_QUOTED = re.compile(r"""\s*('(?!<)[^']{2,}'|"[^"]{2,}")""")


class Document(NamedTuple):
    """``tree`` is made of dict, list, str, int, float, bool and None; ``braces``: the text begins with ``{``."""

    tree: Any
    braces: bool


class _Mapping(dict[str, Any]):
    """A mapping that remembers a key that came twice."""

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
    """Return what ``data`` says; ``file`` is its name for errors. Raises ConfigError."""
    if len(data) > MAX_BYTES:
        raise refusal(file, "(file)", "more than 1 MiB", "a file of at most 1 MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(file, f"byte {error.start}", "a byte that is no UTF-8", "text in UTF-8") from None
    braces = text.lstrip().startswith("{")
    tree = _json(text, file) if braces else _yaml(text, file)
    _inspect(tree, file)
    return Document(tree, braces)


def refusal(file: str, key: str, found: str, allowed: str) -> ConfigError:
    """Return the error of one problem."""
    return ConfigError([{"file": file, "key": key, "found": found, "allowed": allowed}])


def _json(text: str, file: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Mapping.of)
    except json.JSONDecodeError:
        return _yaml(text, file)  # a YAML mapping may begin with a brace, too
    except RecursionError:
        raise _too_deep(file) from None
    except ValueError:
        raise refusal(file, "(file)", "a number of thousands of digits", "shorter numbers") from None


def _too_deep(file: str) -> ConfigError:
    return refusal(file, "(file)", f"more than {MAX_DEPTH} levels", f"at most {MAX_DEPTH} levels of nesting")


def _too_many(file: str) -> ConfigError:
    return refusal(file, "(file)", f"more than {MAX_VALUES} values", f"at most {MAX_VALUES} values")


def _yaml(text: str, file: str) -> Any:
    try:
        return _Builder(text, file).document()
    except yaml.MarkedYAMLError as error:
        # What stands in quotes may be a piece of a secret.
        found = _QUOTED.sub("", error.problem or "a syntax error").removeprefix("found ")
        raise refusal(
            file, _place(error.problem_mark), found, "well-formed YAML; text with special signs in quotes"
        ) from None
    except yaml.reader.ReaderError as error:
        raise refusal(file, f"character {error.position}", "a control character", "printable text") from None


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "(file)"


class _Builder:
    """Builds the values of one YAML document from its events."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._anchors: dict[str, Any] = {}
        self._count = 0
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))

    def document(self) -> Any:
        """Return the only document's value, None when the text holds none."""
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refusal(after, "a second document", "one document")
        return value

    def _refusal(self, event: Any, found: str, allowed: str) -> ConfigError:
        return refusal(self._file, _place(event.start_mark), found, allowed)

    def _value(self, event: Any, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _too_many(self._file)
        if depth > MAX_DEPTH:
            raise _too_deep(self._file)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._refusal(event, "an alias (*) without its anchor", "an anchor before it, or text in quotes")
            return self._anchors[event.anchor]
        if event.tag not in _TAGS:
            raise self._refusal(event, "a tag (!)", "no tags; text with special signs in quotes")
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
            raise self._refusal(event, "a key that is no text", "keys of text")
        return str(event.value)


def _inspect(tree: Any, file: str) -> None:
    """Refuse what is too large or too deep, a key given twice, and text that no file name or terminal can hold."""
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
                raise refusal(file, key_path((*key, value.repeated)), "this key twice", "each key once")
            waiting += [((*key, name), item) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [((*key, index), item) for index, item in enumerate(value)]
        if not all(map(_sound, value if isinstance(value, _Mapping) else [value])):
            raise refusal(file, key_path(key), "a NUL or half a surrogate pair", "text in Unicode without NUL")


def _sound(value: Any) -> bool:
    return not isinstance(value, str) or not re.search("[\0\ud800-\udfff]", value)
