"""Every command and option is in docs/commands.md."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tgdav.cli.app import tgdav

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def commands(group: click.Group, above: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
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
        given = parameter.opts if isinstance(parameter, click.Option) else [str(parameter.name).upper()]
        for option in given:
            assert option in section or option in everywhere, f"{words}: {option} is not documented"


def test_no_command_lacks_its_help() -> None:
    for words, command in commands(tgdav, "tgdav"):
        assert command.help, words
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (words, parameter.name)


def test_commands_of_later_versions_are_not_there() -> None:
    assert not {"auth", "snapshot", "gc", "trash", "versions", "restore"} & set(tgdav.commands)
