"""Where secrets come from, and in which order."""

import io
import re
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Machine
from tests.support.platform import SeededEntropy
from tgdav.cli import secrets
from tgdav.cli.invocation import Invocation
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import RecoveryKey, format_recovery_key
from tgdav.errors import AccessError, UsageError
from tgdav.platform import Platform

KEY = RecoveryKey(bytes(range(32)))
SOURCES = ("option", "variable-file", "variable", "credential", "key-file")


def invocation(folder: Path, **environment: str) -> Invocation:
    platform = Platform.system()
    return Invocation(
        {"TGDAV_HOME": str(folder)} | environment, Platform(platform.clock, SeededEntropy(), platform.disk)
    )


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def prepared(folder: Path, sources: tuple[str, ...]) -> Invocation:
    """Return an invocation in which each of ``sources`` gives its own name as the passphrase."""
    for name in SOURCES:
        (folder / name).write_text(f"{name}\n")
    (folder / "credentials").mkdir()
    (folder / "credentials" / "tgdav-passphrase").write_text("credential")
    environment = {
        "variable-file": ("TGDAV_PASSPHRASE_FILE", str(folder / "variable-file")),
        "variable": ("TGDAV_PASSPHRASE", "variable"),
        "credential": ("CREDENTIALS_DIRECTORY", str(folder / "credentials")),
    }
    run = invocation(folder, **dict(pair for name, pair in environment.items() if name in sources))
    if "option" in sources:
        run.passphrase_file = folder / "option"
    if "key-file" in sources:
        run.initial_paths.key_file.write_text("key-file\n")
    return run


@pytest.mark.parametrize("first", range(len(SOURCES)))
def test_the_first_source_wins(tmp_path: Path, first: int) -> None:
    assert secrets.find_passphrase(prepared(tmp_path, SOURCES[first:])) == Passphrase(SOURCES[first])


def test_at_last_one_line_of_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "  one line \nanother\n")
    assert secrets.passphrase(prepared(tmp_path, ())) == Passphrase("  one line ")
    assert sys.stdin.readline() == "another\n"


BOM = "\ufeff"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize(
    "source", ["option", "variable-file", "variable", "command", "credential", "key-file", "typed", "new"]
)
def test_one_byte_order_mark_and_the_end_of_the_line_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, end: str
) -> None:
    """Editors on Windows write both; a passphrase with them in it opens nothing anywhere else."""
    text = f"{BOM}{BOM}pass wörd{end}"
    run = prepared(tmp_path, (source,) if source in SOURCES else ())
    name = {"credential": "credentials/tgdav-passphrase", "key-file": "vault.key"}.get(source, source)
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    if source == "variable":
        run = invocation(tmp_path, TGDAV_PASSPHRASE=text)
    if source == "command":
        run = invocation(tmp_path, TGDAV_PASSPHRASE_COMMAND=f"cat {tmp_path / 'command'}")
    if source == "typed":
        typed(monkeypatch, text)
    found = secrets.new_passphrase(run, tmp_path / "new") if source == "new" else secrets.passphrase(run)
    assert found == Passphrase(f"{BOM}pass wörd")


@pytest.mark.parametrize("source", ["option", "variable"])
def test_a_recovery_key_may_begin_with_a_byte_order_mark(tmp_path: Path, source: str) -> None:
    text = BOM + format_recovery_key(KEY)
    run = invocation(tmp_path, **({"TGDAV_RECOVERY_KEY": text} if source == "variable" else {}))
    if source == "option":
        run.recovery_key_file = tmp_path / "file"
        run.recovery_key_file.write_text(f"{text}\r\n", encoding="utf-8")
    assert secrets.passphrase_or_recovery_key(run) == KEY


