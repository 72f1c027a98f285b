"""``serve`` and the commands beside it."""

import json
import os
import random
import re
import signal
import stat
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from tests.cli.conftest import Machine, config_for
from tests.support.server import Home, RawClient, Server
from tgdav.cli.serving.address import short_password_warning
from tgdav.webdav import WebOptions

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def bare(home: Machine) -> Machine:
    """Return the same machine without the passphrase."""
    return home.beside(home.path.name, variables={"TGDAV_PASSPHRASE": None})


def test_commands_beside_a_server_need_no_passphrase(vault: Machine) -> None:
    with Server(vault) as server, server.client() as client:
        assert client.request("PUT", "/file", body=b"content").status == 201
        other = bare(vault)
        assert other.run("--json", "sync", "--wait").json()["pending"] == {"bytes": 0, "operations": 0}
        assert other.run("--json", "status").json()["files"] == 1
        assert other.run("--json", "check", "--read-data").json()["ok"]
        assert other.run("--json", "cache", "--clear").json()["bytes"] == 0
        assert client.request("GET", "/file").body == b"content"
        server.terminate()
    assert not (vault.path / "state" / "control").exists()


def test_secrets_must_be_shown_beside_a_server_too(vault: Machine) -> None:
    with Server(vault):
        assert vault.run("passwd", input="new\n", check=False, variables={"TGDAV_PASSPHRASE": "x"}).code == 3
        assert vault.run("recovery-key", check=False, variables={"TGDAV_PASSPHRASE": "x"}).code == 3
        assert vault.run("passwd", input="new\n").code == 0
    assert vault.run("status", check=False).code == 3
    assert vault.run("status", variables={"TGDAV_PASSPHRASE": "new"}).code == 0


def test_errors_come_through_the_socket_as_themselves(vault: Machine) -> None:
    with Server(vault):
        refused = vault.run("--json", "--namespace", "other", "status", check=False)
        assert refused.code == 2
        assert refused.json()["error"]["kind"] == "usage"
        assert vault.run("--namespace", "default", "status").code == 0


def test_a_second_server_is_exit_6(vault: Machine) -> None:
    with Server(vault) as server:
        refused = bare(vault).run("--json", "serve", "--port", "0", check=False)
        assert refused.code == 6
        assert refused.json()["error"]["kind"] == "in-use"
        which = (
            rf"\(process {server.pid}, since {TIME}\) has this vault open at {re.escape(server.url)}; status, sync, "
        )
        assert re.search(which, refused.stderr)
        assert f"'kill {server.pid}' stops it" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        shown = bare(vault).run("status", "-v").stdout
        for line in (
            rf"process     {server.pid}, since {TIME}, \d+ s",
            f"address     {server.url}",
            "mount       none",
        ):
            assert re.search(f"^{line}$", shown, re.M), shown
        assert bare(vault).run("--json", "status").json()["process"]["process"] == server.pid


def test_a_host_beyond_loopback_is_warned_of(vault: Machine) -> None:
    with Server(vault, "--host", "0.0.0.0") as server:
        said = server.terminate()
        assert "password and files cross the network unencrypted" in said
        assert "the WebDAV password of tgdav is short" in said
    with Server(vault) as server:
        assert "in the clear" not in server.terminate()


def test_a_killed_server_leaves_nothing_in_the_way(vault: Machine) -> None:
    with Server(vault) as server:
        server.kill()
    assert (vault.path / "state" / "control").exists()
    assert vault.run("status").code == 0
    with Server(vault) as server:
        assert bare(vault).run("status").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_in_good_order(vault: Machine, number: signal.Signals) -> None:
    with Server(vault) as server:
        server.signal(number)
        assert server.wait() == 0
        assert "Traceback" not in server.output


def test_a_signal_that_another_thread_gets_ends_it_too(vault: Machine) -> None:
    """The kernel chooses another one while the main thread is stopped by a debugger."""
    with Server(vault) as server:
        vault.run("status")  # while that runs, the main thread comes to rest
        thread = max(int(name) for name in os.listdir(f"/proc/{server.pid}/task"))
        assert thread != server.pid
        os.kill(thread, signal.SIGTERM)
        assert server.wait() == 0


