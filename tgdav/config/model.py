"""The configuration, version 2: one frozen model for each section, and the choice of the namespace to open.

``config.example.yaml`` explains each key.
"""

import re
import uuid
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from tgdav.config.fields import FilePath, Section, boolean, choice, custom, gibibytes, integer, invalid, path, string
from tgdav.errors import UsageError
from tgdav.password_hash import validate_phc

GIB = 1 << 30
MIN_PACK_BYTES = 262_144
MAX_PACK_BYTES = 2_097_152_000  # Telegram's limit for a file: 4000 parts of 512 KiB
DEFAULT_AVERAGE = 1_048_576
DEFAULT_NAMESPACE = "default"

Backend = Literal["directory", "telegram"]
Mode = Literal["standalone", "master-replica", "distributed"]
Permission = Literal["read", "write", "delete", "admin"]

_MODES = ("standalone", "master-replica", "distributed")
_SHAPE_OF_UUID = re.compile(r"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}")
_PEER = re.compile(r"me|@[A-Za-z][A-Za-z0-9_]{3,31}|-100[0-9]{1,13}", re.ASCII)
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})|%00| ")
_VISIBLE_ASCII = re.compile(r"[!-~]{1,256}")


def _machine_id(value: str) -> str:
    if _SHAPE_OF_UUID.fullmatch(value):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            raise invalid("auto, a UUID, or a name that does not look like one") from None
    return value


class Machine(Section):
    """This installation."""

    id: Annotated[str, AfterValidator(_machine_id)] = string("auto", allowed="auto, a UUID, or a name")
    name: str | None = string()


class DirectoryStore(Section):
    """The directory store."""

    path: FilePath | None = path()


class Storage(Section):
    """Which store holds the blobs."""

    backend: Backend | None = choice(None, "directory", "telegram")
    directory: DirectoryStore = DirectoryStore()