class TestCommand:
    def test_comes_after_the_variable_and_before_the_credential(self, tmp_path: Path) -> None:
        command = {"TGDAV_PASSPHRASE_COMMAND": "echo 'from the command'"}
        (tmp_path / "credentials").mkdir()
        (tmp_path / "credentials" / "tgdav-passphrase").write_text("credential")
        folder = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
        assert secrets.find_passphrase(invocation(tmp_path, **command, **folder)) == Passphrase("from the command")
        assert secrets.find_passphrase(invocation(tmp_path, TGDAV_PASSPHRASE="v", **command)) == Passphrase("v")

    def test_runs_without_a_shell_and_leaves_standard_input_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        typed(monkeypatch, "the new one\n")
        run = invocation(tmp_path, TGDAV_PASSPHRASE_COMMAND="echo '$HOME; a  b'")
        assert secrets.find_passphrase(run) == Passphrase("$HOME; a  b")
        run = invocation(tmp_path, TGDAV_PASSPHRASE_COMMAND="sh -c 'cat; echo end'")
        assert secrets.find_passphrase(run) == Passphrase("end")
        assert secrets.new_passphrase(run, None) == Passphrase("the new one")

    @pytest.mark.parametrize(
        ("command", "error", "says"),
        [
            ("sh -c 'echo hunter2; exit 7'", AccessError, "ended with exit code 7"),
            ("/no/such/program hunter2", UsageError, "No such file"),
            ("'hunter2", UsageError, "not a valid command"),
            ("'' hunter2", UsageError, "cannot be run"),
            ("true hunter2", UsageError, "is empty"),
            ("printf 'hunter2\\n\\nhunter2'", UsageError, "more than one line"),
            ("yes hunter2", UsageError, "more than one line"),
            ("head -c 5000 /dev/zero", UsageError, "more than one line"),
        ],
    )
    def test_fails_in_words_that_do_not_show_it(
        self, tmp_path: Path, command: str, error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error, match=says) as caught:
            secrets.find_passphrase(invocation(tmp_path, TGDAV_PASSPHRASE_COMMAND=command))
        assert "hunter2" not in str(caught.value)

    def test_opens_a_vault(self, vault: Machine) -> None:
        variables = {"TGDAV_PASSPHRASE": None, "TGDAV_PASSPHRASE_COMMAND": f"echo {vault.passphrase}"}
        assert vault.beside(vault.path.name, variables=variables).run("status").code == 0


class TestStrength:
    @pytest.mark.parametrize("words", [("init",), ("passwd",)])
    def test_a_weak_one_is_accepted_with_one_warning(self, home: Machine, words: tuple[str, ...]) -> None:
        if words == ("passwd",):
            home.run("init")
            done = home.run("passwd", input="hunter2\n")
        else:
            done = home.run("init", variables={"TGDAV_PASSPHRASE": "hunter2"})
        advice = [line for line in done.stderr.splitlines() if "weak" in line]
        assert len(advice) == 1
        assert "four or five random words" in advice[0]
        assert "hunter2" not in done.stderr

    @pytest.mark.parametrize("chosen", ["correct horse battery staple", "correct horse battery stäple" * 100])
    def test_a_strong_one_is_accepted_without_a_warning(self, home: Machine, chosen: str) -> None:
        assert "weak" not in home.run("init", variables={"TGDAV_PASSPHRASE": chosen}).stderr

    @pytest.mark.parametrize("place", ["typed", "file", "variable"])
    @pytest.mark.parametrize("command", ["init", "passwd"])
    def test_an_empty_one_is_refused(self, home: Machine, tmp_path: Path, command: str, place: str) -> None:
        (tmp_path / "empty").write_text("\n")
        option = "--passphrase-file" if command == "init" else "--new-passphrase-file"
        words = (command, option, str(tmp_path / "empty")) if place == "file" else (command,)
        variables = {"TGDAV_PASSPHRASE": "" if place == "variable" else None} if command == "init" else {}
        if command == "passwd":
            home.run("init")
        refused = home.beside(home.path.name, variables=variables).run(*words, input="\n", check=False)
        assert refused.code == 2
        assert "empty" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def add_to_configuration(home: Machine, text: str) -> None:
    with open(home.path / "config.yaml", "a", encoding="utf-8") as file:
        file.write(text)


class TestReaders:
    """Files with secrets that other users may read."""

    def test_each_is_named_once_beside_a_result(self, vault: Machine, tmp_path: Path) -> None:
        file = tmp_path / "passphrase"
        file.write_text(vault.passphrase)
        add_to_configuration(vault, "webdav: {users: [{name: anna, password: hunter2}]}\n")
        for path, mode in ((file, 0o644), (vault.path / "config.yaml", 0o640), (vault.path, 0o770)):
            path.chmod(mode)
        done = vault.run("--passphrase-file", str(file), "status")
        warned = re.findall(r"^tgdav: .*run chmod (\d+) (.*)$", done.stderr, re.M)
        assert sorted(warned) == sorted(
            [("600", str(file)), ("600", f"{vault.path}/config.yaml"), ("700", str(vault.path))]
        )
        assert "hunter2" not in done.stderr
        for path in (file, vault.path / "config.yaml"):
            path.chmod(0o600)
        vault.path.chmod(0o755)
        assert vault.run("--passphrase-file", str(file), "status").stderr == ""

    def test_no_warning_is_printed_beside_an_error(self, vault: Machine, tmp_path: Path) -> None:
        (tmp_path / "passphrase").write_text("wrong")
        (tmp_path / "passphrase").chmod(0o644)
        done = vault.run("--passphrase-file", str(tmp_path / "passphrase"), "status", check=False)
        assert (done.code, done.stderr) == (3, "tgdav: wrong passphrase\n")

    def test_a_configuration_without_secrets_may_be_read(self, vault: Machine) -> None:
        add_to_configuration(vault, "telegram: {api_hash: '${HOME}', proxy: {type: socks5, host: h, port: 1}}\n")
        (vault.path / "config.yaml").chmod(0o644)
        assert vault.run("status").stderr == ""


