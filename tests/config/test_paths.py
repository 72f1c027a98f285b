from pathlib import Path

import pytest

from tgdav.config import Config, StatePaths, find_namespace, notices, require_supported
from tgdav.errors import UsageError

HOME = Path("/srv/drive")


def test_everything_is_under_tgdav_home():
    paths = StatePaths.from_environment({"TGDAV_HOME": str(HOME)})
    assert paths == StatePaths(
        HOME, HOME / "config.yaml", False, HOME / "state", HOME / "cache", HOME / "store", HOME / "vault.key"
    )
    assert paths.lock_file.parent == paths.control_file.parent == HOME / "state"


def test_without_a_home_the_platforms_directories_are_used(monkeypatch, tmp_path):
    for kind in ("CONFIG", "DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind))
    paths = StatePaths.from_environment({"TGDAV_HOME": ""})
    assert paths.home is None
    assert paths.config_file == tmp_path / "CONFIG" / "tgdav" / "config.yaml"
    assert paths.state.is_relative_to(tmp_path / "STATE" / "tgdav")
    assert paths.cache.is_relative_to(tmp_path / "CACHE" / "tgdav")
    assert paths.store.is_relative_to(tmp_path / "DATA" / "tgdav")
    assert paths.key_file.is_relative_to(tmp_path / "DATA" / "tgdav")


def test_the_option_takes_precedence_over_the_variable_and_home():
    environment = {"TGDAV_HOME": str(HOME), "TGDAV_CONFIG": "/etc/tgdav.yaml"}
    assert StatePaths.from_environment(environment, Path("/opt/c.yaml")).config_file == Path("/opt/c.yaml")
    named = StatePaths.from_environment(environment)
    assert (named.config_file, named.config_named) == (Path("/etc/tgdav.yaml"), True)
    assert named.state == HOME / "state"


def test_relative_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert StatePaths.from_environment({"TGDAV_HOME": "a"}).state == tmp_path / "a" / "state"
    assert StatePaths.from_environment({}, Path("c.yaml")).config_file == tmp_path / "c.yaml"


@pytest.mark.parametrize("length", [469, 3600, 5000])
def test_too_long_a_home_is_refused(length):
    home = "/" + "x/" * (length // 2)
    with pytest.raises(UsageError, match="at most 468") as caught:
        StatePaths.from_environment({"TGDAV_HOME": home})
    assert len(caught.value.message) < 200


def test_the_configuration_moves_cache_and_store():
    paths = StatePaths.from_environment({"TGDAV_HOME": str(HOME)})
    assert paths.for_config(Config()) == paths
    moved = Config.model_validate({"cache": {"path": "/c"}, "storage": {"directory": {"path": "/s"}}})
    assert (paths.for_config(moved).cache, paths.for_config(moved).store) == (Path("/c"), Path("/s"))


def test_only_the_namespace_that_is_opened_must_be_supported():
    config = Config.model_validate({"namespaces": [{"name": "private"}, {"name": "shared", "type": "distributed"}]})
    require_supported(config)
    require_supported(config, "private")
    with pytest.raises(UsageError, match="'shared' needs the mode distributed"):
        require_supported(config, "shared")
    with pytest.raises(UsageError, match="private, shared"):
        require_supported(config, "other")


def test_without_namespaces_the_mode_decides():
    require_supported(Config(), "default")
    config = Config.model_validate({"distribution": {"mode": "master-replica"}})
    assert find_namespace(config).name == "default"
    with pytest.raises(UsageError, match="master-replica"):
        require_supported(config)


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
