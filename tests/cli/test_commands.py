"""Commands in a process of their own: results, refusals and their exit codes."""

import json
import random
import re
import shutil
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import CHEAP, Machine, config_for
from tests.support.server import Home, Server
from tgdav.config.paths import MAX_STATE_PATH

STATUS_KEYS = {"store", "pending", "cache", "machines", "files", "bytes", "last_error"}


def test_init_refuses_a_second_vault(vault: Machine, tmp_path: Path) -> None:
    assert vault.run("init", check=False).code == 2
    other = Machine(tmp_path, "other", config=config_for(tmp_path))
    refused = other.run("init", check=False)
    assert refused.code == 2
    assert "init --join" in refused.stderr
    assert vault.run("check").code == 0


def test_init_joins_nothing_where_nothing_is(home: Machine) -> None:
    refused = home.run("init", "--join", check=False)
    assert refused.code in (2, 5)
    assert len(refused.stderr.splitlines()) == 1


def test_init_leaves_the_users_configuration_as_it_is(tmp_path: Path) -> None:
    written = f"# mine\n{CHEAP}cache: {{max_size_gb: 1}}\n"
    home = Machine(tmp_path, config=written)
    home.run("init", "--path", str(tmp_path / "elsewhere"))
    assert (home.path / "config.yaml").read_text() == written
    assert home.run("--json", "status").json()["cache"]["max_bytes"] == 1 << 30
    shown = home.run("--json", "config", "show").json()
    assert shown["storage"]["directory"]["path"] == str(tmp_path / "elsewhere")
    assert any((tmp_path / "elsewhere").iterdir())


def test_init_refuses_options_that_say_otherwise_than_the_configuration(home: Machine, tmp_path: Path) -> None:
    refused = home.run("init", "--path", str(tmp_path / "elsewhere"), check=False)
    assert refused.code == 2
    assert not (tmp_path / "elsewhere").exists()
    assert home.run("init", "--path", str(tmp_path / "store"), "--backend", "directory").code == 0


def test_a_failed_init_leaves_no_configuration(vault: Machine, tmp_path: Path) -> None:
    wrong = vault.beside("wrong", passphrase="wrong")
    assert wrong.run("init", "--join", "--path", str(tmp_path / "store"), check=False).code == 3
    assert not (wrong.path / "config.yaml").exists()


def test_telegram_needs_a_login_or_is_refused(tmp_path: Path) -> None:
    home = Machine(tmp_path)
    refused = home.run("init", "--api-id", "1", "--api-hash", "0123456789abcdef0123456789abcdef", check=False)
    assert refused.code in (2, 3)
    assert "0123456789abcdef" not in refused.stderr + refused.stdout


def test_a_wrong_passphrase_is_exit_3_and_says_nothing_else(vault: Machine) -> None:
    wrong = vault.run("status", check=False, variables={"TGDAV_PASSPHRASE": "hunter2"})
    assert (wrong.code, wrong.stdout, wrong.stderr.splitlines()[-1]) == (3, "", "tgdav: wrong passphrase")
    assert len(wrong.stderr.splitlines()) == 1


@pytest.mark.parametrize("place", ["before", "after"])
def test_json_errors_are_one_object(vault: Machine, place: str) -> None:
    words = ("--json", "status") if place == "before" else ("status", "--json")
    wrong = vault.run(*words, check=False, variables={"TGDAV_PASSPHRASE": "hunter2"})
    assert wrong.code == 3
    assert wrong.json() == {"error": {"kind": "access", "message": "wrong passphrase"}}