def test_no_secret_at_all_is_an_access_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "")
    with pytest.raises(AccessError, match="no passphrase was given"):
        secrets.passphrase(prepared(tmp_path, ()))


def test_nothing_asks_twice_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "new\nrest\n")
    assert secrets.new_passphrase(invocation(tmp_path), None) == Passphrase("new")


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert secrets.find_passphrase(invocation(tmp_path, TGDAV_PASSPHRASE="", TGDAV_PASSPHRASE_FILE="")) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"x" * 5000])
def test_files_that_hold_no_passphrase_are_refused(tmp_path: Path, content: bytes) -> None:
    run = invocation(tmp_path)
    run.passphrase_file = tmp_path / "file"
    run.passphrase_file.write_bytes(content)
    with pytest.raises(UsageError):
        secrets.find_passphrase(run)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        secrets.find_passphrase(invocation(tmp_path, TGDAV_PASSPHRASE_FILE=str(tmp_path / "gone")))


def test_the_recovery_key_takes_precedence_over_the_passphrase(tmp_path: Path) -> None:
    run = invocation(tmp_path, TGDAV_PASSPHRASE="p", TGDAV_RECOVERY_KEY=format_recovery_key(KEY).lower())
    assert secrets.passphrase_or_recovery_key(run) == KEY
    run.recovery_key_file = tmp_path / "file"
    run.recovery_key_file.write_text("no key\n")
    with pytest.raises(AccessError):
        secrets.passphrase_or_recovery_key(run)


def test_either_may_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, format_recovery_key(KEY) + "\n" + "x" * 70 + "\nshort\n")
    run = invocation(tmp_path)
    assert secrets.passphrase_or_recovery_key(run) == KEY
    assert secrets.passphrase_or_recovery_key(run) == Passphrase("x" * 70)
    assert secrets.passphrase_or_recovery_key(run) == Passphrase("short")


def test_the_key_file_is_private_and_used(tmp_path: Path) -> None:
    run = invocation(tmp_path / "new")
    made = secrets.make_key_file(run)
    file = run.initial_paths.key_file
    assert file.stat().st_mode & 0o777 == 0o600
    assert secrets.find_passphrase(run) == made
    assert secrets.drop_key_file(run)
    assert not file.exists()
    assert not secrets.drop_key_file(run)


@pytest.mark.parametrize("secret", [Passphrase("pässword"), KEY])
def test_secrets_travel(secret: Passphrase | RecoveryKey) -> None:
    assert secrets.from_wire(secrets.to_wire(secret)) == secret


@pytest.mark.parametrize("found", [None, 3, {}, {"passphrase": 3}, {"recovery_key": "zz"}, {"recovery_key": "é" * 64}])
def test_nonsense_is_no_secret(found: object) -> None:
    with pytest.raises(UsageError):
        secrets.from_wire(found)


def test_configured_users_go_before_the_variable(tmp_path: Path) -> None:
    run = invocation(tmp_path, TGDAV_WEBDAV_PASSWORD="from variable")
    assert secrets.webdav_users(run, lambda: "sealed") == {"tgdav": "from variable"}
    assert secrets.webdav_users(invocation(tmp_path), lambda: "sealed") == {"tgdav": "sealed"}
    (tmp_path / "config.yaml").write_text("webdav: {users: [{name: anna, password: secret}]}\n")
    run = invocation(tmp_path, TGDAV_WEBDAV_PASSWORD="from variable")
    assert secrets.webdav_users(run, lambda: "sealed") == {"anna": "secret"}


def test_a_hash_is_never_used_as_a_password(tmp_path: Path) -> None:
    hashed = "$argon2id$v=19$m=65536,t=3,p=4$" + "c2FsdHNhbHQ" + "$" + "A" * 43
    (tmp_path / "config.yaml").write_text(
        f"webdav: {{users: [{{name: anna, password: '{hashed}'}}, {{name: berta, password: secret}}]}}\n"
    )
    run = invocation(tmp_path, TGDAV_WEBDAV_PASSWORD=hashed)
    assert secrets.webdav_users(run, lambda: "sealed") == {"berta": "secret"}
    assert secrets.webdav_hashes(run) == {"anna": hashed}


def test_only_hashes_leave_no_other_login(tmp_path: Path) -> None:
    hashed = "$argon2id$v=19$m=65536,t=3,p=4$" + "c2FsdHNhbHQ" + "$" + "A" * 43
    (tmp_path / "config.yaml").write_text(f"webdav: {{users: [{{name: anna, password: '{hashed}'}}]}}\n")
    assert secrets.webdav_users(invocation(tmp_path, TGDAV_WEBDAV_PASSWORD="x"), lambda: "sealed") == {}
