"""Access to the open vault: through the process that has it open, else by opening it here."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tgdav.cli.invocation import Invocation, short_path
from tgdav.cli.secrets import passphrase
from tgdav.config import Config, StatePaths, require_supported
from tgdav.crypto.slots import Secret
from tgdav.errors import LoginInUse, TgdavError, UsageError, VaultInUse
from tgdav.vault.state_dir import vault_exists
from tgdav.volume.control import Progress
from tgdav.volume.control_client import ControlClient

if TYPE_CHECKING:
    from tgdav.cli.files.access import Files

    # Imported late: it imports the database, which commands beside a running server do not need.
    from tgdav.volume.volume import Volume

Call = Callable[..., Mapping[str, Any]]
"""``call(command, progress, **arguments)``: run a command of an open volume, here or in the process that owns it."""

BUSY_SECONDS = 10.0
"""Seconds that a command waits while another process opens or closes the vault."""

_PAUSE = 0.1


@contextmanager
def session(invocation: Invocation, ask: Callable[[Invocation], Secret] = passphrase) -> Iterator[Call]:
    """Yield a function that calls commands of the open vault.

    ``ask`` returns the secret when the vault has to be opened here. Raises UsageError (no vault, bad configuration),
    AccessError, VaultInUse.
    """
    with _opened(invocation, ask) as opened:
        if isinstance(opened, ControlClient):
            client, wanted = opened, _wanted(invocation)
            yield lambda name, progress, /, **arguments: client.call(name, arguments | wanted, progress)
            return
        from tgdav.cli.dispatch import commands

        table = commands(opened, invocation.config, invocation.namespace)

        def call(name: str, progress: Progress, /, **arguments: Any) -> Mapping[str, Any]:
            return table[name](arguments, progress)

        yield call


@contextmanager
def files_session(
    invocation: Invocation, snapshot: str | None = None, ask: Callable[[Invocation], Secret] = passphrase
) -> Iterator["Files"]:
    """Yield the files of the open vault, as they are now or were in a snapshot. Raises as ``session``."""
    from tgdav.cli.files.access import VolumeFiles
    from tgdav.cli.files.remote import RemoteFiles

    with _opened(invocation, ask) as opened:
        if not isinstance(opened, ControlClient):
            yield VolumeFiles(opened, snapshot)
            return
        pointer = invocation.paths.control_file
        connect = partial(ControlClient.connect, pointer)
        with closing(RemoteFiles(connect, _wanted(invocation), snapshot)) as files:
            yield files


@contextmanager
def _opened(invocation: Invocation, ask: Callable[[Invocation], Secret]) -> "Iterator[ControlClient | Volume]":
    """Yield the vault, opened here, or a connection to the process that has it open."""
    require_vault(invocation)
    with closing(_Opener(invocation).open(ask)) as opened:
        yield opened


def _wanted(invocation: Invocation) -> dict[str, str]:
    return {} if invocation.namespace is None else {"namespace": invocation.namespace}


def require_vault(invocation: Invocation) -> None:
    """Raise UsageError unless a vault was created or joined here, and ConfigError for a bad configuration."""
    if not vault_exists(invocation.paths.state):
        raise no_vault(invocation)


def no_vault(invocation: Invocation) -> UsageError:
    """Return the error for a home without a vault; it names the directory."""
    config = invocation.config
    is_served = config.backend() == "directory" and config.storage.directory.path is None
    where = invocation.paths.home or invocation.paths.state
    makes = "'tgdav serve' or 'tgdav init'" if is_served else "'tgdav init'"
    hint = f"{makes} creates one, 'tgdav init --join' joins one that the store holds"
    return UsageError(f"there is no vault in {short_path(invocation, where)}", hint=hint)


def refuse_running(invocation: Invocation) -> None:
    """Raise VaultInUse if a process has the vault open and answers. The message names it and what to do."""
    client = ControlClient.connect(invocation.paths.control_file)
    if client is None:
        return
    with client:
        try:
            found = client.call("process", {}, lambda _stage, _done, _total: None)
        except TgdavError:
            found = {}
    serves = [each for each in (found.get("address"), *found.get("mounts", ())) if each]
    which = f" (process {found['process']}, since {found['started']})" if found else ""
    at = f" at {' and '.join(serves)}" if serves else ""
    stop = f"'kill {found['process']}'" if found else "SIGTERM"
    raise VaultInUse(
        f"a tgdav{which} has this vault open{at}",
        hint="status, sync, check, cache, ls, find, cat, get, put, passwd, recovery-key, mount and unmount work beside it; "
        f"{stop} stops it",
    )


def open_volume(invocation: Invocation, secret: Secret) -> "Volume":
    """Open the vault in this process. Raises as ``Volume.open`` does, and UsageError for an unsupported mode."""
    from tgdav.volume.volume import Volume

    config: Config = invocation.config
    paths: StatePaths = invocation.paths
    require_supported(config, invocation.namespace)
    return Volume.open(paths, config, secret, namespace=invocation.namespace, platform=invocation.platform)


class _Opener:
    """Tries the control socket and the vault in turn, while another process is opening or closing the vault."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._clock = invocation.platform.clock
        self._deadline = self._clock.monotonic() + BUSY_SECONDS
        self._pause = threading.Event()

    def open(self, ask: Callable[[Invocation], Secret]) -> "ControlClient | Volume":
        secret: Secret | None = None
        while True:
            client = ControlClient.connect(self._invocation.paths.control_file)
            if client is not None:
                return client
            require_supported(self._invocation.config, self._invocation.namespace)
            secret = secret or ask(self._invocation)
            try:
                return open_volume(self._invocation, secret)
            except LoginInUse:
                raise
            except VaultInUse:
                if self._clock.monotonic() > self._deadline:
                    raise
            self._pause.wait(_PAUSE)
