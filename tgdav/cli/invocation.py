"""One run of the program: global options, environment, and the configuration and paths that result."""

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tgdav.cli import process
from tgdav.cli.output import Output
from tgdav.platform import Platform

if TYPE_CHECKING:
    # pydantic's models take longer to import than all the rest, and 'tgdav --help' does not need them.
    from tgdav.config import Config, LoadedConfig, StatePaths

OPTIONS_FILE = "options.json"
"""Beside the key file: options of ``init`` that the user's configuration file lacks."""


@dataclass
class Invocation:
    """The global options, set while click parses them, and what follows from them."""

    environment: Mapping[str, str]
    platform: Platform
    json: bool = False
    verbose: int = 0
    config_option: Path | None = None
    namespace: str | None = None
    passphrase_file: Path | None = None
    recovery_key_file: Path | None = None

    @cached_property
    def output(self) -> Output:
        """Where results are printed."""
        return Output(as_json=self.json)

    @cached_property
    def initial_paths(self) -> "StatePaths":
        """The paths before the configuration is read."""
        from tgdav.config import StatePaths

        return StatePaths.from_environment(self.environment, self.config_option)

    @property
    def options_file(self) -> Path:
        """The file in which ``init`` keeps options that the configuration file lacks."""
        return self.initial_paths.key_file.with_name(OPTIONS_FILE)

    @property
    def has_config_file(self) -> bool:
        """Whether a configuration file exists, or was named."""
        return self.initial_paths.config_named or self.initial_paths.config_file.exists()

    def load_file(self) -> "LoadedConfig | None":
        """Load the user's configuration file; None when there is none. Raises ConfigError."""
        from tgdav.config import holds_secrets, load

        if not self.has_config_file:
            return None
        file = self.initial_paths.config_file
        loaded = load(file, self.environment)
        if holds_secrets(loaded.raw):
            self.warn_of_readers(file, file.stat())
        return loaded

    def warn_of_readers(self, file: Path, found: os.stat_result) -> None:
        """Warn when another user owns a file with a secret, or may read it. Pipes and devices are not checked."""
        if not stat.S_ISREG(found.st_mode):
            return
        if found.st_uid not in (os.geteuid(), 0):
            self.output.warn(f"{file} contains a secret and belongs to another user, who can read and change it")
        elif stat.S_IMODE(found.st_mode) & 0o077:
            self.output.warn(f"{file} contains a secret, and other users may read it: run chmod 600 {file}")

    def warn_of_home(self) -> None:
        """Warn when another user owns TGDAV_HOME, or may replace files in it."""
        home = self.initial_paths.home
        try:
            found = None if home is None else home.stat()
        except OSError:
            return
        if found is not None and found.st_uid not in (os.geteuid(), 0):
            self.output.warn(f"{home} belongs to another user, who can replace what is in it")
        elif found is not None and stat.S_IMODE(found.st_mode) & 0o022:
            self.output.warn(f"other users can replace what is in {home}: run chmod 700 {home}")

    @cached_property
    def config(self) -> "Config":
        """The configuration in force. Raises ConfigError."""
        from tgdav.config import Config

        self.warn_of_home()
        loaded = self.load_file()
        return Config() if loaded is None else self.completed(loaded, self._kept_options())

    @cached_property
    def paths(self) -> "StatePaths":
        """The paths with those that the configuration sets. Raises ConfigError."""
        return self.initial_paths.for_config(self.config)

    @property
    def store_place(self) -> str:
        """The location of the store, as text. Raises ConfigError."""
        if self.config.backend() == "directory":
            return str(self.paths.store)
        peer = self.config.telegram.peer
        return f"Telegram ({'Saved Messages' if peer == 'me' else f'the chat {peer}'})"

    def completed(self, loaded: "LoadedConfig", options: Mapping[str, Any]) -> "Config":
        """Return the configuration, completed from ``options``, a tree of version 2."""
        from tgdav.config import parse

        if not options:
            return loaded.config
        tree = {"version": 2} | filled(loaded.raw, options)
        return parse(json.dumps(tree).encode(), loaded.path, self.environment).config

    def _kept_options(self) -> dict[str, Any]:
        from tgdav.config import parse

        try:
            data = self.options_file.read_bytes()
        except FileNotFoundError:
            return {}
        kept = parse(data, self.options_file, {}).raw
        return {key: value for key, value in kept.items() if key != "version"}


def short_path(invocation: Invocation, path: Path) -> str:
    """Return a path as text, with ``~`` for the user's home directory."""
    home = invocation.environment.get("HOME", "")
    inside = home.startswith("/") and len(home) > 1 and path.is_relative_to(home)
    return f"~/{path.relative_to(home)}" if inside else str(path)


def filled(tree: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``tree``, completed by the values of ``options`` that it lacks."""
    result = dict(tree)
    for key, value in options.items():
        held = result.get(key)
        if isinstance(value, Mapping) and isinstance(held, Mapping | None):
            result[key] = filled(held or {}, value)
        elif held is None:
            result[key] = value
    return result


Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def global_options(decorated: Decorated) -> Decorated:
    """Add the options that every command takes, before or after its name."""
    for option in reversed(_GLOBAL_OPTIONS):
        decorated = option(decorated)
    return decorated


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def store(context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if value:
            invocation = context.ensure_object(Invocation)
            setattr(invocation, name, value)
            process.set_log_level(invocation.verbose)
        return value

    return store


class GlobalOption(click.Option):
    """An option that every command takes."""


def _option(*declarations: str, name: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    return click.option(*declarations, name, cls=GlobalOption, callback=_store(name), expose_value=False, **settings)


_FILE = click.Path(path_type=Path)
_GLOBAL_OPTIONS = (
    _option("--config", name="config_option", type=_FILE, metavar="FILE", help="Configuration file."),
    _option("--namespace", name="namespace", metavar="NAME", help="Namespace to open (default: the first one)."),
    _option("--json", name="json", is_flag=True, help="Print one JSON object."),
    _option("-v", "--verbose", name="verbose", count=True, help="Show more; with errors, a traceback."),
    _option("--passphrase-file", name="passphrase_file", type=_FILE, metavar="FILE", help="File with the passphrase."),
)


def recovery_key_option(decorated: Decorated) -> Decorated:
    """Add the option ``--recovery-key-file``, stored in the invocation."""

    def keep(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
        context.ensure_object(Invocation).recovery_key_file = value

    option = click.option(
        "--recovery-key-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=keep,
        expose_value=False,
        help="File with the recovery key, instead of the passphrase.",
    )
    return option(decorated)
