"""What a newcomer tries first, mistakes among it, and what tgdav answers: one row each."""

import re
import socket
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from tests.cli.conftest import Machine, config_for
from tests.cli.test_documentation import commands
from tests.cli.test_terminal import terminal
from tests.support.server import Completed
from tgdav.cli.app import tgdav

NOTHING, VAULT = "nothing", "vault"


@dataclass(frozen=True)
class Row:
    """``tgdav WORDS`` in a home with or without a vault: its exit code, and what its output matches and does not."""

    words: str
    code: int
    says: str
    never: str = ""
    home: str = NOTHING
    input: str = ""

    def __str__(self) -> str:
        return f"tgdav {self.words} ({self.home})"


TABLE = [
    # first contact
    Row("", 0, r"(?s)^Usage: tgdav .*\n  init +Create a vault", "missing"),
    Row("help", 0, r"(?s)^Usage: tgdav .*\n  init +Create a vault"),
    Row("help serve", 0, r"(?s)^Usage: tgdav serve .*--port"),
    Row("help config show", 0, r"(?s)^Usage: tgdav config show .*--secrets"),
    Row("help stat", 2, r"^tgdav: there is no command 'stat'; did you mean 'status'\?$"),
    Row("version", 0, r"^tgdav \d+\.\d+\.\d+$"),
    Row("-V", 0, r"^tgdav \d+\.\d+\.\d+$"),
    Row("--version", 0, r"^tgdav \d+\.\d+\.\d+$"),
    Row("completion bash", 0, r"complete .*_tgdav_completion.* tgdav"),
    Row("completion zsh", 0, r"#compdef tgdav"),
    Row("completion fish", 0, r"complete .*--command tgdav"),
    Row("completion csh", 2, r"^tgdav: shell: 'csh' is not one of 'bash', 'zsh', 'fish'; see"),
    Row(
        "--help",
        0,
        r"(?s)To start:\n  init .*\n  auth .*\n  serve .*\n  mount .*Every day:\n  status .*\n  sync .*\n  check .*",
    ),
    Row("--help", 0, r"(?s)Keys and recovery:\n  passwd .*\n  recovery-key .*Configuration and help:\n  config "),
    # misspelt, and not there yet
    Row("stat", 2, r"^tgdav: there is no command 'stat'; did you mean 'status'\?$"),
    Row("xyzzy", 2, r"^tgdav: there is no command 'xyzzy'; see 'tgdav --help'$"),
    Row("config chekc", 2, r"^tgdav: there is no command 'chekc'; did you mean 'check'\?$"),
    Row("--help-all", 2, r"^tgdav: there is no option '--help-all'; did you mean '--help'\?$"),
    Row("status --jsn", 2, r"^tgdav: there is no option '--jsn'; did you mean '--json'\?$"),
    *(
        Row(words, 2, rf"^tgdav: '{words.split()[0]}' is not in \d+\.\d+\.\d+ yet; see 'tgdav --help'$")
        for words in ("share create", "cluster", "doctor")
    ),
    # before there is a vault
    Row(
        "status",
        2,
        r"^tgdav: there is no vault in \S+/home; 'tgdav serve' or 'tgdav init' creates one, 'tgdav init --join'",
    ),
    Row("--config /nope config check", 2, r"^/nope: no such file$", "template|allowed"),
    Row("config check", 0, r"^ok: no configuration file, defaults apply$"),
    Row(
        "init --api-id abc",
        2,
        r"^tgdav: --api-id: give a number of 1 or more|from 1 to \d+, not 'abc'; see 'tgdav init --help'$",
    ),
    Row("serve --port 70000", 2, r"^tgdav: --port: give a number from 0 to 65535, not '70000'; see"),
    Row(
        "init --api-id 1",
        2,
        r"^tgdav: --api-hash must be given .*; take both from https://my\.telegram\.org",
        "passphrase",
    ),
    Row(
        "init --api-hash x", 2, r"^tgdav: --api-id must be given for a store in Telegram; take both from", "passphrase"
    ),
    Row(
        "init --backend directory --api-id 1 --api-hash x",
        2,
        r"^tgdav: --api-id and --api-hash belong to a store in Tele",
    ),
    Row(
        "auth",
        2,
        r"^tgdav: nothing is set up for Telegram here; run 'tgdav init --api-id N --api-hash H' first; .*my\.telegram\.org",
    ),
    Row("mount /nope", 2, r"^tgdav: /nope is not a directory; create it first"),
    # with a vault
    Row("auth", 2, r"^tgdav: the store is a directory, which needs no login; ", home=VAULT),
    Row("cache clear", 0, r"^holds       0 B of ", home=VAULT),
    Row("cache --clear", 0, r"^holds       0 B of ", home=VAULT),
    Row("status", 0, r"(?m)^waiting     nothing: everything is in the store$", "segment|header|operations", home=VAULT),
    Row("status", 0, r"(?m)^store       directory /\S+/store, reachable$", home=VAULT),
    Row("status", 0, r"(?m)^sent today  \d+\.\d KiB in \d+ messages$", home=VAULT),
    Row("status", 0, r"(?m)^last error  none$", home=VAULT),
    Row(
        "status -v",
        0,
        r"(?s)\nqueue .*\nqueue .*\nstaging .*\nprocess     none: this command.*\nversion     \d",
        home=VAULT,
    ),
    Row(
        "passwd --new-passphrase-file /nope",
        2,
        r"^tgdav: /nope: the new passphrase cannot be read: No such file",
        home=VAULT,
    ),
    Row(
        "passwd",
        0,
        r"(?s)passphrase changed\nAnyone who kept an old copy",
        home=VAULT,
        input="correct horse battery\n",
    ),
    Row("init", 2, r"^tgdav: there is a vault here already; ", home=VAULT),
    Row("recover", 2, r"^tgdav: there is a vault here already; ", home=VAULT),
    # help of commands
    Row("check --help", 0, r"--read-data\[=PERCENT\]"),
    Row("config show --help", 0, r"(?s)Print the configuration in force.*Include secrets"),
    Row("recovery-key --help", 0, r"the old one\s+stops working"),
    Row("serve --help", 0, r"Address to listen on\."),
]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Machine]:
    folder = tmp_path_factory.mktemp("newcomer")
    vault = Machine(folder, "vault", config=config_for(folder))
    (vault.path / "config.yaml").chmod(0o600)
    vault.run("init")
    return {VAULT: vault}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_what_a_newcomer_tries(row: Row, homes: dict[str, Machine], tmp_path: Path) -> None:
    home = homes.get(row.home) or Machine(tmp_path)
    done = home.run(*row.words.split(), check=False, input=row.input)
    output = done.stdout + done.stderr
    assert done.code == row.code, output
    assert re.search(row.says, output), output
    assert not (row.never and re.search(row.never, output)), output
    if row.code:
        assert len(done.stderr.splitlines()) <= 1, "more than one line of error"
    if row.home == NOTHING:
        assert not list(home.path.iterdir()), "it left something behind"


