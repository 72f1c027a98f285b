"""Logging in to Telegram, as a user types it: codes, passwords, QR codes, refusals, and where the login is kept."""

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import segno

from tests.cli.conftest import CHEAP, Machine, config_for
from tests.cli.test_terminal import terminal
from tests.mtproto.harness import CODE, PHONE, Server
from tests.support.server import Home
from tests.support.telegram import API_HASH, API_ID
from tests.support.telegram_home import log_in, telegram_config
from tgdav.cli import session
from tgdav.cli.invocation import Invocation
from tgdav.crypto.slots import Secret
from tgdav.vault.telegram_login import PENDING, SEALED
from tgdav.volume.volume import Volume

OTHER = "9996627777"
PASSWORD = "hunter2 and three"
NEW = "the next passphrase"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "telegram", seed=5) as running:
        yield running


@pytest.fixture
def machine(server: Server, tmp_path: Path) -> Machine:
    """A home that may log in, without a vault."""
    return Machine(tmp_path, config=telegram_config(server))


@pytest.fixture
def vault(machine: Machine) -> Machine:
    """A home with a vault in Saved Messages."""
    log_in(machine)
    machine.run("init")
    return machine


def logins(server: Server, phone: str = PHONE) -> int:
    """How many logins of the account are alive at Telegram."""
    world = server._server.world  # type: ignore[union-attr]
    return len(world.authorizations.of(world.account_of(phone).user))


