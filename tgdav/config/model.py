"""The configuration, version 2: one frozen model a section. ``config.example.yaml`` explains each key."""

import re
import uuid
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from tgdav.config.fields import FilePath, Section, choice, gibibytes, place, refused, switch, text, whole, words
from tgdav.password_hash import validate_phc

GIB = 1 << 30
SMALLEST_PACK = 262_144
LARGEST_PACK = 2_097_152_000  # what Telegram takes as one file: 4000 parts of 512 KiB
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
            raise refused("auto, a UUID, or a name that does not look like one") from None
    return value


class Machine(Section):
    """This installation."""

    id: Annotated[str, AfterValidator(_machine_id)] = text("auto", allowed="auto, a UUID, or a name")
    name: str | None = text()


class DirectoryStore(Section):
    """The embedded store."""

    path: FilePath | None = place()


class Storage(Section):
    """Where the blobs are."""

    backend: Backend | None = choice(None, "directory", "telegram")
    directory: DirectoryStore = DirectoryStore()


def _proxy(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise refused("a mapping, or a URL such as socks5://NAME:PASSWORD@HOST:PORT") from None
    known = {"type": parts.scheme, "host": parts.hostname, "port": port}
    login = {"username": parts.username, "password": parts.password}
    if parts.path.strip("/") or parts.query or parts.fragment or None in known.values():
        raise refused("a mapping, or a URL such as socks5://NAME:PASSWORD@HOST:PORT")
    return {**known, **{key: unquote(item) for key, item in login.items() if item is not None}}


class Proxy(Section):
    """The way to Telegram."""

    type: Literal["socks5", "socks4", "http"] = choice("socks5", "socks5", "socks4", "http")
    host: str = text(..., longest=255)
    port: int = whole(1080, 1, 65535)
    username: str | None = text(longest=255)
    password: SecretStr | None = Field(None, min_length=1, max_length=1024, json_schema_extra={"allowed": "text"})


class TestServer(Section):
    """A Telegram server of one's own, for tests."""

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    address: str = text(..., longest=255)
    port: int = whole(443, 1, 65535)
    dc: int = whole(2, 1, 99_999)
    public_key_file: FilePath | None = place()


def _api_hash(value: SecretStr) -> SecretStr:
    if not _VISIBLE_ASCII.fullmatch(value.get_secret_value()):
        raise refused("the api_hash of my.telegram.org, as text in quotes")
    return value


def _peer(value: Any) -> Any:
    shown = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(shown, str) or not _PEER.fullmatch(shown):
        raise refused("me, @name, or a channel's number that begins with -100")
    return shown


class Account(Section):
    """What both versions know of the Telegram account."""

    api_id: int | None = whole(None, 1, 2_147_483_647)
    api_hash: Annotated[SecretStr, AfterValidator(_api_hash)] | None = words(
        None, "the api_hash of my.telegram.org, as text in quotes"
    )
    max_concurrent_uploads: int = whole(3, 1, 64)
    max_concurrent_downloads: int = whole(5, 1, 64)


class Telegram(Account):
    """The account that holds the blobs."""

    session_file: FilePath | None = place()
    peer: Annotated[str, BeforeValidator(_peer)] = words("me", "me, @name, or a number that begins with -100")
    proxy: Annotated[Proxy, BeforeValidator(_proxy)] | None = words(None, "a mapping or a URL")
    test_server: TestServer | None = words(None, "a mapping")


class Encryption(Section):
    """Argon2id's cost for passphrases set from now on."""

    argon2_memory_kib: int = whole(65_536, 1024, 1_048_576)
    argon2_iterations: int = whole(3, 1, 16)
    argon2_parallelism: int = whole(4, 1, 16)


class Chunk(Section):
    """How content is cut and packed. Sizes are bytes."""

    chunk_size: int = whole(52_428_800, SMALLEST_PACK, LARGEST_PACK)
    average_size: int = whole(DEFAULT_AVERAGE, 65_536, 4_194_304)
    compression_enabled: bool = switch(True)
    dedup_enabled: bool = switch(True)

    @model_validator(mode="before")
    @classmethod
    def _fit_default(cls, value: Any) -> Any:
        # Files of version 1 know no average; where the packs are small, the default one must fit into them.
        if not isinstance(value, dict) or value.get("average_size") is not None:
            return value
        size = value.get("chunk_size")
        if not isinstance(size, int) or not SMALLEST_PACK <= size < 2 * DEFAULT_AVERAGE:
            return value
        return {**value, "average_size": size // 2}

    @model_validator(mode="after")
    def _check(self) -> "Chunk":
        if self.average_size > self.chunk_size:
            raise refused(f"at most chunk.chunk_size, here {self.chunk_size}", "average_size")
        return self


class Cache(Section):
    """Sealed chunks kept on this machine."""

    enabled: bool = switch(True)
    max_size_gb: float = gibibytes(10)
    path: FilePath | None = place()
    prefetch_enabled: bool = switch(True)
    prefetch_count: int = whole(3, 0, 1000)

    @property
    def max_bytes(self) -> int:
        """The bound in bytes; 0 when the cache is off."""
        return int(self.max_size_gb * GIB) if self.enabled else 0


class Staging(Section):
    """Bytes not yet in the store."""

    max_size_gb: float | None = gibibytes(None)


class Versioning(Section):
    """Earlier contents of files."""

    enabled: bool = switch(True)
    max_versions: int = whole(10, 0, 1_000_000)


class Trash(Section):
    """Deleted entries."""

    retention_days: int = whole(30, 0, 36_500)


class Snapshots(Section):
    """Snapshots made by themselves."""

    schedule: Literal["never", "hourly", "daily", "weekly", "monthly"] = choice(
        "never", "never", "hourly", "daily", "weekly", "monthly"
    )


class GarbageCollection(Section):
    """Deleting packs that nothing names."""

    automatic: bool = switch(True)


def _password(value: SecretStr) -> SecretStr:
    known = value.get_secret_value()
    if known.startswith("$argon2"):
        try:
            validate_phc(known)
        except ValueError as error:
            raise refused(str(error)) from None
    return value


class User(Section):
    """Someone who may log in over WebDAV."""

    name: str = text(..., longest=64, excluding=":")
    password: Annotated[SecretStr, Field(min_length=1, max_length=1024), AfterValidator(_password)] = words(
        ..., "a password of 1 to 1024 characters, in quotes, or its $argon2id$… hash"
    )

    @property
    def password_is_hash(self) -> bool:
        """Whether ``password`` is an Argon2id hash in PHC form; such a user can log in by Basic only."""
        return self.password.get_secret_value().startswith("$argon2")


class Tls(Section):
    """The server's certificate, both files in PEM."""

    certificate: FilePath = place(...)
    key: FilePath = place(...)


_NETWORKS = "a list of addresses or networks, such as 127.0.0.1 or 10.0.0.0/8"


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise refused(_NETWORKS) from None


_PUBLIC_URL = "an http or https URL without login, query and fragment, such as https://example.org/drive/"


def _public_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
        names = unquote(parts.path, errors="strict").split("/")
    except ValueError:
        raise refused(_PUBLIC_URL) from None
    whole = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if (
        parts.scheme not in ("http", "https")
        or not host
        or "@" in parts.netloc
        or value != whole
        or {".", ".."} & {*names}
    ):
        raise refused(_PUBLIC_URL)
    if not value.isascii() or _BAD_ESCAPE.search(value) or "%2f" in value.lower():
        raise refused(_PUBLIC_URL)
    return value


class Webdav(Section):
    """The WebDAV server."""

    users: tuple[User, ...] = words((), "a list of mappings with the keys name, password")
    tls: Tls | None = words(None, "a mapping with the keys certificate, key")
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] | None = words(None, _NETWORKS)
    public_url: Annotated[str, AfterValidator(_public_url)] | None = text(longest=2048, allowed=_PUBLIC_URL)
    junk_files: Literal["local", "store", "refuse"] = choice("local", "local", "store", "refuse")

    @model_validator(mode="after")
    def _check(self) -> "Webdav":
        _once([user.name for user in self.users], "users", "name")
        return self


class MasterReplica(Section):
    """One machine writes, the others follow."""

    role: Literal["master", "replica"] = choice("master", "master", "replica")
    master_id: str | None = text()
    sync_interval_secs: int = whole(60, 1, 2_592_000)
    snapshot_retention: int = whole(10, 0, 1_000_000)


class Distributed(Section):
    """Every machine writes."""

    sync_interval_ms: int = whole(1000, 10, 2_592_000_000)
    conflict_resolution: Literal["last-write-wins", "manual", "merge"] = choice(
        "last-write-wins", "last-write-wins", "manual", "merge"
    )


class Distribution(Section):
    """How several machines share namespaces."""

    mode: Mode = choice("standalone", *_MODES)
    cluster_id: str | None = text()
    master_replica: MasterReplica = MasterReplica()
    distributed: Distributed = Distributed()


class Access(Section):
    """What a machine may do in a namespace."""

    machine: str = text(...)
    permissions: tuple[Permission, ...] = choice(..., "read", "write", "delete", "admin")


class Namespace(Section):
    """A file system of its own."""

    name: str = text(..., longest=64, excluding="/")
    type: Mode = choice("standalone", *_MODES)
    cluster: str | None = text()
    mount_point: FilePath | None = place()
    access: tuple[Access, ...] = words((), "a list of mappings with the keys machine, permissions")

    @model_validator(mode="after")
    def _check(self) -> "Namespace":
        _once([rule.machine for rule in self.access], "access", "machine")
        return self


def _once(values: "list[str] | list[Path | None]", collection: str, key: str) -> None:
    for index, value in enumerate(values):
        if value is not None and value in values[:index]:
            raise refused(f"each {key} once", collection, index, key)


class Config(Section):
    """All that can be configured; ``Config()`` is what holds without a file."""

    version: Literal[2] = words(2, "2, or 1 in a file of version 1")
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
    namespaces: tuple[Namespace, ...] = words(
        (), "a list of mappings with the keys " + ", ".join(Namespace.model_fields)
    )

    @model_validator(mode="after")
    def _check(self) -> "Config":
        _once([namespace.name for namespace in self.namespaces], "namespaces", "name")
        _once([namespace.mount_point for namespace in self.namespaces], "namespaces", "mount_point")
        return self

    def backend(self) -> Backend:
        """Return the store in use: the named one, else Telegram when ``telegram.api_id`` is set, else the directory."""
        if self.storage.backend is not None:
            return self.storage.backend
        return "directory" if self.telegram.api_id is None else "telegram"
