"""``${NAME}`` in a value stands for the environment's; ``$${`` stands for ``${`` itself."""

import re
from collections.abc import Mapping
from typing import Any

from tgdav.config.fields import FromEnvironment
from tgdav.config.problems import Key, Problem, key_path, shown

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?")
_ALLOWED = "${NAME} of a variable that is set in the environment, or $${ for the two signs themselves"


def expand(tree: Any, environment: Mapping[str, str], file: str) -> tuple[Any, list[Problem]]:
    """Return ``tree`` with each reference in its values replaced (once, not again in what came in), and what failed."""
    problems: list[Problem] = []

    def walk(value: Any, key: Key) -> Any:
        if isinstance(value, dict):
            return {name: walk(item, (*key, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*key, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return FromEnvironment(_REFERENCE.sub(lambda match: _replaced(match, environment), value))
        except KeyError:
            found = shown(value, key)
            problems.append({"file": file, "key": key_path(key), "found": found, "allowed": _ALLOWED})
            return None

    return walk(tree, ()), problems


def _replaced(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match[0] == "$${":
        return "${"
    value = environment[match[1] or ""]
    if re.search("[\0\ud800-\udfff]", value):
        raise KeyError(match[1])
    return value