def test_the_first_run_makes_a_vault_with_a_key_file(tmp_path: Path) -> None:
    variables = {"TGDAV_PASSPHRASE": None, "TGDAV_WEBDAV_PASSWORD": None}
    home = Machine(tmp_path, variables=variables)
    with Server(home) as server:
        key_file = home.path / "vault.key"
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        assert "tgdav passwd" in server.output
        made = re.search(r"user tgdav and password (\S+)", server.output)
        assert made
        password = made[1]
        with RawClient(server.url, ("tgdav", password), 30) as client:
            assert client.request("PUT", "/file", body=b"content").status == 201
        assert password in home.run("config", "show", "--secrets").stdout
        assert password not in home.run("config", "show").stdout
        server.terminate()
    with Server(home) as server:
        assert password not in server.output
        assert password in home.run("config", "show", "--secrets").stdout
        server.terminate()
    assert password in home.run("config", "show", "--secrets").stdout
    for path in home.path.rglob("*"):
        assert path.is_dir() or password.encode() not in path.read_bytes(), path

    assert home.run("passwd", input="mine\n").code == 0
    assert not key_file.exists()
    assert home.run("status", input="mine\n").code == 0


def test_a_passphrase_that_is_given_makes_no_key_file(tmp_path: Path) -> None:
    home = Machine(tmp_path)
    with Server(home) as server:
        assert not (home.path / "vault.key").exists()
        said = server.terminate()
        assert "a recovery key, in case the passphrase is forgotten" in said
        assert "neither" not in said


def test_serve_makes_no_vault_in_a_store_of_the_users_own(home: Machine, tmp_path: Path) -> None:
    refused = home.run("serve", "--port", "0", check=False)
    assert refused.code == 2
    assert "tgdav init" in refused.stderr
    assert not (tmp_path / "store").exists()


def test_without_passwords_only_this_machine_is_served(vault: Machine) -> None:
    refused = vault.run("serve", "--no-auth", "--host", "0.0.0.0", "--port", "0", check=False)
    assert refused.code == 2
    with Server(vault, "--no-auth") as server, RawClient(server.url, None, 30) as client:
        assert client.request("OPTIONS", "/").status == 200


def test_a_user_whose_password_is_a_hash(tmp_path: Path) -> None:
    hashed = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("correct horse")
    home = Machine(
        tmp_path, config=config_for(tmp_path) + f"webdav: {{users: [{{name: anna, password: '{hashed}'}}]}}\n"
    )
    home.run("init")
    with Server(home) as server:
        for login, status in ((("anna", "correct horse"), 200), (("anna", "wrong"), 401), (("anna", hashed), 401)):
            with RawClient(server.url, login, 30) as client:
                assert client.request("OPTIONS", "/").status == status
        assert any("only Basic authentication works" in line for line in server.errors)


def test_unsupported_features_are_refused_with_an_error(tmp_path: Path, vault: Machine) -> None:
    replica = Machine(tmp_path, "replica", config="distribution: {mode: distributed}\n")
    assert replica.run("serve", check=False).code == 2
    assert replica.run("sync", check=False).code == 2
    assert replica.run("config", "check").code == 0


