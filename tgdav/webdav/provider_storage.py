"""What WsgiDAV keeps locks and dead properties in, on the file system: its lock manager, lock storage, property manager.

They use the same ``LockTable`` and the same properties as our own server, so both see each other's. Whether a lock permits a
change is not decided here but by ``Access``, at the moment of the change: WsgiDAV asks its lock manager before the body is read,
and by URL.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from wsgidav.lock_man import lock_manager

from tgdav.errors import FileSystemError
from tgdav.metadata.types import Attributes
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import Refused
from tgdav.webdav.locks import DEFAULT_TIMEOUT, MAX_TIMEOUT, SECOND, Lock, LockDetails, path_inodes
from tgdav.webdav.methods.lock import MAX_OWNER_BYTES, take_lock
from tgdav.webdav.resources import find
from tgdav.webdav.urls import href, split_path
from tgdav.webdav.xml import parse_xml, serialize

LockDict = dict[str, Any]
"""A lock as WsgiDAV describes it (``wsgidav.lock_man.lock_manager``); times in seconds, ``expire`` since 1970."""


class LockStorage:
    """WsgiDAV's lock storage on a lock table. ``path`` is always a quoted path below the share."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._table = context.locks

    def open(self) -> None:
        """Do nothing: locks are loaded with the table."""

    def close(self) -> None:
        """Do nothing: locks are kept."""

    def cleanup(self) -> None:
        """Do nothing: expired locks are never returned."""

    def clear(self) -> None:
        """Remove all locks."""
        self._table.remove(self._table.live())

    def get(self, token: str) -> LockDict | None:
        """Return a lock; None if there is none."""
        found = self.find(token)
        return None if found is None else self._described(found)

    def find(self, token: str) -> Lock | None:
        """As ``get``, as the table has it."""
        return next((lock for lock in self._table.live() if lock.token == token), None)

    def create(self, path: str, lock: LockDict) -> LockDict:
        """Take a lock, and describe it in ``lock``. Raises Refused 413 or 423, NotFound."""
        names = self._names(path)
        details = LockDetails(
            names,
            lock["scope"] == "exclusive",
            lock["depth"] == "infinity",
            lock["principal"],
            _owner(lock["owner"]),
            _seconds(lock["timeout"]),
        )
        lock.update(self._described(take_lock(self._context, find(self._context.fs, names), details)))
        return lock

    def refresh(self, token: str, *, timeout: float | None) -> LockDict:
        """Start a lock's time again. Raises Refused 412 for an unknown token."""
        held = self.find(token)
        if held is None:
            raise Refused(412, condition="lock-token-matches-request-uri")
        return self._described(
            self._table.refresh(held, held.details.seconds if timeout is None else _seconds(timeout))
        )

    def delete(self, token: str) -> bool:
        """Remove a lock; return whether there was one."""
        held = self.find(token)
        self._table.remove([] if held is None else [held])
        return held is not None

    def get_lock_list(
        self, path: str, *, include_root: bool, include_children: bool, token_only: bool
    ) -> list[LockDict] | list[str]:
        """Return the locks on a resource itself and, with ``include_children``, those on what is below it."""
        names = self._names(path)
        inodes = path_inodes(self._context.fs, names)
        if len(inodes) <= len(names):
            return []
        found = [lock for lock in self._table.live() if include_root and lock.inode == inodes[-1]]
        if include_children:
            found += self._table.inside(inodes[-1])
        return [lock.token for lock in found] if token_only else [self._described(lock) for lock in found]

    def covers(self, path: str, token: str) -> bool:
        """Return whether a lock protects a resource, by itself or from a folder above."""
        inodes = path_inodes(self._context.fs, self._names(path))
        return any(lock.token == token for lock in self._table.covering(inodes))

    def _names(self, path: str) -> tuple[bytes, ...]:
        return self._context.public.without_prefix(split_path(path))

    def _described(self, lock: Lock) -> LockDict:
        details = lock.details
        return {
            "root": href(details.names, folder=False, below=self._context.public.prefix),
            "type": "write",
            "scope": "exclusive" if details.exclusive else "shared",
            "depth": "infinity" if details.infinite else "0",
            "owner": details.owner,
            "principal": details.principal,
            "timeout": details.seconds,
            "expire": lock.expires / SECOND,
            "token": lock.token,
        }