class TestByCode:
    def test_before_a_vault(self, machine: Machine) -> None:
        done = log_in(machine)
        assert "logged in to Telegram as Test" in done.stdout
        assert "tgdav init" in done.stdout
        assert "Code that Telegram sent" in done.stderr
        assert machine.run("--json", "init").json()["recovery_key"]
        assert not (machine.path / "state" / PENDING).exists()

    def test_everything_is_prompted_for(self, server: Server, machine: Machine) -> None:
        server.add_account(OTHER, "54321", PASSWORD)
        machine.variables["TGDAV_PASSPHRASE"] = None
        typed = f"{machine.passphrase}\n+{OTHER}\n54321\nwrong\n{PASSWORD}\n"
        done = machine.run("--json", "auth", input=typed)
        assert done.json()["account"] == server._server.world.account_of(OTHER).user  # type: ignore[union-attr]
        assert "the password is wrong; try again" in done.stderr
        machine.run("init", input=f"{machine.passphrase}\n")

    def test_after_the_vault_was_made(self, server: Server, vault: Machine) -> None:
        before = logins(server)
        done = log_in(vault)
        assert "init" not in done.stdout
        assert logins(server) == before, "the login that was replaced is still alive"
        vault.run("sync", "--wait")

    @pytest.mark.parametrize("lost", ["forget_keys", "end_logins"])
    def test_in_place_of_a_login_that_telegram_has_ended(self, server: Server, vault: Machine, lost: str) -> None:
        server.ask(lost, PHONE)
        done = log_in(vault)
        assert "logged in to Telegram as Test" in done.stdout
        vault.run("sync", "--wait")

    @pytest.mark.parametrize(
        ("status", "answers", "code", "said"),
        [
            ("", ["1", "2", "3"], 3, "the code is wrong"),
            ("", [], 3, "no code was given"),
            ("banned", [CODE], 3, "banned this phone number"),
        ],
    )
    def test_refused(
        self, server: Server, machine: Machine, status: str, answers: list[str], code: int, said: str
    ) -> None:
        if status:
            server.set_status(PHONE, status)
        done = log_in(machine, answers=answers, check=False)
        assert done.code == code
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("tgdav: ")
        assert said in last
        assert not (machine.path / "state" / PENDING).exists()

    def test_of_a_number_without_an_account(self, machine: Machine) -> None:
        assert "has no Telegram account" in log_in(machine, phone="9996629999", check=False).stderr

    def test_with_published_api_id(self, server: Server, tmp_path: Path) -> None:
        config = telegram_config(server).replace(str(API_ID), "2040")
        done = log_in(Machine(tmp_path, config=config), check=False)
        assert (done.code, "published" in done.stderr) == (3, True)

    def test_a_flood_wait_is_reported(self, server: Server, machine: Machine) -> None:
        server.arm("flood_wait", "auth.sendCode", seconds=500)
        done = log_in(machine, check=False)
        assert (done.code, "9 minutes" in done.stderr) == (5, True)

    def test_with_telegram_away(self, server: Server, machine: Machine) -> None:
        server.stop_listening()
        assert log_in(machine, check=False).code == 5

    def test_the_line_breaks_while_the_code_is_awaited(
        self, server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The user is slow, and Telegram hangs up meanwhile."""

        class SlowUser(io.StringIO):
            def readline(self, size: int | None = -1, /) -> str:
                server.drop_connections()
                return super().readline(size)

        monkeypatch.setattr(io, "StringIO", SlowUser)
        assert log_in(machine).code == 0


class TestJunk:
    """Whatever is given or typed: one line, and what to do."""

    @pytest.mark.parametrize(
        "phone", ["nonsense", "", "+", "12", "+49x151", "1" * 16, "\u0663" * 9, "+49 151\n1234567"]
    )
    def test_as_the_option_is_refused_before_anything_is_asked(self, tmp_path: Path, phone: str) -> None:
        config = f"telegram: {{api_id: {API_ID}, api_hash: '{API_HASH}'}}\n{CHEAP}"
        home = Machine(tmp_path, config=config, variables={"TGDAV_PASSPHRASE_FILE": "/no/secret"})
        done = home.run("auth", "--phone", phone, check=False)
        assert done.code == 2
        assert re.fullmatch(r"tgdav: --phone: .* is not a phone number; write it with .*\n", done.stderr)

    @pytest.mark.parametrize(
        "words", [("--qr", "--phone", "+49151123"), ("--qr", "--logout"), ("--logout", "--phone", "")]
    )
    def test_options_that_exclude_each_other(self, tmp_path: Path, words: tuple[str, ...]) -> None:
        home = Machine(tmp_path, config=f"telegram: {{api_id: {API_ID}, api_hash: '{API_HASH}'}}\n{CHEAP}")
        done = home.run("auth", *words, check=False)
        assert (done.code, "exclude each other" in done.stderr) == (2, True)

    @pytest.mark.parametrize(
        ("typed", "code", "said"),
        [
            ("nonsense\n12\n+\n", 2, "no phone number was given"),
            ("nonsense\n", 3, "no phone number was given"),
            ("", 3, "no phone number was given"),
            ("\n", 3, "no phone number was given"),
            (f"x\n+{PHONE}\njunk\n\udcff\n", 2, "not valid UTF-8"),
            (f"+{PHONE}\njunk\n{'9' * 4000}\n\0\x1b[2J\n", 3, "the code is wrong"),
            (f"+{PHONE}\n", 3, "no code was given"),
            (f"+{PHONE}\n{'9' * 5000}\n", 2, "longer than 4096"),
        ],
    )
    def test_as_an_answer(self, machine: Machine, typed: str, code: int, said: str) -> None:
        done = machine.run("auth", input=typed, check=False)
        last = done.stderr.strip().splitlines()[-1]
        assert done.code == code, done.stderr
        assert last.startswith("tgdav: ")
        assert said in last
        assert not (machine.path / "state" / PENDING).exists()

    def test_a_phone_number_may_be_written_in_many_ways(self, machine: Machine) -> None:
        written = f" +{PHONE[:3]} ({PHONE[3:5]}) {PHONE[5:7]}-{PHONE[7:]} "
        assert machine.run("auth", input=f"what?\n{written}\n{CODE}\n").code == 0


def test_library_output_is_not_printed_before_the_error(server: Server, machine: Machine) -> None:
    """A real process: here the log's handlers are pytest's."""
    server.stop_listening()
    done = Home.run(machine, "auth", "--phone", f"+{PHONE}", check=False)
    assert done.code == 5
    assert done.stderr.splitlines()[-1].startswith("tgdav: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    loud = Home.run(machine, "-v", "auth", "--phone", f"+{PHONE}", check=False)
    assert "telethon" in loud.stderr


class TestOnATerminal:
    def test_an_empty_line_is_prompted_for_again(self, server: Server, machine: Machine) -> None:
        server.add_account(OTHER, "54321", PASSWORD)
        with terminal(machine, "auth") as screen:
            place = 0
            for question, typed in (("country code", f"+{OTHER}"), ("Code that", "54321"), ("Password of", PASSWORD)):
                place = screen.wait_for(question, after=place)
                screen.type("")
                place = screen.wait_for(question, after=place)
                screen.type(typed)
            screen.wait_for("logged in to Telegram as Test", after=place)
            assert screen.finish() == 0
            assert PASSWORD not in screen.seen

    def test_the_end_of_the_input_ends_it(self, server: Server, machine: Machine) -> None:
        server.add_account(OTHER, "54321", PASSWORD)
        with terminal(machine, "auth", "--phone", f"+{OTHER}") as screen:
            screen.wait_for("Code that")
            screen.type("54321")
            screen.wait_for("Password of")
            screen.end_input()
            screen.wait_for("no password was given")
            assert screen.finish() == 3


class TestByQr:
    def test_scanned(self, server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        scanned: list[str] = []
        draw = segno.QRCode.terminal

        def show(code: segno.QRCode, *arguments: object, **options: object) -> None:
            """The phone's camera: it sees what is drawn, and nothing else."""
            draw(code, *arguments, **options)  # type: ignore[arg-type]
            token = next(reversed(server._server.world.login_tokens))  # type: ignore[union-attr]
            shown = io.StringIO()
            wanted = segno.make(address(token), error="l", micro=False)
            draw(wanted, shown, compact=True, border=2)
            scanned.append(shown.getvalue())
            server.scan(address(token), PHONE)

        monkeypatch.setattr(segno.QRCode, "terminal", show)
        done = machine.run("auth", "--qr")
        assert "Link Desktop Device" in done.stderr
        assert scanned[0] in done.stderr
        assert "tg://" not in done.stderr
        machine.run("init")


def address(token: bytes) -> str:
    import base64

    return "tg://login?token=" + base64.urlsafe_b64encode(token).decode().rstrip("=")


class TestInit:
    def test_without_a_login(self, machine: Machine) -> None:
        for words in (("init",), ("init", "--join"), ("recover",)):
            done = machine.run(*words, check=False)
            assert done.code == 3
            assert "there is no login at Telegram; run 'tgdav auth'" in done.stderr

    def test_keeps_its_options_for_auth(self, server: Server, tmp_path: Path) -> None:
        config = telegram_config(server, api_hash=None)
        home = Machine(tmp_path, config=config)
        assert log_in(home, check=False).code == 2
        words = ("init", "--api-id", str(API_ID), "--api-hash", API_HASH)
        assert home.run(*words, check=False).code == 3
        log_in(home)
        assert "vault created in Telegram (Saved Messages)" in home.run("init").stdout

    def test_with_another_passphrase_than_the_login(self, machine: Machine) -> None:
        log_in(machine)
        done = machine.run("init", check=False, variables={"TGDAV_PASSPHRASE": "another"})
        assert done.code == 3
        assert "tgdav auth" in done.stderr
        machine.run("init")

    def test_refuses_a_second_vault(self, server: Server, vault: Machine) -> None:
        other = vault.beside("second", config=telegram_config(server))
        log_in(other)
        done = other.run("init", check=False)
        assert (done.code, "--join" in done.stderr) == (2, True)
        assert "replacing" in other.run("init", "--join").stdout

    def test_of_an_account_without_a_vault(self, server: Server, vault: Machine) -> None:
        server.add_account(OTHER, "54321")
        other = vault.beside("second", config=telegram_config(server))
        log_in(other, OTHER, ["54321"])
        done = other.run("init", "--join", check=False)
        assert (done.code, "has no vault" in done.stderr) == (2, True)

    def test_with_the_recovery_key_alone(self, server: Server, machine: Machine) -> None:
        log_in(machine)
        key = machine.run("--json", "init").json()["recovery_key"]
        variables = {"TGDAV_PASSPHRASE": None, "TGDAV_RECOVERY_KEY": key}
        other = machine.beside("second", config=telegram_config(server), variables=variables)
        log_in(other)
        assert "epoch 2" in other.run("init", "--join").stdout

    def test_in_a_channel(self, server: Server, tmp_path: Path) -> None:
        channel = server.create_channel(PHONE, "blobs")
        home = Machine(tmp_path, config=telegram_config(server, peer=f"-100{channel}"))
        log_in(home)
        assert f"the chat -100{channel}" in home.run("init").stdout
        assert server.messages(PHONE) == []
        assert len(server.messages(PHONE, peer=channel, channel=True)) >= 3


class TestAccount:
    def test_another_one_is_refused(self, server: Server, vault: Machine) -> None:
        server.add_account(OTHER, "54321")
        kept = (vault.path / "state" / SEALED).read_bytes()
        done = log_in(vault, OTHER, ["54321"], check=False)
        assert done.code == 3
        assert "this vault is in another Telegram account" in done.stderr
        assert (vault.path / "state" / SEALED).read_bytes() == kept
        assert logins(server, OTHER) == 0, "the login that nobody keeps is still alive"
        vault.run("sync", "--wait")

    def test_logged_out(self, server: Server, vault: Machine) -> None:
        assert vault.run("auth", "--logout").stdout == "logged out of Telegram\n"
        assert logins(server) == 0
        assert vault.run("auth", "--logout").stdout == "there was no login\n"
        status = vault.run("--json", "status").json()
        assert not status["store"]["reachable"]
        assert "run 'tgdav auth'" in status["last_error"]
        assert vault.run("sync", check=False).code == 3
        server.add_account(OTHER, "54321")
        assert log_in(vault, OTHER, ["54321"], check=False).code == 3, "its account is forgotten"
        log_in(vault)
        vault.run("sync", "--wait")

    def test_logged_out_before_a_vault(self, server: Server, machine: Machine) -> None:
        log_in(machine)
        machine.run("auth", "--logout")
        assert logins(server) == 0
        assert machine.run("init", check=False).code == 3

    def test_logged_out_with_telegram_away(self, server: Server, vault: Machine) -> None:
        server.stop_listening()
        assert vault.run("auth", "--logout", check=False).code == 5
        server.listen_again()
        vault.run("sync", "--wait")

    def test_a_new_passphrase_keeps_the_login(self, vault: Machine) -> None:
        vault.run("passwd", input="a new one\n")
        vault.run("sync", "--wait", variables={"TGDAV_PASSPHRASE": "a new one"})


class TestPassphraseChangedElsewhere:
    """The login is sealed by the vault, so the store cannot be asked what opens the vault now."""

    @pytest.fixture
    def other(self, server: Server, vault: Machine) -> Machine:
        """Another machine, which has changed the passphrase."""
        made = vault.beside("second", config=telegram_config(server))
        log_in(made)
        made.run("init", "--join")
        made.run("passwd", input=f"{NEW}\n")
        made.variables["TGDAV_PASSPHRASE"] = NEW
        return made

    def test_the_one_from_before_opens_once(self, vault: Machine, other: Machine) -> None:
        new = {"TGDAV_PASSPHRASE": NEW}
        for words in (("status",), ("auth",)):
            done = vault.run(*words, check=False, variables=new)
            assert done.code == 3
            assert "wrong passphrase; if it was changed on another machine, run 'tgdav sync' once" in done.stderr
        assert "is the writer now" in vault.run("sync", check=False).stderr
        assert vault.run("status", check=False).code == 3
        vault.run("status", variables=new)
        log_in(vault, variables=new)

    def test_the_recovery_key_sets_the_next(self, server: Server, machine: Machine) -> None:
        log_in(machine)
        key = machine.run("--json", "init").json()["recovery_key"]
        other = machine.beside("second", config=telegram_config(server))
        log_in(other)
        other.run("init", "--join")
        other.run("passwd", input=f"{NEW}\n")
        machine.run("passwd", input="a third\n", variables={"TGDAV_PASSPHRASE": None, "TGDAV_RECOVERY_KEY": key})
        other.run("sync", variables={"TGDAV_PASSPHRASE": NEW})
        for home in (machine, other):
            home.run("status", variables={"TGDAV_PASSPHRASE": "a third"})
            assert home.run("status", check=False, variables={"TGDAV_PASSPHRASE": NEW}).code == 3

    def test_without_it_the_machine_begins_anew(self, vault: Machine, other: Machine) -> None:
        (vault.path / "state").rename(vault.path / "state-before")
        vault.variables["TGDAV_PASSPHRASE"] = NEW
        log_in(vault)
        assert "epoch 3" in vault.run("init", "--join").stdout

    @pytest.mark.parametrize("serving", [False, True])
    def test_the_next_one_needs_what_opens_it_now(self, vault: Machine, other: Machine, serving: bool) -> None:
        with vault.server() if serving else nullcontext():
            done = vault.run("passwd", input="a third\n", check=False)
            assert (done.code, "wrong passphrase" in done.stderr) == (3, True)
        other.run("status")
        assert vault.run("status", check=False, variables={"TGDAV_PASSPHRASE": "a third"}).code == 3

    def test_a_login_kept_for_joining_is_made_again(self, server: Server, vault: Machine) -> None:
        third = vault.beside("third", config=telegram_config(server))
        log_in(third)
        vault.run("passwd", input=f"{NEW}\n")
        assert "wrong passphrase" in third.run("init", "--join", check=False).stderr
        third.variables["TGDAV_PASSPHRASE"] = NEW
        done = third.run("init", "--join", check=False)
        assert (done.code, "run 'tgdav auth' again with this" in done.stderr) == (3, True)
        log_in(third)
        third.run("init", "--join")


def test_a_copied_home_is_refused_at_once_while_the_other_uses_the_login(
    vault: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[Secret]()

    def open_volume(invocation: Invocation, secret: Secret) -> Volume:
        opened.append(secret)
        return session_open(invocation, secret)

    session_open = session.open_volume
    monkeypatch.setattr(session, "BUSY_SECONDS", 1.0)
    monkeypatch.setattr(session, "open_volume", open_volume)
    copy = vault.beside("copy")
    shutil.copytree(vault.path, copy.path, dirs_exist_ok=True)
    with vault.server():
        done = copy.run("sync", check=False)
        assert done.code == 6
        assert "another tgdav process uses this Telegram login" in done.stderr
        assert len(opened) == 1, "it was tried again, though waiting changes nothing"


@pytest.mark.parametrize("words", [("auth",), ("auth", "--logout")])
def test_a_directory_needs_no_login(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = Machine(tmp_path, config=config_for(tmp_path)).run(*words, check=False)
    assert (done.code, "needs no login" in done.stderr) == (2, True)


@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_login_is_replaced_by_the_next_of_the_same_account(
    server: Server, vault: Machine, lost: bool
) -> None:
    sealed = vault.path / "state" / SEALED
    if lost:
        sealed.unlink()
    else:
        sealed.write_bytes(sealed.read_bytes()[:-1])
    assert vault.run("status").code == 0
    server.add_account(OTHER, "54321")
    other = log_in(vault, OTHER, ["54321"], check=False)
    assert (other.code, "another Telegram account" in other.stderr) == (3, True)
    done = vault.run("sync", check=False)
    assert (done.code, "run 'tgdav auth'" in done.stderr) == (3, True)
    log_in(vault)
    vault.run("sync", "--wait")


def test_a_wrong_passphrase_is_reported_without_telegram(server: Server, vault: Machine) -> None:
    before = server.statistics()["connections"]
    done = vault.run("status", check=False, variables={"TGDAV_PASSPHRASE": "wrong"})
    assert (done.code, "wrong passphrase" in done.stderr) == (3, True)
    assert log_in(vault, check=False, variables={"TGDAV_PASSPHRASE": "wrong"}).code == 3
    assert server.statistics()["connections"] == before


def test_files_are_private_and_sealed(vault: Machine) -> None:
    for path in (vault.path / "state").iterdir():
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    text = (vault.path / "state" / SEALED).read_bytes()
    assert not re.search(rb"[A-Za-z0-9_-]{40}", text)
