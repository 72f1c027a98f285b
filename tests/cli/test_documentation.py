"""Every command and option is in docs/commands.md."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tgdav.cli.app import tgdav
from tgdav.cli.help import UNSUPPORTED

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def commands(group: click.Group, above: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        words = f"{above} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, words)
        else:
            yield words, command


@pytest.mark.parametrize(("words", "command"), list(commands(tgdav, "tgdav")))
def test_it_is_documented(words: str, command: click.Command) -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition(f"### `{words}")[2].partition("\n### ")[0]
    assert section, f"docs/commands.md has no section '### `{words}'"
    everywhere = text.partition("## Secrets")[0]
    for parameter in command.params:
        given = parameter.opts if isinstance(parameter, click.Option) else [_argument(parameter)]
        for option in given:
            assert option in section or option in everywhere, f"{words}: {option} is not documented"


def _argument(parameter: click.Parameter) -> str:
    """Return an argument as its command's heading writes it."""
    return (parameter.metavar or str(parameter.name).upper()).removesuffix("...")


def test_no_command_lacks_its_help() -> None:
    for words, command in commands(tgdav, "tgdav"):
        assert command.help, words
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (words, parameter.name)


def test_commands_of_later_versions_are_not_there() -> None:
    assert {"setup"} <= UNSUPPORTED
    assert not UNSUPPORTED & set(tgdav.list_commands(click.Context(tgdav)))


def test_the_list_of_commands_repeats_the_help_of_each() -> None:
    context = click.Context(tgdav, info_name="tgdav", max_content_width=200, terminal_width=200)
    lines = tgdav.get_help(context).partition("To start:")[2].split("\n")
    listed = dict(line.split(None, 1) for line in lines if line.startswith("  "))
    for name in tgdav.list_commands(context):
        command = tgdav.get_command(context, name)
        assert command is not None
        assert listed[name] == command.get_short_help_str(200)


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--version"], ["sqlalchemy", "wsgidav", "cheroot", "lxml", "pydantic", "rich", "cryptography"]),
        (["--help"], ["sqlalchemy", "wsgidav", "cheroot", "lxml", "pydantic", "rich", "cryptography"]),
        (["config", "check"], ["sqlalchemy", "wsgidav", "cheroot", "lxml", "rich"]),
        (["status"], ["sqlalchemy", "wsgidav", "cheroot", "lxml", "rich"]),
        (["unmount", "/"], ["sqlalchemy", "wsgidav", "cheroot", "lxml", "rich"]),
    ],
)
def test_quick_commands_import_nothing_heavy(words: list[str], heavy: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from tgdav.cli import main; main(sys.argv[1:], {'TGDAV_HOME': sys.argv.pop(1)});"
        "print('imported', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *words], capture_output=True, text=True, check=True
    )
    imported = done.stdout.split("imported ")[1].split()
    assert "click" in imported
    assert not set(heavy) & set(imported)