def test_a_port_in_use_is_exit_2(vault: Machine) -> None:
    with Server(vault) as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        other = Home(vault.folder, "other")
        refused = other.run("serve", "--port", port, check=False)
        assert refused.code == 2
        assert "port" in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_bad_certificates_are_exit_2(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    home = Home(tmp_path, config=f"webdav: {{tls: {{certificate: {file}, key: {file}}}}}\n")
    refused = home.run("serve", "--port", "0", check=False)
    assert refused.code == 2
    assert "webdav.tls" in refused.stderr.splitlines()[-1]


def test_status_and_metrics_over_http(vault: Machine) -> None:
    with Server(vault) as server, server.client() as client:
        assert set(json.loads(client.request("GET", "/-/status").body)) >= {"store", "pending", "cache"}
        metrics = client.request("GET", "/-/metrics").body.decode()
        assert re.search(r"^tgdav_store_reachable 1$", metrics, re.M)
        assert re.search(r'^tgdav_http_requests_total\{method="GET",status="2xx"\} 1$', metrics, re.M)
        assert client.request("GET", "/-/healthz").status == 200


def test_metrics_count_requests_and_uploads(vault: Machine) -> None:
    """Requests by method and class of status, bytes both ways, the store's messages, failed uploads, the queue, the cache."""
    with Server(vault) as server, server.client() as client:
        client.request("PUT", "/file", body=random.randbytes(200_000))
        vault.run("sync", "--wait")
        for method, path in (("GET", "/file"), ("GET", "/missing"), ("FOO", "/"), ("BAR", "/")):
            client.request(method, path)
        found = samples(client.request("GET", "/-/metrics").body.decode())
        answers = {name: value for name, value in found.items() if name.startswith("tgdav_http_requests_total")}
        assert answers == {
            'tgdav_http_requests_total{method="GET",status="2xx"}': 1,
            'tgdav_http_requests_total{method="GET",status="4xx"}': 1,
            'tgdav_http_requests_total{method="PUT",status="2xx"}': 1,
            'tgdav_http_requests_total{method="other",status="4xx"}': 2,
        }
        for way in ("request", "response"):
            assert 200_000 < found[f"tgdav_http_{way}_bytes_total"] < 210_000
        assert found["tgdav_store_uploaded_blobs_total"] == found['tgdav_store_requests_total{operation="append"}'] >= 2
        assert found["tgdav_store_uploaded_bytes_total"] > 200_000
        assert found['tgdav_store_request_failures_total{operation="append"}'] == 0
        assert found["tgdav_pending_packs"] == 0
        assert {
            "tgdav_cache_hits_total",
            "tgdav_cache_misses_total",
            "tgdav_store_downloaded_bytes_total",
        } <= found.keys()


def samples(text: str) -> dict[str, float]:
    """Return each sample of a Prometheus text; every one belongs to the family said before it."""
    found: dict[str, float] = {}
    family = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            family = line.split()[2]
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name.partition("{")[0] == family
            assert name not in found
            found[name] = float(value)
    return found


def test_a_long_home_works_too(tmp_path: Path) -> None:
    home = Machine(tmp_path / ("deep" * 30), config="")
    with Server(home) as server:
        note = (home.path / "state" / "control").read_text().strip()
        assert len(note) < 108
        assert bare(home).run("status").code == 0
        server.terminate()
    assert not Path(note).parent.exists()


def test_no_secret_is_in_arguments_or_logs(vault: Machine) -> None:
    with Server(vault, "-vv") as server, server.client() as client:
        client.request("PUT", "/file", body=b"content")
        words = Path(f"/proc/{server.pid}/cmdline").read_bytes().decode()
        vault.run("passwd", input="brand new secret\n")
        output = server.terminate()
    for secret in (vault.passphrase, vault.password, "brand new secret"):
        assert secret not in words + output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_short_password_is_noticed_where_others_may_guess(host: str) -> None:
    """One line that names the users and says what to do, never a password."""
    options = WebOptions(host=host)
    line = short_password_warning({"tgdav": "ninechars", "anna": "ten signs.", "otto": "x"}, options)
    assert line is not None
    assert "\n" not in line
    assert "otto, tgdav" in line
    assert "TGDAV_WEBDAV_PASSWORD" in line
    assert not {"anna", "ninechars"} & {*line.replace(",", " ").split()}
    assert short_password_warning({"anna": "ten signs."}, options) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_a_short_password_is_fine_on_this_machine(host: str) -> None:
    assert short_password_warning({"tgdav": "x"}, WebOptions(host=host)) is None