def _proxy(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise invalid("a mapping, or a URL such as socks5://NAME:PASSWORD@HOST:PORT") from None
    known = {"type": parts.scheme, "host": parts.hostname, "port": port}
    login = {"username": parts.username, "password": parts.password}
    if parts.path.strip("/") or parts.query or parts.fragment or None in known.values():
        raise invalid("a mapping, or a URL such as socks5://NAME:PASSWORD@HOST:PORT")
    return {**known, **{key: unquote(item) for key, item in login.items() if item is not None}}


class Proxy(Section):
    """The proxy for connections to Telegram."""

    type: Literal["socks5", "socks4", "http"] = choice("socks5", "socks5", "socks4", "http")
    host: str = string(..., max_length=255)
    port: int = integer(1080, 1, 65535)
    username: str | None = string(max_length=255)
    password: SecretStr | None = Field(None, min_length=1, max_length=1024, json_schema_extra={"allowed": "text"})


class TestServer(Section):
    """A Telegram test server."""

    __test__ = False  # pytest would collect it for its name

    address: str = string(..., max_length=255)
    port: int = integer(443, 1, 65535)
    dc: int = integer(2, 1, 99_999)
    public_key_file: FilePath | None = path()


def _api_hash(value: SecretStr) -> SecretStr:
    if not _VISIBLE_ASCII.fullmatch(value.get_secret_value()):
        raise invalid("the api_hash of my.telegram.org, as text in quotes")
    return value


def _peer(value: Any) -> Any:
    shown = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(shown, str) or not _PEER.fullmatch(shown):
        raise invalid("me, @name, or a channel's number that begins with -100")
    return shown


class Account(Section):
    """Keys of ``telegram`` in both versions."""

    api_id: int | None = integer(None, 1, 2_147_483_647)
    api_hash: Annotated[SecretStr, AfterValidator(_api_hash)] | None = custom(
        None, "the api_hash of my.telegram.org, as text in quotes"
    )
    max_concurrent_uploads: int = integer(3, 1, 64)
    max_concurrent_downloads: int = integer(5, 1, 64)


class Telegram(Account):
    """The account that holds the blobs."""

    session_file: FilePath | None = path()
    peer: Annotated[str, BeforeValidator(_peer)] = custom("me", "me, @name, or a number that begins with -100")
    proxy: Annotated[Proxy, BeforeValidator(_proxy)] | None = custom(None, "a mapping or a URL")
    test_server: TestServer | None = custom(None, "a mapping")


class Encryption(Section):
    """Argon2id's parameters for passphrases that are set from now on."""

    argon2_memory_kib: int = integer(65_536, 1024, 1_048_576)
    argon2_iterations: int = integer(3, 1, 16)
    argon2_parallelism: int = integer(4, 1, 16)


class Chunk(Section):
    """How content is chunked and packed. Sizes are in bytes."""

    chunk_size: int = integer(52_428_800, MIN_PACK_BYTES, MAX_PACK_BYTES)
    average_size: int = integer(DEFAULT_AVERAGE, 65_536, 4_194_304)
    compression_enabled: bool = boolean(True)
    dedup_enabled: bool = boolean(True)

    @model_validator(mode="before")
    @classmethod
    def _fit_default(cls, value: Any) -> Any:
        # Version 1 has no average_size; with small packs, the default would be larger than a pack.
        if not isinstance(value, dict) or value.get("average_size") is not None:
            return value
        size = value.get("chunk_size")
        if not isinstance(size, int) or not MIN_PACK_BYTES <= size < 2 * DEFAULT_AVERAGE:
            return value
        return {**value, "average_size": size // 2}

    @model_validator(mode="after")
    def _check(self) -> "Chunk":
        if self.average_size > self.chunk_size:
            raise invalid(f"at most chunk.chunk_size, here {self.chunk_size}", "average_size")
        return self


class Cache(Section):
    """The disk cache of sealed chunks."""

    enabled: bool = boolean(True)
    max_size_gb: float = gibibytes(10)
    path: FilePath | None = path()
    prefetch_enabled: bool = boolean(True)
    prefetch_count: int = integer(3, 0, 1000)

    @property
    def max_bytes(self) -> int:
        """The limit in bytes; 0 when the cache is disabled."""
        return int(self.max_size_gb * GIB) if self.enabled else 0


class Staging(Section):
    """Content that is not yet uploaded."""

    max_size_gb: float | None = gibibytes(None)


class Versioning(Section):
    """Earlier versions of files."""

    enabled: bool = boolean(True)
    max_versions: int = integer(10, 0, 1_000_000)


class Trash(Section):
    """Deleted entries."""

    retention_days: int = integer(30, 0, 36_500)


_SCHEDULES = {
    "never": {},
    "hourly": {"hourly": 24},
    "daily": {"daily": 30},
    "weekly": {"weekly": 52},
    "monthly": {"monthly": 12},
}
"""What one word instead of a mapping means."""


def _schedule(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in _SCHEDULES:
        raise invalid("a mapping with the keys hourly, daily, weekly, monthly")
    return _SCHEDULES[value]


class Schedule(Section):
    """How many automatic snapshots of each kind are kept; 0: none is made."""

    hourly: int = integer(0, 0, 10_000)
    daily: int = integer(0, 0, 10_000)
    weekly: int = integer(0, 0, 10_000)
    monthly: int = integer(0, 0, 10_000)


class Snapshots(Section):
    """Automatic snapshots."""

    schedule: Annotated[Schedule, BeforeValidator(_schedule)] = custom(
        Schedule(), "a mapping with the keys hourly, daily, weekly, monthly"
    )


class GarbageCollection(Section):
    """Deletion of unreferenced packs."""

    automatic: bool = boolean(True)


def _password(value: SecretStr) -> SecretStr:
    known = value.get_secret_value()
    if known.startswith("$argon2"):
        try:
            validate_phc(known)
        except ValueError as error:
            raise invalid(str(error)) from None
    return value


class User(Section):
    """A WebDAV user."""

    name: str = string(..., max_length=64, excluding=":")
    password: Annotated[SecretStr, Field(min_length=1, max_length=1024), AfterValidator(_password)] = custom(
        ..., "a password of 1 to 1024 characters, in quotes, or its $argon2id$… hash"
    )

    @property
    def password_is_hash(self) -> bool:
        """Whether ``password`` is an Argon2id hash in PHC format. Digest needs the password itself, so only Basic works then."""
        return self.password.get_secret_value().startswith("$argon2")


class Tls(Section):
    """The server's certificate and key, in PEM."""

    certificate: FilePath = path(...)
    key: FilePath = path(...)


_NETWORKS = "a list of addresses or networks, such as 127.0.0.1 or 10.0.0.0/8"


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise invalid(_NETWORKS) from None


_PUBLIC_URL = "an http or https URL without login, query and fragment, such as https://example.org/drive/"


def _public_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
        names = unquote(parts.path, errors="strict").split("/")
    except ValueError:
        raise invalid(_PUBLIC_URL) from None
    rebuilt = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if (
        parts.scheme not in ("http", "https")
        or not host
        or "@" in parts.netloc
        or value != rebuilt
        or {".", ".."} & {*names}
    ):
        raise invalid(_PUBLIC_URL)
    if not value.isascii() or _BAD_ESCAPE.search(value) or "%2f" in value.lower():
        raise invalid(_PUBLIC_URL)
    return value


class Webdav(Section):
    """The WebDAV server."""

    users: tuple[User, ...] = custom((), "a list of mappings with the keys name, password")
    tls: Tls | None = custom(None, "a mapping with the keys certificate, key")
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] | None = custom(None, _NETWORKS)
    public_url: Annotated[str, AfterValidator(_public_url)] | None = string(max_length=2048, allowed=_PUBLIC_URL)
    junk_files: Literal["local", "store", "refuse"] = choice("local", "local", "store", "refuse")

    @model_validator(mode="after")
    def _check(self) -> "Webdav":
        _check_unique([user.name for user in self.users], "users", "name")
        return self


class MasterReplica(Section):
    """One machine writes, the others follow."""

    role: Literal["master", "replica"] = choice("master", "master", "replica")
    master_id: str | None = string()
    sync_interval_secs: int = integer(60, 1, 2_592_000)
    snapshot_retention: int = integer(10, 0, 1_000_000)


class Distributed(Section):
    """Every machine writes."""

    sync_interval_ms: int = integer(1000, 10, 2_592_000_000)
    conflict_resolution: Literal["last-write-wins", "manual", "merge"] = choice(
        "last-write-wins", "last-write-wins", "manual", "merge"
    )


class Distribution(Section):
    """How several machines share namespaces."""

    mode: Mode = choice("standalone", *_MODES)
    cluster_id: str | None = string()
    master_replica: MasterReplica = MasterReplica()
    distributed: Distributed = Distributed()


class Access(Section):
    """The permissions of a machine in a namespace."""

    machine: str = string(...)
    permissions: tuple[Permission, ...] = choice(..., "read", "write", "delete", "admin")


class Namespace(Section):
    """An independent file system of the vault."""

    name: str = string(..., max_length=64, excluding="/")
    type: Mode = choice("standalone", *_MODES)
    cluster: str | None = string()
    mount_point: FilePath | None = path()
    access: tuple[Access, ...] = custom((), "a list of mappings with the keys machine, permissions")

    @model_validator(mode="after")
    def _check(self) -> "Namespace":
        _check_unique([rule.machine for rule in self.access], "access", "machine")
        return self


def _check_unique(values: "list[str] | list[Path | None]", collection: str, key: str) -> None:
    for index, value in enumerate(values):
        if value is not None and value in values[:index]:
            raise invalid(f"each {key} once", collection, index, key)


class Config(Section):
    """The whole configuration; ``Config()`` is the default, in force without a file."""

    version: Literal[2] = custom(2, "2, or 1 in a file of version 1")
    machine: Machine = Machine()
    storage: Storage = Storage()
    telegram: Telegram = Telegram()
    encryption: Encryption = Encryption()
    chunk: Chunk = Chunk()
    cache: Cache = Cache()
    staging: Staging = Staging()
    versioning: Versioning = Versioning()
    trash: Trash = Trash()
    snapshots: Snapshots = Snapshots()
    gc: GarbageCollection = GarbageCollection()
    webdav: Webdav = Webdav()
    distribution: Distribution = Distribution()
    namespaces: tuple[Namespace, ...] = custom(
        (), "a list of mappings with the keys " + ", ".join(Namespace.model_fields)
    )

    @model_validator(mode="after")
    def _check(self) -> "Config":
        _check_unique([namespace.name for namespace in self.namespaces], "namespaces", "name")
        _check_unique([namespace.mount_point for namespace in self.namespaces], "namespaces", "mount_point")
        return self

    def backend(self) -> Backend:
        """Return the backend: ``storage.backend``, else Telegram when ``telegram.api_id`` is set, else the directory store."""
        if self.storage.backend is not None:
            return self.storage.backend
        return "directory" if self.telegram.api_id is None else "telegram"


SUPPORTED_MODES = frozenset({"standalone"})
_MIN_MEMORY_KIB = 19_456  # OWASP's minimum for Argon2id


def find_namespace(config: Config, name: str | None = None) -> Namespace:
    """Return the namespace called ``name``; without a name, the first one listed, else the default one.

    Raises UsageError when there is no such namespace.
    """
    listed = config.namespaces or (Namespace(name=DEFAULT_NAMESPACE, type=config.distribution.mode),)
    if name is None:
        return listed[0]
    for namespace in listed:
        if namespace.name == name:
            return namespace
    known = ", ".join(namespace.name for namespace in listed)
    raise UsageError(f"there is no namespace '{name}' in the configuration", hint=f"it lists: {known}")


def require_supported(config: Config, namespace: str | None = None) -> None:
    """Raise UsageError when the namespace to be opened has a mode that this version does not support."""
    wanted = find_namespace(config, namespace)
    if wanted.type not in SUPPORTED_MODES:
        raise UsageError(
            f"the namespace '{wanted.name}' needs the mode {wanted.type}, which this version of tgdav cannot serve yet",
            hint="open another namespace with --namespace, or make its type standalone",
        )


def select_namespace(config: Config, namespace: str | None = None) -> Config:
    """Return the configuration with the namespace to be opened listed first: creating and joining a vault use the first.

    Raises UsageError as ``require_supported`` does.
    """
    require_supported(config, namespace)
    wanted = find_namespace(config, namespace)
    if wanted not in config.namespaces:
        return config
    others = tuple(each for each in config.namespaces if each is not wanted)
    return config.model_copy(update={"namespaces": (wanted, *others)})


def notices(config: Config) -> list[str]:
    """Return, as one line each, what the user should know about a valid configuration."""
    telegram, directory = config.telegram, config.storage.directory
    missing = [key for key in ("api_id", "api_hash") if getattr(telegram, key) is None]
    unsupported = [item.name for item in config.namespaces if item.type not in SUPPORTED_MODES]
    supported = [item.name for item in config.namespaces if item.type in SUPPORTED_MODES]
    hashed = [user.name for user in config.webdav.users if user.password_is_hash]
    lines = {
        "telegram.session_file is not used: the session is kept sealed in the state": telegram.session_file,
        f"telegram.{' and telegram.'.join(missing)} must be set for the Telegram store": (
            config.backend() == "telegram" and missing
        ),
        "storage.directory.path is not used: the store is Telegram": (
            config.backend() == "telegram" and directory.path
        ),
        f"not served by this version of tgdav: the namespaces {', '.join(unsupported)}": unsupported,
        f"this version keeps one namespace in a vault, the one it is created with; listed are {', '.join(supported)}": (
            len(supported) > 1
        ),
        f"only Basic authentication works for users with a hashed password: {', '.join(hashed)}": hashed,
        f"encryption.argon2_memory_kib is low: at least {_MIN_MEMORY_KIB} is advised": (
            config.encryption.argon2_memory_kib < _MIN_MEMORY_KIB
        ),
    }
    return [line for line, applies in lines.items() if applies]
