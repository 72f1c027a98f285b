"""The configuration: one frozen model a section, files of version 1 and 2 read into it, and where everything lives.

Nothing here reads the environment; the commands hand it in. ``load`` either returns or raises ConfigError, whatever
the file holds, and no error text holds a secret's value.
"""

from tgdav.config.loading import LoadedConfig, load, migrate, parse
from tgdav.config.model import Config, Namespace
from tgdav.config.places import Places
from tgdav.config.problems import holds_secrets
from tgdav.config.views import namespace_of, notices, opening, require_built, show

__all__ = [
    "Config",
    "LoadedConfig",
    "Namespace",
    "Places",
    "holds_secrets",
    "load",
    "migrate",
    "namespace_of",
    "notices",
    "opening",
    "parse",
    "require_built",
    "show",
]
