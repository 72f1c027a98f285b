"""Where everything of this machine lives."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from tgdav.config.model import Config
from tgdav.errors import UsageError

APPLICATION = "tgdav"

LONGEST_STATE = 468
"""Bytes of the state folder's path: SQLite opens no database whose path has more than 504, and ours has 36 below the folder."""


@dataclass(frozen=True)
class Places:
    """Absolute paths; nothing here makes or checks them.

    ``home`` is TGDAV_HOME, None when the platform's user folders serve. ``config_file`` may not exist;
    ``config_named`` says that the user named it, so that its absence is an error.
    """

    home: Path | None
    config_file: Path
    config_named: bool
    state: Path
    cache: Path
    store: Path
    key_file: Path

    @property
    def lock_file(self) -> Path:
        """The file whose lock the owner of the state holds."""
        return self.state / "lock"

    @property
    def control_note(self) -> Path:
        """The file that names the control socket, whose own path must be short (107 bytes)."""
        return self.state / "control"

    @property
    def mount_log(self) -> Path:
        """What a mount in the background has to say."""
        return self.state / "mount.log"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], config_option: Path | None = None) -> "Places":
        """Resolve the places: ``config_option`` (``--config``) > TGDAV_CONFIG > config.yaml at home.

        An empty variable counts as unset; relative paths start from the working folder. The platform's folders are
        those of ``platformdirs``, which honours XDG_CONFIG_HOME and its like. Raises UsageError for too long a path.
        """
        home = Path(environment["TGDAV_HOME"]).absolute() if environment.get("TGDAV_HOME") else None
        named = config_option or environment.get("TGDAV_CONFIG")
        base = _at_home(home) if home else _at_platform()
        _check_length(base.state)
        return replace(base, config_file=Path(named).absolute(), config_named=True) if named else base

    def for_config(self, config: Config) -> "Places":
        """Return the places with ``cache.path`` and ``storage.directory.path`` where the configuration has them."""
        cache = config.cache.path or self.cache
        store = config.storage.directory.path or self.store
        return replace(self, cache=cache.absolute(), store=store.absolute())


def _check_length(state: Path) -> None:
    length = len(os.fsencode(state))
    if length > LONGEST_STATE:
        raise UsageError(
            f"the path of the folder for the local state has {length} bytes; a database needs one of at most {LONGEST_STATE}",
            hint="set TGDAV_HOME to a folder with a shorter path",
        )


def _at_home(home: Path) -> Places:
    return Places(
        home=home,
        config_file=home / "config.yaml",
        config_named=False,
        state=home / "state",
        cache=home / "cache",
        store=home / "store",
        key_file=home / "vault.key",
    )


def _at_platform() -> Places:
    folders = platformdirs.PlatformDirs(APPLICATION, appauthor=False)
    return Places(
        home=None,
        config_file=folders.user_config_path / "config.yaml",
        config_named=False,
        state=folders.user_state_path / "state",
        cache=folders.user_cache_path / "cache",
        store=folders.user_data_path / "store",
        key_file=folders.user_data_path / "vault.key",
    )
