"""Whatever a file holds, it loads or is refused with ConfigError."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.test_load import TELEGRAMFS_1, TELEGRAMFS_2
from tgdav.cli.commands.configuration import values_of
from tgdav.config import Config, LoadedConfig, load, migrate, notices, parse
from tgdav.errors import ConfigError

PATH = Path("/etc/tgdav/config.yaml")
ENVIRONMENT = {"HOME": "/home/anna", "TELEGRAM_APP_ID": "5", "TELEGRAM_APP_HASH": "abc"}


def _names(model) -> set[str]:
    return {
        name
        for key, field in model.model_fields.items()
        for name in ({key} | (_names(field.annotation) if hasattr(field.annotation, "model_fields") else set()))
    }


NAMES = [*sorted(_names(Config)), "name", "password", "host", "machine", "permissions", "max_size", "users"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["auto", "${HOME}", "$${", "${", "read", "distributed", 2, 1, "socks5://a:b@c:1", "~/x", "~"])
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=6),
    max_leaves=30,
)


def _attempt(data: bytes) -> LoadedConfig | None:
    try:
        loaded = parse(data, PATH, ENVIRONMENT)
    except ConfigError:
        return None
    json.dumps(values_of(loaded.config, secrets=True))
    notices(loaded.config)
    assert parse(migrate(loaded).encode(), PATH, ENVIRONMENT).config == loaded.config
    return loaded


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), TREES, max_size=8) | TREES)
def test_any_tree_loads_or_is_refused(tree):
    _attempt(json.dumps(tree).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="{}[]:,-?&*!|>'\"%@`#$ \n\tab1", max_size=60).map(str.encode))
def test_any_bytes_load_or_are_refused(data):
    _attempt(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_valid_file_with_damage_loads_or_is_refused(data):
    good = data.draw(st.sampled_from([TELEGRAMFS_2, json.dumps(TELEGRAMFS_1)])).encode()
    at = data.draw(st.integers(0, len(good)))
    cut = data.draw(st.integers(0, 3))
    _attempt(good[:at] + data.draw(st.binary(max_size=3)) + good[at + cut :])


def test_the_fuzz_reaches_good_files():
    assert _attempt(TELEGRAMFS_2.encode())
    assert _attempt(json.dumps(TELEGRAMFS_1).encode())


def test_load_and_parse_agree(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TELEGRAMFS_1))
    assert load(path, {}) == parse(path.read_bytes(), path, {})
