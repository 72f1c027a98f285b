"""The configuration: one frozen model for each section, files of version 1 and 2, and the paths of local files.

Nothing here reads the environment; the commands pass it in. ``load`` returns or raises ConfigError, whatever the file
contains, and no error message contains the value of a secret.
"""

from tgdav.config.loading import LoadedConfig, load, migrate, parse
from tgdav.config.model import Config, Namespace, find_namespace, notices, require_supported, select_namespace
from tgdav.config.paths import StatePaths
from tgdav.config.validation_errors import holds_secrets

__all__ = [
    "Config",
    "LoadedConfig",
    "Namespace",
    "StatePaths",
    "find_namespace",
    "holds_secrets",
    "load",
    "migrate",
    "notices",
    "parse",
    "require_supported",
    "select_namespace",
]
