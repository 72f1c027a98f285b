"""Where the files of this machine are: configuration, state, cache, directory store, key file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from tgdav.config.model import Config
from tgdav.errors import UsageError

APPLICATION = "tgdav"

MAX_STATE_PATH = 468
"""Bytes of the state directory's path. SQLite opens no database whose path is longer than 504; 36 are below the directory."""


@dataclass(frozen=True)
class StatePaths:
    """Absolute paths. Nothing here creates or checks them.

    ``home`` is TGDAV_HOME, None when the platform's user directories are used. ``config_file`` need not exist unless the
    user named it (``config_named``).
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
        """The file that the process owning the state holds locked (flock)."""
        return self.state / "lock"

    @property
    def control_file(self) -> Path:
        """The file with the path of the control socket: a socket's own path has at most 107 bytes."""
        return self.state / "control"

    @property
    def mount_log(self) -> Path:
        """The log of a background mount."""
        return self.state / "mount.log"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], config_option: Path | None = None) -> "StatePaths":
        """Resolve the paths. The configuration file is ``config_option`` (``--config``), TGDAV_CONFIG, or config.yaml at home.

        An empty variable counts as unset; relative paths start from the working directory. The platform's directories
        are those of ``platformdirs``, which honours XDG_CONFIG_HOME and the like. Raises UsageError for too long a path.
        """
        home = Path(environment["TGDAV_HOME"]).absolute() if environment.get("TGDAV_HOME") else None
        named = config_option or environment.get("TGDAV_CONFIG")
        base = _at_home(home) if home else _at_platform()
        _check_length(base.state)
        return replace(base, config_file=Path(named).absolute(), config_named=True) if named else base

    def for_config(self, config: Config) -> "StatePaths":
        """Return the paths with ``cache.path`` and ``storage.directory.path`` of the configuration, where set."""
        cache = config.cache.path or self.cache
        store = config.storage.directory.path or self.store
        return replace(self, cache=cache.absolute(), store=store.absolute())


def _check_length(state: Path) -> None:
    length = len(os.fsencode(state))
    if length > MAX_STATE_PATH:
        raise UsageError(
            f"the path of the state directory has {length} bytes, at most {MAX_STATE_PATH} are possible",
            hint="set TGDAV_HOME to a directory with a shorter path",
        )


def _at_home(home: Path) -> StatePaths:
    return StatePaths(
        home=home,
        config_file=home / "config.yaml",
        config_named=False,
        state=home / "state",
        cache=home / "cache",
        store=home / "store",
        key_file=home / "vault.key",
    )


def _at_platform() -> StatePaths:
    directories = platformdirs.PlatformDirs(APPLICATION, appauthor=False)
    return StatePaths(
        home=None,
        config_file=directories.user_config_path / "config.yaml",
        config_named=False,
        state=directories.user_state_path / "state",
        cache=directories.user_cache_path / "cache",
        store=directories.user_data_path / "store",
        key_file=directories.user_data_path / "vault.key",
    )
