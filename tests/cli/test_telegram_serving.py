"""A running server and its login: revoked, renewed, refused; Telegram away at the start, and hanging at the end."""

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.conftest import Machine
from tests.mtproto.harness import PHONE, Server
from tests.support.corpus import stream
from tests.support.server import ConnectionCut, wait_for
from tests.support.server import Server as Serving
from tests.support.telegram_home import assert_nothing_twice, log_in, telegram_config

OTHER = "9996627777"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("telegram"), seed=7) as running:
        yield running


@pytest.fixture
def home(server: Server, tmp_path: Path) -> Machine:
    """A machine with a vault of its own, in a channel, with one file that is stored and cached."""
    channel = server.create_channel(PHONE, "blobs")
    made = Machine(tmp_path, config=telegram_config(server, peer=f"-100{channel}"))
    log_in(made)
    made.run("init")
    return made


def put(serving: Serving, name: str, body: bytes) -> int:
    with serving.client() as client:
        return client.request("PUT", f"/{name}", body=body).status


def get(serving: Serving, name: str) -> bytes:
    with serving.client() as client:
        return client.request("GET", f"/{name}").body


def status(home: Machine) -> dict:
    return home.run("--json", "status").json()


def test_a_login_that_is_ended_and_renewed_while_serving(server: Server, home: Machine) -> None:
    with Serving(home) as serving:
        assert put(serving, "before", b"stored") == 201
        home.run("sync", "--wait")
        server.end_logins(PHONE, "401 SESSION_REVOKED")
        assert home.run("sync", check=False).code == 3
        assert put(serving, "meanwhile", b"kept here") == 201
        assert get(serving, "before") == b"stored"
        assert get(serving, "meanwhile") == b"kept here"
        found = status(home)
        assert not found["store"]["reachable"]
        assert "run 'tgdav auth'" in found["last_error"]
        assert found["pending"]["operations"] > 0
        assert "run 'tgdav auth'" in home.run("status").stdout

        server.add_account(OTHER, "54321")
        refused = log_in(home, OTHER, ["54321"], check=False)
        assert (refused.code, "another Telegram account" in refused.stderr) == (3, True)

        bare = home.beside(home.path.name, variables={"TGDAV_PASSPHRASE": None})
        log_in(bare)
        assert home.run("--json", "sync", "--wait").json()["pending"] == {"bytes": 0, "operations": 0}
        found = status(home)
        assert (found["store"]["reachable"], found["last_error"]) == (True, None)
        output = serving.terminate()
        assert "tgdav auth" in output
    assert home.run("--json", "check", "--read-data").json()["ok"]


def test_waiting_ends_when_the_login_does(server: Server, home: Machine) -> None:
    with Serving(home) as serving:
        assert put(serving, "file", b"".join(stream(2, 2 << 20))) == 201
        server.arm("session_revoked", "upload.saveFilePart")
        done = home.run("sync", "--wait", check=False)
        assert (done.code, "run 'tgdav auth'" in done.stderr) == (3, True)
        log_in(home)
        home.run("sync", "--wait")
        serving.terminate()


def test_telegram_is_away_when_it_starts(server: Server, home: Machine) -> None:
    with Serving(home) as serving:
        assert put(serving, "cached", b"read before") == 201
        home.run("sync", "--wait")
        serving.terminate()
    server.stop_listening()
    try:
        with Serving(home) as serving:
            assert get(serving, "cached") == b"read before"
            assert put(serving, "written", b"while away") == 201
            wait_for(lambda: not status(home)["store"]["reachable"], 30, what="status to say that Telegram is away")
            assert status(home)["last_error"]
            server.listen_again()
            wait_for(lambda: status(home)["pending"] == {"bytes": 0, "operations": 0} or home.run("sync"), 60)
            assert home.run("--json", "sync", "--wait").json()["pending"] == {"bytes": 0, "operations": 0}
            assert status(home)["store"]["reachable"]
            serving.terminate()
    finally:
        server.listen_again()
    assert home.run("--json", "check", "--read-data").json()["ok"]


def test_it_ends_in_time_though_telegram_hangs(server: Server, home: Machine) -> None:
    with Serving(home) as serving:
        assert put(serving, "file", b"".join(stream(1, 8 << 20))) == 201
        before = server.statistics()["bytes_received"]
        server.set_line(bandwidth=500_000)
        try:
            with subprocess.Popen([*home.program, "sync"], env=home.environment(), stderr=subprocess.DEVNULL):
                wait_for(lambda: server.statistics()["bytes_received"] > before + (1 << 20), 30)
                server.accept_silently()
                server.silence_connections()
                serving.terminate(timeout=15)
        finally:
            server.accept_silently(False)
            server.set_line(bandwidth=0)
    home.run("sync", "--wait")
    assert home.run("--json", "check", "--read-data").json()["ok"]
    assert_nothing_twice(server, peer=channel_of(home), channel=True)