WRONG = [
    (),
    ("config",),
    ("bogus",),
    ("status", "--bogus"),
    ("check", "--read-data=0"),
    ("check", "--dry-run"),
    ("serve", "--port", "70000"),
    ("init", "extra"),
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_exit_2_in_one_line(home: Machine, words: tuple[str, ...]) -> None:
    refused = home.run("--json", *words, check=False)
    assert refused.code == 2
    assert refused.json()["error"]["kind"] == "usage"
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stderr.startswith("tgdav: ")


@pytest.mark.parametrize("command", ["status", "sync", "check", "cache", "passwd", "recovery-key"])
def test_without_a_vault_commands_say_so(home: Machine, command: str) -> None:
    refused = home.run(command, check=False)
    assert refused.code == 2
    assert "tgdav init" in refused.stderr


def test_a_bad_configuration_is_exit_2_with_all_that_is_wrong(tmp_path: Path) -> None:
    home = Machine(tmp_path, config="cache: {max_sze_gb: 1}\ntrash: {retention_days: many}\n")
    checked = home.run("--json", "config", "check", check=False)
    assert checked.code == 2
    assert not checked.json()["ok"]
    assert {error["key"] for error in checked.json()["errors"]} == {"cache.max_sze_gb", "trash.retention_days"}
    assert len(home.run("config", "check", check=False).stdout.splitlines()) == 2
    for command in ("status", "init", "serve"):
        refused = home.run(command, check=False)
        assert refused.code == 2
        assert len(refused.stderr.splitlines()) == 1


def test_a_named_configuration_must_be_there(home: Machine) -> None:
    assert home.run("--config", "/nowhere.yaml", "status", check=False).code == 2
    assert home.run("config", "check", "--config", "/nowhere.yaml", check=False).code == 2


def test_config_show_hides_secrets(tmp_path: Path) -> None:
    home = Machine(tmp_path, config="webdav: {users: [{name: anna, password: hunter2}]}\n")
    assert "hunter2" not in home.run("config", "show").stdout
    assert "hunter2" in home.run("config", "show", "--secrets").stdout
    assert home.run("--json", "config", "show").json()["webdav"]["users"][0]["name"] == "anna"


def test_config_migrate_prints_version_2(tmp_path: Path) -> None:
    home = Machine(tmp_path)
    old = home.path / "old.json"
    old.write_text(json.dumps({"telegram": {"api_id": 7}, "cache": {"max_size": 1 << 30}}))
    text = home.run("--config", str(old), "config", "migrate").stdout
    (home.path / "config.yaml").write_text(text)
    assert home.run("--json", "config", "show").json()["cache"]["max_size_gb"] == 1
    assert text.startswith("version: 2")


def test_status_and_cache_have_their_keys(vault: Machine) -> None:
    status = vault.run("--json", "status").json()
    assert set(status) >= STATUS_KEYS
    assert set(status["store"]) >= {"backend", "reachable", "waiting_seconds"}
    assert set(status["machines"][0]) >= {"id", "name"}
    for words in (("cache",), ("cache", "--clear")):
        assert set(vault.run("--json", *words).json()) >= {"bytes", "max_bytes", "chunks", "hits", "misses"}
    for words in (("status",), ("cache",), ("sync",), ("check",)):
        assert vault.run(*words).stdout


def test_gc_deletes_what_was_purged(vault: Machine, tmp_path: Path) -> None:
    with Server(vault) as server, server.client() as client:
        assert client.request("PUT", "/file", body=random.Random(1).randbytes(300_000)).status == 201
        assert client.request("PUT", "/other", body=b"x").status == 201
        vault.run("sync", "--wait")
        assert vault.run("--json", "gc").json()["packs_deleted"] == 0
        assert client.request("DELETE", "/file").status == 204
        assert vault.run("--json", "gc").json()["packs_deleted"] == 0, "it is in the trash"
        vault.run("trash", "empty")
        before = sum(blob.stat().st_size for blob in (tmp_path / "store").iterdir())
        forecast = vault.run("--json", "gc", "--dry-run").json()
        assert (forecast["packs_deleted"], forecast["dry_run"]) == (1, True)
        assert re.match("would delete 1 pack, ", vault.run("gc", "--dry-run").stdout)
        done = vault.run("--json", "gc").json()
        assert {**done, "dry_run": True} == forecast
        assert done["bytes_freed"] >= 200_000
        assert sum(blob.stat().st_size for blob in (tmp_path / "store").iterdir()) < before
    assert vault.run("gc").stdout == "nothing to delete\n"
    assert vault.run("check", "--read-data").code == 0


def test_check_finds_a_missing_blob(vault: Machine, tmp_path: Path) -> None:
    with Server(vault) as server, server.client() as client:
        assert client.request("PUT", "/file", body=b"x" * 100_000).status == 201
        vault.run("sync", "--wait")
    blobs = sorted((tmp_path / "store").iterdir(), key=lambda path: path.stat().st_size)
    shutil.move(blobs[-1], tmp_path / "away")
    found = vault.run("--json", "check", check=False)
    assert found.code == 4
    assert not found.json()["ok"]
    assert set(found.json()["damage"][0]) >= {"blob", "kind", "reason", "paths"}
    shutil.move(tmp_path / "away", blobs[-1])
    assert vault.run("check").code == 0


def test_a_drill_and_a_dry_run_beside_a_server(vault: Machine, tmp_path: Path) -> None:
    with Server(vault) as server, server.client() as client:
        assert client.request("PUT", "/file", body=b"x" * 100_000).status == 201
        vault.run("sync", "--wait")
        assert client.request("PUT", "/unsent", body=b"y").status == 201
        found = vault.run("--json", "check", "--drill").json()
        assert [(each["checkpoint"], each["ok"], each["unsent"]) for each in found["drills"]] == [(None, True, 1)]
        told = vault.run("check", "--drill").stdout
        assert "drill from the beginning of the log, with 1 change that this machine has not sent: equal" in told
        vault.run("sync", "--wait")
        blob = max((tmp_path / "store").iterdir(), key=lambda path: path.stat().st_size)
        shutil.move(blob, tmp_path / "away")
        planned = vault.run("--json", "check", "--repair", "--dry-run", check=False)
        assert planned.code == 4
        assert planned.json()["repaired"] == []
        [repair] = planned.json()["repairs"]
        assert set(repair) == {"blob", "kind", "action", "done"}
        assert repair["blob"] in blob.name
        assert (
            f"repair: {repair['kind']} {repair['blob']}: "
            in vault.run("check", "--repair", "--dry-run", check=False).stdout
        )
        assert vault.run("--json", "check", "--drill", check=False).code == 4
        assert vault.run("--json", "check", "--repair").json()["repaired"] == [repair["blob"]]
        assert vault.run("check", "--drill").code == 0


def test_check_reports_damage_that_keeps_the_vault_shut(vault: Machine) -> None:
    database = next((vault.path / "state").glob("*.db"))
    database.write_bytes(bytes(database.stat().st_size))
    found = vault.run("--json", "check", check=False)
    assert found.code == 4
    assert not found.json()["ok"]
    assert found.json()["damage"]
    assert vault.run("status", check=False).code == 4


def test_a_full_or_closed_standard_output_is_no_disaster(home: Machine) -> None:
    full = Home.run(home, check=False, prefix=("sh", "-c", '"$@" config show >/dev/full', "sh"))
    assert (full.code, full.stderr) == (1, "tgdav: No space left on device\n")
    closed = Home.run(home, check=False, prefix=("sh", "-c", '"$@" config show >&-', "sh"))
    assert (closed.code, closed.stderr) == (0, "")


def test_a_store_that_is_away_is_exit_5(vault: Machine, tmp_path: Path) -> None:
    shutil.move(tmp_path / "store", tmp_path / "away")
    assert vault.run("sync", "--wait", check=False).code == 5
    assert vault.run("check", check=False).code == 5
    status = vault.run("--json", "status")
    assert status.code == 0
    assert not status.json()["store"]["reachable"]
    shutil.move(tmp_path / "away", tmp_path / "store")
    assert vault.run("--json", "status").json()["store"]["reachable"]
    assert vault.run("sync", "--wait").code == 0


def test_a_new_passphrase_replaces_the_old_one(vault: Machine) -> None:
    nothing = vault.run("passwd", input="", check=False)
    assert nothing.code == 3
    assert "no new passphrase was given" in nothing.stderr
    assert "--new-passphrase-file" in nothing.stderr
    asked = vault.run("passwd", input="the new one\n")
    assert "passphrase changed" in asked.stdout
    assert vault.run("status", check=False).code == 3
    assert vault.run("status", variables={"TGDAV_PASSPHRASE": "the new one"}).code == 0


def test_both_passphrases_come_from_standard_input(vault: Machine) -> None:
    bare = vault.beside("home", variables={"TGDAV_PASSPHRASE": None})
    assert bare.run("passwd", input="correct horse battery\nthe new one\n").code == 0
    assert bare.run("status", input="the new one\n").code == 0
    assert bare.run("status", input="correct horse battery\n", check=False).code == 3
    assert bare.run("status", check=False).code == 3


def test_a_new_recovery_key_replaces_the_old_one(home: Machine, tmp_path: Path) -> None:
    old = home.run("--json", "init").json()["recovery_key"]
    new = home.run("--json", "recovery-key").json()["recovery_key"]
    for key, code in ((old, 3), (new, 0)):
        variables = {"TGDAV_PASSPHRASE": None, "TGDAV_RECOVERY_KEY": key}
        other = home.beside(f"other{code}", config=config_for(tmp_path), variables=variables)
        assert other.run("init", "--join", check=False).code == code


def test_everything_local_is_private(vault: Machine) -> None:
    for path in vault.path.rglob("*"):
        if path.name != "config.yaml":
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_closed_pipe_ends_in_silence(home: Machine) -> None:
    script = '"$@" config show | true; exit "${PIPESTATUS[0]}"'
    done = Home.run(home, check=False, prefix=("bash", "-c", script, "bash"))
    assert done.stderr == ""


def test_tracebacks_come_with_v_only(vault: Machine) -> None:
    wrong = {"TGDAV_PASSPHRASE": "hunter2"}
    assert "Traceback" not in vault.run("status", check=False, variables=wrong).stderr
    loud = vault.run("-v", "status", check=False, variables=wrong)
    assert "Traceback" in loud.stderr
    assert "hunter2" not in loud.stderr


def test_a_vault_is_made_with_the_namespace_that_is_opened(tmp_path: Path) -> None:
    """A file that lists first what this version cannot serve: nothing is made without a choice, and with one all works."""
    namespaces = "namespaces: [{name: shared, type: distributed}, {name: docs}, {name: photos}]\n"
    home = Machine(tmp_path, config=config_for(tmp_path) + namespaces)
    for command in (("init",), ("init", "--join"), ("recover",), ("serve", "--port", "0")):
        refused = home.run(*command, check=False)
        assert refused.code == 2
        assert "--namespace" in refused.stderr
    assert not (tmp_path / "store").exists()
    made = home.run("--namespace", "docs", "init")
    assert "one namespace in a vault" in made.stderr
    assert home.run("--namespace", "docs", "--json", "sync", "--wait").json()["pending"]["bytes"] == 0
    refused = home.run("--namespace", "photos", "sync", check=False)
    assert refused.code == 2
    assert "which contains: docs" in refused.stderr
    second = home.beside("second", config=config_for(tmp_path) + namespaces)
    assert "epoch 2" in second.run("--namespace", "docs", "recover").stdout


def test_machines_with_equal_names_are_distinguished_in_all_output(vault: Machine, tmp_path: Path) -> None:
    """Both are named after this host."""
    other = vault.beside("other", config=config_for(tmp_path))
    joined = other.run("init", "--join").stdout
    first, second = (home.run("--json", "status").json()["machine"] for home in (vault, other))
    name = vault.run("--json", "status").json()["machines"][0]["name"]
    assert f"(epoch 2), replacing {name} ({first[:8]})\n" in joined
    assert f"machine {name} ({first[:8]}): last operation " in joined
    assert f"machine {name} ({second[:8]}) is the writer now" in vault.run("sync", check=False).stderr
    shown = other.run("status").stdout
    assert f"machine     {name} ({first[:8]})\n" in shown
    assert f"machine     {name} ({second[:8]}) (this one)\n" in shown


def test_the_longest_home(tmp_path: Path) -> None:
    """A home whose path is as long as a database's may be works; a longer one is refused in one line."""
    room = MAX_STATE_PATH - len(f"{tmp_path}//state")
    name = "/".join(["x" * 49] * 10)[:room].strip("/")
    home = Home(tmp_path, name + "y" * (room - len(name)), config=CHEAP)
    assert len(str(home.path / "state")) == MAX_STATE_PATH
    home.run("init")
    for longer in (f"{home.path.name}z", "/".join(["x" * 49] * 72)):
        refused = Home(home.path.parent, longer).run("init", check=False)
        assert (refused.code, refused.stdout) == (2, "")
        assert len(refused.stderr.splitlines()) == 1
        assert "TGDAV_HOME" in refused.stderr
