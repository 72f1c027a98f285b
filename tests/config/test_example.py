"""config.example.yaml names every key, and shows each one's default."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from tgdav.config import Config, parse

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
COMMENTED = re.compile(r"^( *)#(?=[-a-z])", re.MULTILINE)
ENVIRONMENT = dict.fromkeys(["TELEGRAM_API_HASH", "PROXY_PASSWORD", "ANNA_PASSWORD"], "x") | {
    "TELEGRAM_API_ID": "5",
    "HOME": "/home/anna",
}


def _uncommented() -> bytes:
    return COMMENTED.sub(r"\1", EXAMPLE.read_text()).encode()


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model(part))), None)


def _compare(model: type[BaseModel], trees: list[dict[str, Any]], place: str) -> list[str]:
    """Return the keys that no tree has, or that have another value than the model's default."""
    wrong = []
    for name, field in model.model_fields.items():
        values = [tree[name] for tree in trees if name in tree]
        nested = _model(field.annotation)
        if not values:
            wrong.append(f"{place}{name}: missing")
        elif nested:
            below = [item for value in values for item in (value if isinstance(value, list) else [value])]
            wrong += _compare(nested, below, f"{place}{name}.")
        elif place.startswith("namespaces") or field.is_required() or field.default is None:
            continue
        elif values != [field.default]:
            wrong.append(f"{place}{name}: {values}")
    return wrong


def test_as_it_is_the_example_changes_nothing():
    assert parse(EXAMPLE.read_bytes(), EXAMPLE, {}).config == Config()


def test_every_key_is_listed_with_its_default():
    loaded = parse(_uncommented(), EXAMPLE, ENVIRONMENT)
    assert _compare(Config, [loaded.raw], "") == []


@pytest.mark.parametrize("line", ["  prefetch_count: 3\n", "  #path: ~/.cache/tgdav\n"])
def test_the_comparison_notices_a_missing_key(line):
    text = EXAMPLE.read_text()
    assert line in text
    shorter = COMMENTED.sub(r"\1", text.replace(line, "")).encode()
    assert len(_compare(Config, [parse(shorter, EXAMPLE, ENVIRONMENT).raw], "")) == 1