def _seconds(timeout: float | None) -> int:
    """Return a timeout as WsgiDAV gives it (None: not asked for; negative: infinite), cut to the longest."""
    if timeout is None:
        return DEFAULT_TIMEOUT
    return MAX_TIMEOUT if timeout < 0 else max(1, min(int(timeout), MAX_TIMEOUT))


def _owner(value: bytes) -> bytes:
    """Return an owner element without XML declaration, to be put into other documents."""
    owner = serialize(parse_xml(value)) if value else b""
    if len(owner) > MAX_OWNER_BYTES:
        raise Refused(413, "the owner is too long")
    return owner


class LockManager(lock_manager.LockManager):  # type: ignore[misc]
    """WsgiDAV's lock manager, without its decisions."""

    storage: LockStorage

    def acquire(
        self,
        *,
        url: str,
        lock_type: str,
        lock_scope: str,
        lock_depth: str,
        lock_owner: bytes,
        timeout: float | None,
        principal: str,
        token_list: list[str],  # noqa: ARG002 (WsgiDAV's signature)
    ) -> LockDict:
        """Take a lock. Raises Refused 423."""
        lock = {
            "type": lock_type,
            "scope": lock_scope,
            "depth": lock_depth,
            "owner": lock_owner,
            "timeout": timeout,
            "principal": principal,
        }
        return self.storage.create(url, lock)

    def refresh(self, token: str, *, timeout: float | None = None) -> LockDict:
        """Start a lock's time again."""
        return self.storage.refresh(token, timeout=timeout)

    def is_url_locked_by_token(self, url: str, lock_token: str) -> bool:
        """Return whether the lock protects the resource, by itself or from a folder above."""
        return self.storage.covers(url, lock_token)

    def check_write_permission(self, **_: object) -> None:
        """Permit: ``Access`` decides when the change is made."""

    @contextmanager
    def write_transaction(self, **_: object) -> Iterator[None]:
        """Permit: ``Access`` decides again when the change is made, whatever was locked while a body arrived."""
        yield


class PropertyManager:
    """WsgiDAV's property manager on the properties of the file system; ``url`` is a resource's reference URL."""

    def __init__(self, context: WebContext, names_of: Callable[[str], tuple[bytes, ...]]) -> None:
        """``names_of`` maps a reference URL to the names below the share."""
        self._fs = context.fs
        self._names_of = names_of

    def _find(self, url: str) -> Attributes | None:
        try:
            return find(self._fs, self._names_of(url))
        except FileSystemError:
            return None

    def _all(self, url: str) -> dict[bytes, bytes]:
        found = self._find(url)
        return {} if found is None else self._fs.properties([found.inode]).get(found.inode, {})

    def get_properties(self, url: str, environ: object = None) -> list[str]:  # noqa: ARG002
        """Return the names of a resource's dead properties, in Clark notation."""
        return [name.decode() for name in self._all(url)]

    def get_property(self, url: str, name: str, environ: object = None) -> bytes | None:  # noqa: ARG002
        """Return a property's XML element, None if there is none."""
        return self._all(url).get(name.encode())

    def write_property(
        self,
        url: str,
        name: str,
        property_value: bytes,
        dry_run: bool = False,
        environ: object = None,  # noqa: ARG002
    ) -> None:
        """Set a property; durable. Raises NotFound."""
        if not dry_run:
            self._set(url, {name.encode(): property_value})

    def remove_property(self, url: str, name: str, dry_run: bool = False, environ: object = None) -> None:  # noqa: ARG002
        """Remove a property; one that does not exist is fine. Raises NotFound."""
        if not dry_run:
            self._set(url, {name.encode(): None})

    def remove_properties(self, url: str, environ: object = None) -> None:  # noqa: ARG002
        """Remove all properties."""
        held = self._all(url)
        if held:
            self._set(url, dict.fromkeys(held))

    def copy_properties(self, src_url: str, dest_url: str, environ: object = None) -> None:  # noqa: ARG002
        """Give one resource the properties of another. COPY and MOVE do so by themselves."""
        held = self._all(src_url)
        if held:
            self._set(dest_url, dict(held))

    def _set(self, url: str, values: Mapping[bytes, bytes | None]) -> None:
        self._fs.set_properties(find(self._fs, self._names_of(url)).inode, values, durable=True)
