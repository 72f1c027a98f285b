"""What may be said about a configuration: its values without secrets, notices, and what is not built yet."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from tgdav.config.model import DEFAULT_NAMESPACE, Config, Namespace
from tgdav.config.problems import HIDDEN
from tgdav.errors import UsageError

BUILT_MODES = frozenset({"standalone"})
WEAK_MEMORY_KIB = 19_456  # OWASP's least for Argon2id


def show(config: Config, secrets: bool = False) -> dict[str, Any]:
    """Return all values as JSON's types; secrets as ``(hidden)`` unless ``secrets``."""
    result: dict[str, Any] = _shown(config, secrets)
    return result


def _shown(value: Any, secrets: bool) -> Any:
    if isinstance(value, BaseModel):
        return {name: _shown(getattr(value, name), secrets) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [_shown(item, secrets) for item in value]
    if isinstance(value, SecretStr):
        return value.get_secret_value() if secrets else HIDDEN
    return str(value) if isinstance(value, Path) else value


def namespace_of(config: Config, name: str | None = None) -> Namespace:
    """Return the namespace called ``name``; without a name the first one listed, else the default one.

    Raises UsageError when no namespace is called that.
    """
    listed = config.namespaces or (Namespace(name=DEFAULT_NAMESPACE, type=config.distribution.mode),)
    if name is None:
        return listed[0]
    for namespace in listed:
        if namespace.name == name:
            return namespace
    known = ", ".join(namespace.name for namespace in listed)
    raise UsageError(f"there is no namespace '{name}' in the configuration", hint=f"it lists: {known}")


def require_built(config: Config, namespace: str | None = None) -> None:
    """Raise UsageError when the namespace to be opened needs a mode that this version does not have."""
    wanted = namespace_of(config, namespace)
    if wanted.type not in BUILT_MODES:
        raise UsageError(
            f"the namespace '{wanted.name}' needs the mode {wanted.type}, which this version of tgdav cannot serve yet",
            hint="open another namespace with --namespace, or make its type standalone",
        )


def opening(config: Config, namespace: str | None = None) -> Config:
    """Return the configuration with the namespace that is to be opened first, for what makes or joins a vault.

    Raises UsageError as ``require_built`` does: before anything is made.
    """
    require_built(config, namespace)
    wanted = namespace_of(config, namespace)
    if wanted not in config.namespaces:
        return config
    others = tuple(each for each in config.namespaces if each is not wanted)
    return config.model_copy(update={"namespaces": (wanted, *others)})


def notices(config: Config) -> list[str]:
    """Return, a line each, what the user should know although the configuration is accepted."""
    telegram, directory = config.telegram, config.storage.directory
    lacking = [key for key in ("api_id", "api_hash") if getattr(telegram, key) is None]
    unbuilt = [item.name for item in config.namespaces if item.type not in BUILT_MODES]
    built = [item.name for item in config.namespaces if item.type in BUILT_MODES]
    hashed = [user.name for user in config.webdav.users if user.password_is_hash]
    said = {
        "telegram.session_file is not used: the session lives sealed in the state": telegram.session_file,
        f"telegram.{' and telegram.'.join(lacking)} must be set for the Telegram store": (
            config.backend() == "telegram" and lacking
        ),
        "storage.directory.path is not used: the store is Telegram": (
            config.backend() == "telegram" and directory.path
        ),
        f"not served by this version of tgdav: the namespaces {', '.join(unbuilt)}": unbuilt,
        f"this version keeps one namespace in a vault, the one it is made with; listed are {', '.join(built)}": (
            len(built) > 1
        ),
        f"only Basic authentication works for users with a hashed password: {', '.join(hashed)}": hashed,
        f"encryption.argon2_memory_kib is low: at least {WEAK_MEMORY_KIB} is advised": (
            config.encryption.argon2_memory_kib < WEAK_MEMORY_KIB
        ),
    }
    return [line for line, holds in said.items() if holds]