@pytest.mark.parametrize(("words", "command"), list(commands(tgdav, "tgdav")))
def test_help_has_two_headings_an_example_and_a_page(words: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=words))
    own, _, everywhere = text.partition("Global options:\n")
    assert "--json" in everywhere
    assert "--passphrase-file" in everywhere
    assert "--json" not in own
    example = re.search(r"Example:\n  (.*tgdav .+)\n", everywhere)
    assert example, text
    assert words.removeprefix("tgdav ") in example[1]
    assert everywhere.endswith("More: docs/commands.md")


def test_a_port_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home = Machine(tmp_path, variables={"TGDAV_PASSPHRASE": None, "TGDAV_WEBDAV_PASSWORD": None})
        refused = home.run("serve", "--port", str(port), check=False)
    assert refused.code == 2
    assert re.fullmatch(
        rf"tgdav: port {port} of 127\.0\.0\.1 is used by \S+ \(process \d+\); choose another with --port; --port 0 .*\n",
        refused.stderr,
    )
    assert "tls" not in refused.stderr.lower()
    assert refused.stdout == ""
    assert not list(home.path.iterdir())


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid", "x" * 70 + ".invalid"])
def test_an_address_that_is_not_ours_leaves_nothing_behind(tmp_path: Path, host: str) -> None:
    home = Machine(tmp_path)
    refused = home.run("serve", "--port", "0", "--host", host, check=False)
    assert refused.code == 2
    assert refused.stderr.startswith("tgdav: this machine has no address ")
    assert not list(home.path.iterdir())


def refused_unasked(home: Machine, *words: str) -> Completed:
    """Run a command for which a secret is not even looked for: the file that should hold it is not there."""
    bare = home.beside(home.path.name, variables={"TGDAV_PASSPHRASE": None, "TGDAV_PASSPHRASE_FILE": "/no/secret"})
    done = bare.run(*words, check=False)
    assert "/no/secret" not in done.stderr
    return done


UNASKED = [
    ("other", ("init",), 2, "init --join"),
    ("empty", ("init", "--join"), 5, "does not exist"),
    ("empty", ("recover",), 5, "does not exist"),
    ("vault", ("recover",), 2, "already"),
    ("vault", ("serve", "--no-auth", "--host", "0.0.0.0", "--port", "0"), 2, "loopback"),
    ("vault", ("serve", "--mount", "/nowhere"), 2, "not a directory"),
    ("vault", ("mount", "/"), 2, "contains files of tgdav itself"),
    ("vault", ("passwd", "--new-passphrase-file", "/missing"), 2, "/missing"),
    *(
        ("vault", ("--namespace", "none", command), 2, "no namespace 'none'")
        for command in ("status", "check", "cache")
    ),
]


@pytest.mark.parametrize(("name", "words", "code", "says"), UNASKED, ids=[" ".join(row[1]) for row in UNASKED])
def test_errors_that_need_no_secret_come_before_any_prompt(
    homes: dict[str, Machine], tmp_path: Path, name: str, words: tuple[str, ...], code: int, says: str
) -> None:
    vault = homes[VAULT]
    home = {"vault": vault, "other": Machine(tmp_path, config=config_for(vault.folder))}.get(name)
    refused = refused_unasked(home or Machine(tmp_path, config=config_for(tmp_path)), *words)
    assert refused.code == code, refused.stderr
    assert says in refused.stderr


class TestOnATerminal:
    def test_init_prompts_for_the_store(self, tmp_path: Path) -> None:
        home = Machine(tmp_path)
        with terminal(home, "init") as screen:
            screen.wait_for("in a directory, or in Telegram?")
            screen.type("directory")
            screen.wait_for("Directory [")
            screen.type(str(tmp_path / "elsewhere"))
            screen.wait_for("recovery key: ")
            assert screen.finish() == 0
        assert any((tmp_path / "elsewhere").iterdir())

    def test_a_new_recovery_key_needs_confirmation(self, home: Machine) -> None:
        home.run("init")
        with terminal(home, "recovery-key") as screen:
            screen.wait_for("Create a new one? [y/N]")
            screen.type("n")
            screen.wait_for("nothing was changed")
            assert screen.finish() == 2
            assert "recovery key: " not in screen.seen
        assert re.match("recovery key: ", home.run("recovery-key").stdout), "nothing asks without a terminal"
