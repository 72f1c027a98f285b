import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tgdav.cli.commands.configuration import values_of
from tgdav.config import Config, load, migrate
from tgdav.errors import ConfigError

TELEGRAMFS_2 = """
version: 2
machine:
  id: "auto"  # or specific UUID/name
  name: "My Server"
telegram:
  api_id: ${TELEGRAM_APP_ID}
  api_hash: ${TELEGRAM_APP_HASH}
  session_file: "~/.telegramfs/session"
  max_concurrent_uploads: 3
  max_concurrent_downloads: 5
encryption: {argon2_memory_kib: 65536, argon2_iterations: 3, argon2_parallelism: 4}
distribution:
  mode: standalone  # standalone | master-replica | distributed
  cluster_id: "home-cluster"
  master_replica: {role: master, master_id: "main-server", sync_interval_secs: 60, snapshot_retention: 10}
  distributed: {sync_interval_ms: 1000, conflict_resolution: last-write-wins}
namespaces:
  - name: "private"
    type: standalone
    mount_point: "/mnt/telegramfs/private"
  - name: "shared"
    type: distributed
    cluster: "home-cluster"
    mount_point: "/mnt/telegramfs/shared"
    access:
      - machine: "server-1"
        permissions: [read, write, delete, admin]
      - machine: "laptop"
        permissions: [read, write]
cache: {enabled: true, max_size_gb: 10, path: "~/.telegramfs/cache"}
"""

TELEGRAMFS_1 = {
    "telegram": {
        "api_id": 12345678,
        "api_hash": "your_api_hash",
        "max_concurrent_uploads": 2,
        "max_concurrent_downloads": 4,
    },
    "encryption": {"argon2_memory_kib": 32768, "argon2_iterations": 2, "argon2_parallelism": 1},
    "cache": {"max_size": 1073741825, "prefetch_enabled": False, "prefetch_count": 7},
    "chunk": {"chunk_size": 1048576, "compression_enabled": False, "dedup_enabled": False},
    "versioning": {"enabled": False, "max_versions": 3},
}


def test_no_file_and_an_empty_file_mean_the_defaults(read):
    assert read("").config == Config()
    assert read("# nothing\ncache:\nnamespaces:\n").config == Config()
    assert Config().cache.max_bytes == 10 * 1024**3
    assert Config().backend() == "directory"


def test_a_file_of_telegramfs_version_2_loads(read):
    environment = {"TELEGRAM_APP_ID": "12345678", "TELEGRAM_APP_HASH": "12345678901234567890", "HOME": "/home/anna"}
    config = read(TELEGRAMFS_2, environment).config
    assert config.telegram.api_id == 12345678
    assert config.telegram.api_hash is not None
    assert config.telegram.api_hash.get_secret_value() == "12345678901234567890"
    assert config.backend() == "telegram"
    assert config.cache.path == Path("/home/anna/.telegramfs/cache")
    assert config.namespaces[1].access[1].permissions == ("read", "write")


def test_a_version_1_file_loads_and_migrates_to_an_equal_one(read):
    old = read(json.dumps(TELEGRAMFS_1))
    assert (old.version, old.config.version) == (1, 2)
    assert old.config.cache.max_bytes == 1073741825
    assert old.config.cache.prefetch_count == 7
    assert old.config.chunk.average_size <= old.config.chunk.chunk_size
    assert old.config.versioning.max_versions == 3
    new = read(migrate(old))
    assert new.version == 2
    assert new.config == old.config


def test_migrate_keeps_references_and_escapes(read):
    environment = {"ID": "7", "HASH": "a#b: c", "SIZE": str(1 << 31)}
    old = read(
        '\t{"telegram": {"api_id": "${ID}", "api_hash": "$${x}${HASH}"},\n\t "cache": {"max_size": "${SIZE}"}}',
        {**environment, "HASH": "0e12"},
    )
    text = migrate(old)
    assert "${ID}" in text
    assert "$${x}${HASH}" in text
    assert read(text, {**environment, "HASH": "0e12"}).config == old.config
    assert old.config.cache.max_size_gb == 2
    assert old.config.telegram.api_hash.get_secret_value() == "${x}0e12"


def test_migrate_leaves_a_version_2_file_as_it_is(read):
    text = "# my notes\nversion: 2\ncache: {prefetch_count: 1}\n"
    assert migrate(read(text)) == text


def test_version_2_may_be_written_as_json(read):
    assert read('{"version": 2, "cache": {"max_size_gb": 0.5}}').config.cache.max_bytes == 1 << 29
    assert read('{"storage": {"backend": "directory"}}').version == 2
    assert read('{"cache": {"prefetch_count": 1}}').version == 1
    assert read("{cache: {prefetch_count: 1}, version: 2,}").version == 2


def test_paths_start_from_the_files_directory_and_home(read, tmp_path):
    config = read("cache: {path: kept}\nstorage: {directory: {path: ~/store}}", {"HOME": "/h"}).config
    assert config.cache.path == tmp_path / "kept"
    assert config.storage.directory.path == Path("/h/store")


def test_backend_given_wins(read):
    assert read("telegram: {api_id: 5}").config.backend() == "telegram"
    assert read("telegram: {api_id: 5}\nstorage: {backend: directory}").config.backend() == "directory"


def test_proxy_as_url_and_as_mapping(read):
    as_url = read("telegram: {proxy: 'http://anna:p%40ss@proxy.example.org:8080'}").config
    mapping = "{type: http, host: proxy.example.org, port: 8080, username: anna, password: p@ss}"
    assert as_url == read(f"telegram: {{proxy: {mapping}}}").config


def test_core_schema_and_aliases(read):
    config = read(
        "machine: {name: yes}\nnamespaces: [{name: &a 12:30, mount_point: *a}, {name: '7', type: null}]"
    ).config
    assert config.machine.name == "yes"
    assert [namespace.name for namespace in config.namespaces] == ["12:30", "7"]


def test_configuration_is_frozen():
    with pytest.raises(ValidationError):
        Config().cache.enabled = False


def test_show_hides_secrets_unless_asked(read):
    text = (
        "telegram: {api_id: 5, api_hash: s3cret-a, proxy: {host: h, password: s3cret-b}}\n"
        "webdav: {users: [{name: anna, password: s3cret-c}]}"
    )
    loaded = read(text)
    hidden, full = json.dumps(values_of(loaded.config)), json.dumps(values_of(loaded.config, secrets=True))
    assert "s3cret" not in hidden + repr(loaded) + repr(loaded.config)
    assert hidden.count("(hidden)") == 3
    assert all(secret in full for secret in ("s3cret-a", "s3cret-b", "s3cret-c"))


@pytest.mark.parametrize("name", ["missing.yaml", ".", "missing/config.yaml", "nul\0.yaml", "x" * 300])
def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path, name):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, {})
    assert caught.value.problems[0]["key"] == "(file)"
