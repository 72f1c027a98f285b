from pathlib import Path

import pytest

from tgdav.config import Config, Places, namespace_of, notices, require_built
from tgdav.errors import UsageError

HOME = Path("/srv/drive")


def test_everything_is_under_tgdav_home():
    places = Places.from_environment({"TGDAV_HOME": str(HOME)})
    assert places == Places(
        HOME, HOME / "config.yaml", False, HOME / "state", HOME / "cache", HOME / "store", HOME / "vault.key"
    )
    assert places.lock_file.parent == places.control_note.parent == HOME / "state"


def test_without_a_home_the_platforms_folders_serve(monkeypatch, tmp_path):
    for kind in ("CONFIG", "DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind))
    places = Places.from_environment({"TGDAV_HOME": ""})
    assert places.home is None
    assert places.config_file == tmp_path / "CONFIG" / "tgdav" / "config.yaml"
    assert places.state.is_relative_to(tmp_path / "STATE" / "tgdav")
    assert places.cache.is_relative_to(tmp_path / "CACHE" / "tgdav")
    assert places.store.is_relative_to(tmp_path / "DATA" / "tgdav")
    assert places.key_file.is_relative_to(tmp_path / "DATA" / "tgdav")


def test_the_option_goes_before_the_variable_and_that_before_home():
    environment = {"TGDAV_HOME": str(HOME), "TGDAV_CONFIG": "/etc/tgdav.yaml"}
    assert Places.from_environment(environment, Path("/opt/c.yaml")).config_file == Path("/opt/c.yaml")
    named = Places.from_environment(environment)
    assert (named.config_file, named.config_named) == (Path("/etc/tgdav.yaml"), True)
    assert named.state == HOME / "state"


def test_relative_places_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Places.from_environment({"TGDAV_HOME": "a"}).state == tmp_path / "a" / "state"
    assert Places.from_environment({}, Path("c.yaml")).config_file == tmp_path / "c.yaml"


@pytest.mark.parametrize("length", [469, 3600, 5000])
def test_too_long_a_home_is_refused(length):
    home = "/" + "x/" * (length // 2)
    with pytest.raises(UsageError, match="at most 468") as caught:
        Places.from_environment({"TGDAV_HOME": home})
    assert len(caught.value.message) < 200


def test_the_configuration_moves_cache_and_store():
    places = Places.from_environment({"TGDAV_HOME": str(HOME)})
    assert places.for_config(Config()) == places
    moved = Config.model_validate({"cache": {"path": "/c"}, "storage": {"directory": {"path": "/s"}}})
    assert (places.for_config(moved).cache, places.for_config(moved).store) == (Path("/c"), Path("/s"))


def test_only_the_namespace_that_is_opened_must_be_built():
    config = Config.model_validate({"namespaces": [{"name": "private"}, {"name": "shared", "type": "distributed"}]})
    require_built(config)
    require_built(config, "private")
    with pytest.raises(UsageError, match="'shared' needs the mode distributed"):
        require_built(config, "shared")
    with pytest.raises(UsageError, match="private, shared"):
        require_built(config, "other")


def test_without_namespaces_the_mode_decides():
    require_built(Config(), "default")
    config = Config.model_validate({"distribution": {"mode": "master-replica"}})
    assert namespace_of(config).name == "default"
    with pytest.raises(UsageError, match="master-replica"):
        require_built(config)


def test_notices_name_what_is_not_used_or_lacking():
    assert notices(Config()) == []
    config = Config.model_validate(
        {
            "telegram": {"api_id": 5, "session_file": "/s"},
            "storage": {"directory": {"path": "/d"}},
            "encryption": {"argon2_memory_kib": 1024},
            "namespaces": [{"name": "shared", "type": "distributed"}],
            "webdav": {
                "users": [
                    {"name": "anna", "password": "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA"}
                ]
            },
        }
    )
    said = notices(config)
    assert [line.split()[0] for line in said] == [
        "telegram.session_file",
        "telegram.api_hash",
        "storage.directory.path",
        "not",
        "only",
        "encryption.argon2_memory_kib",
    ]
    assert "shared" in said[3]
    assert "anna" in said[4]