def test_it_ends_in_time_though_a_reader_waits_on_a_dead_line(server: Server, home: Machine) -> None:
    body = b"".join(stream(3, 8 << 20))
    with Serving(home) as serving:
        assert put(serving, "file", body) == 201
        home.run("sync", "--wait")
        home.run("cache", "--clear")
        asked = server.statistics()["calls"].get("upload.getFile", 0)
        server.arm("half_open", "upload.getFile")
        server.accept_silently()
        try:
            reader = threading.Thread(target=_get_if_it_can, args=(serving, "file"))
            reader.start()
            wait_for(lambda: server.statistics()["calls"].get("upload.getFile", 0) > asked, 30)
            serving.terminate(timeout=10)
            reader.join()
        finally:
            server.accept_silently(False)
    with Serving(home) as serving:
        assert get(serving, "file") == body
        serving.terminate()


def _get_if_it_can(serving: Serving, name: str) -> None:
    with suppress(ConnectionCut, OSError):
        get(serving, name)


def test_the_reason_for_waiting_is_reported(server: Server, home: Machine) -> None:
    with Serving(home) as serving:
        assert put(serving, "file", b"content" * 1000) == 201
        server.arm("flood_wait", "messages.sendMedia", seconds=6)
        with subprocess.Popen([*home.program, "sync", "--wait"], env=home.environment(), stdout=subprocess.DEVNULL):
            found = wait_for(lambda: "FLOOD" in ((told := status(home)["store"])["waiting_for"] or "") and told, 30)
            assert 0 < found["waiting_seconds"] < 10
            assert found["reachable"]
            assert found["waiting_for"] == (
                "Telegram limits the rate: FLOOD_WAIT of messages.sendMedia; sending waits, reading works"
            )
            assert datetime.fromisoformat(found["waiting_until"]).tzinfo == UTC
            shown = home.run("status").stdout
            assert "FLOOD_WAIT of messages.sendMedia" in shown
            assert " UTC: " in shown
        wait_for(lambda: status(home)["store"]["waiting_for"] is None, 30, what="the last pace between messages to end")
        serving.terminate()


def test_an_account_that_would_soon_be_deleted_is_warned_of(server: Server, home: Machine) -> None:
    assert status(home)["account"] is None
    server.set_rules(account_days=31)
    try:
        with Serving(home) as serving:
            found = wait_for(lambda: status(home)["account"], what="the first answer about the account")
            assert (found["deleted_after_days"], found["days_left"]) == (31, 31)
            with serving.client() as client:
                assert (
                    f"tgdav_account_deletion_seconds {31 * 86400}\n"
                    in client.request("GET", "/-/metrics").body.decode()
                )
            assert "after 31 days without use: choose a longer time" in serving.terminate()
    finally:
        server.set_rules(account_days=183)
    assert "account     deleted by Telegram after 31 days without use, not before 20" in home.run("status").stdout


def test_uploads_are_reported_by_kind(home: Machine) -> None:
    with Serving(home) as serving:
        assert put(serving, "file", bytes(range(256)) * 1000) == 201
        sent = home.run("--json", "sync", "--wait").json()["sent"]
        assert sent["packs"]["messages"] == 1
        assert sent["packs"]["bytes"] >= 65536
        assert sent["segments"]["messages"] == 1
        today = status(home)["sent_today"]
        assert today["packs"] == sent["packs"]
        assert today["segments"]["messages"] == 2
        assert today["headers"]["messages"] == 2
        assert (
            home.run("sync", "--wait").stdout
            == "sent        nothing\nwaiting     nothing: everything is in the store\n"
        )
        assert re.search(r"^sent today  \d+\.\d KiB in 5 messages$", home.run("status").stdout, re.M)
        with serving.client() as client:
            metrics = client.request("GET", "/-/metrics").body.decode()
        assert 'tgdav_uploaded_today_blobs{kind="packs"} 1\n' in metrics
        assert f'tgdav_uploaded_today_bytes{{kind="headers"}} {today["headers"]["bytes"]}\n' in metrics
        serving.terminate()
    assert status(home)["sent_today"] == today


def channel_of(home: Machine) -> int:
    return int((home.path / "config.yaml").read_text().partition("-100")[2].partition("'")[0])
