"""Loads a configuration file of version 1 or 2."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tgdav.config.document import MAX_BYTES, config_error, expand, read_document
from tgdav.config.model import Config
from tgdav.config.validation_errors import MAX_PROBLEMS, Problem, problems_of
from tgdav.config.version1 import Version1, to_version2
from tgdav.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and its source.

    ``version`` is the file's (1 or 2). ``raw`` is its tree with the keys of version 2, before references are expanded;
    ``text`` is the content of the file. Both may hold secrets.
    """

    config: Config
    path: Path
    version: int
    raw: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)


def load(path: Path, environment: Mapping[str, str]) -> LoadedConfig:
    """Load the file at ``path``; ``environment`` holds the values of ``${NAME}`` and, as ``HOME``, of ``~``.

    Relative paths in the file start from its directory. Raises ConfigError, with all problems found, for a file that
    cannot be read or is not valid.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise config_error(str(path), "(file)", _reason(error), "") from None
    return parse(data, path, environment)


def _reason(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return "no such file"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
    return "not a valid file name"  # a NUL in it


def parse(data: bytes, path: Path, environment: Mapping[str, str]) -> LoadedConfig:
    """Parse the content of a file, as ``load`` does, without I/O."""
    file = str(path)
    tree, is_json = read_document(data, file)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise config_error(file, "(top level)", "not a mapping", "sections, such as 'cache:' with its keys below")
    context = {"directory": path.absolute().parent, "home": environment.get("HOME")}
    expanded, problems = expand(tree, environment, file)
    version = _version(tree, is_json)
    if version == 1:
        old = _validated(Version1, expanded, tree, context, file, problems)
        tree, expanded = to_version2(tree, old), to_version2(expanded, old)
    config = _validated(Config, expanded, tree, context, file, problems)
    return LoadedConfig(config, path, version, tree, data.decode("utf-8-sig"))


def _version(tree: Mapping[str, Any], is_json: bool) -> int:
    """Return the version that the file states. JSON without one that has only sections of version 1 is version 1."""
    given = tree.get("version")
    if given is None:
        newer = Config.model_fields.keys() - Version1.model_fields.keys()
        return 1 if is_json and not newer & tree.keys() else 2
    return 1 if given == 1 and given is not True else 2  # True == 1 in Python


def _validated(
    model: type[Model], expanded: Any, tree: Any, context: dict[str, Any], file: str, problems: list[Problem]
) -> Model:
    try:
        result = model.model_validate(expanded, context=context)
    except ValidationError as error:
        known = {problem["key"] for problem in problems}
        more = [problem for problem in problems_of(error, model, tree, file) if problem["key"] not in known]
        raise ConfigError([*problems, *more][:MAX_PROBLEMS]) from None
    if problems:
        raise ConfigError(problems[:MAX_PROBLEMS])
    return result


def migrate(loaded: LoadedConfig) -> str:
    """Return the YAML of version 2 for a version 1 file; the unchanged text of a version 2 file.

    Loaded from the same directory, it gives an equal Config. ``${NAME}`` is kept, except in ``cache.max_size``: its unit
    changes, so the value is written.
    """
    if loaded.version == 2:
        return loaded.text
    lines = []
    for section, keys in loaded.raw.items():
        if not isinstance(keys, dict):
            lines.append(f"{section}: {_scalar(keys)}")
            continue
        lines += [f"\n{section}:" if keys else f"\n{section}: {{}}"]
        lines += [f"  {key}: {_scalar(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return yaml.safe_dump(value, default_style='"', width=float("inf")).rstrip("\n")
    return json.dumps(value)
