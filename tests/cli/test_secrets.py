"""Where secrets come from, and in which order."""

import io
import sys
from pathlib import Path

import pytest

from tests.support.seams import SeededEntropy
from tgdav.cli import secrets
from tgdav.cli.invocation import Invocation
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import RecoveryKey, format_recovery_key
from tgdav.errors import AccessError, UsageError
from tgdav.volume.seams import Seams

KEY = RecoveryKey(bytes(range(32)))
SOURCES = ("option", "variable-file", "variable", "credential", "key-file")


def invocation(folder: Path, **environment: str) -> Invocation:
    seams = Seams.system()
    return Invocation({"TGDAV_HOME": str(folder)} | environment, Seams(seams.clock, SeededEntropy(), seams.disk))


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
        run.bare_places.key_file.write_text("key-file\n")
    return run


@pytest.mark.parametrize("first", range(len(SOURCES)))
def test_the_first_source_wins(tmp_path: Path, first: int) -> None:
    assert secrets.find_passphrase(prepared(tmp_path, SOURCES[first:])) == Passphrase(SOURCES[first])


def test_at_last_one_line_of_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "  one line \nanother\n")
    assert secrets.passphrase(prepared(tmp_path, ())) == Passphrase("  one line ")
    assert sys.stdin.readline() == "another\n"


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


def test_the_recovery_key_goes_before_the_passphrase(tmp_path: Path) -> None:
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
    file = run.bare_places.key_file
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


def test_a_hash_is_never_taken_for_a_password(tmp_path: Path) -> None:
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
