"""A storm over a vault: files are written and read through the file system while all faults of Telegram happen."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import msgspec

from tests.crash.machines import PASSPHRASE, Machine, folder_of, make_folder, put, read, tree
from tests.mtproto.harness import Server
from tests.support.stacks import calls_under_way
from tests.support.telegram import TelegramAccount
from tests.support.telegram_home import telegram_config
from tests.telegram.storm import Going, Weather, Worker, counted, work_through
from tgdav.blobs.telegram import TelegramSettings
from tgdav.blobs.telegram import settings as settings_module
from tgdav.blobs.telegram.account_store import AccountStore
from tgdav.check.expected_blobs import ExpectedBlobs
from tgdav.config import Config
from tgdav.crypto.passphrase import Passphrase
from tgdav.errors import AccessError, StoreRejected, TgdavError
from tgdav.platform import Platform
from tgdav.vault.login_service import ClosedState
from tgdav.vault.telegram_login import TelegramLogin
from tgdav.volume import report
from tgdav.volume.volume import Volume

PACKS = "chunk: {average_size: 65536, chunk_size: 12582912}\n"
"""Small chunks; packs of more than 10 MiB are uploaded as Telegram's big files, smaller ones as small files."""
SIZES = (0, 7, 5000, 700_000, 700_000, 3_000_000)
NAMES = 6
"""Names that each worker writes to, so that files are replaced as well."""
PAUSE = 0.05
"""Seconds between a worker's steps, so that uploads keep up with writes."""
LONGEST_READ = 90.0
"""Seconds in which a read must succeed at last."""
LONGEST_DRAIN = 120.0
"""Seconds in which everything must be stored after the end of the faults."""
Content = tuple[int, int]
"""A file's bytes, as the seed and the length given to ``randbytes``."""


class Files:
    """One worker's directory: what was written to it, and reads that compare."""

    def __init__(self, volume: Volume, number: int, chance: random.Random, met: Counter[str]) -> None:
        self._volume, self._chance, self._met = volume, chance, met
        self.directory = f"worker-{number}"
        self.kept: dict[str, Content] = {}
        make_folder(volume, self.directory)

    def work(self, going: Going) -> None:
        while going():
            self._step()
            going.wait(PAUSE)

    def _step(self) -> None:
        deed = self._chance.random()
        if deed < 0.3 or not self.kept:
            self._write()
        elif deed < 0.9:
            self._read(self._chance.choice(sorted(self.kept)))
        elif deed < 0.95:
            self._rename(self._chance.choice(sorted(self.kept)))
        else:
            self._remove(self._chance.choice(sorted(self.kept)))
        self._met["files written or read"] += 1

    def _write(self) -> None:
        path = self._path()
        content = (self._chance.randrange(1 << 30), self._chance.choice(SIZES))
        put(self._volume, path, bytes_of(content))
        self.kept[path] = content

    def _path(self) -> str:
        return f"{self.directory}/{self._chance.randrange(NAMES)}"

    def _rename(self, path: str) -> None:
        target = self._path()
        if target != path:
            fs = self._volume.fs
            fs.rename(*folder_of(self._volume, path), *folder_of(self._volume, target), replace_tree=True, durable=True)
            self.kept[target] = self.kept.pop(path)

    def _remove(self, path: str) -> None:
        self._volume.fs.remove_tree(*folder_of(self._volume, path), durable=True)
        del self.kept[path]

    def _read(self, path: str) -> None:
        """Read the right bytes or an error, and finally the right bytes; mostly they must be downloaded."""
        if self._chance.random() < 0.7:
            self._volume.content.reader.clear()
        deadline = time.monotonic() + LONGEST_READ
        while True:
            try:
                found = read(self._volume, path)
            except TgdavError as error:
                self._met[f"read: {type(error).__name__}"] += 1
                if time.monotonic() > deadline:
                    raise
                threading.Event().wait(0.2)
            else:
                assert found == bytes_of(self.kept[path]), f"{path} shows other bytes"
                return


def bytes_of(content: Content) -> bytes:
    return random.Random(content[0]).randbytes(content[1])


class User:
    """Syncs, and logs in again whenever the login or the account is lost."""

    def __init__(self, volume: Volume, account: TelegramAccount, chance: random.Random, met: Counter[str]) -> None:
        self._volume, self._account, self._chance, self._met = volume, account, chance, met

    def sync(self, going: Going) -> None:
        while going():
            self._try("sync", lambda: self._volume.sync(wait=False), going)
            if self._chance.random() < 0.2:
                self._try("checkpoint", self._volume.replicator.checkpoint, going)

    def _try(self, what: str, task: Callable[[], object], going: Going) -> None:
        try:
            task()
        except TgdavError as error:
            self._met[f"{what}: {type(error).__name__}"] += 1
            going.wait(0.1)
        else:
            self._met[what] += 1

    def keep_logged_in(self, going: Going) -> None:
        while going():
            self.revive()
            going.wait(0.1)

    def revive(self) -> None:
        if isinstance(account_of(self._volume).problem, AccessError | StoreRejected):
            self._met["logged in again"] += 1
            self._volume.log_in(new_login(self._account))


def new_login(account: TelegramAccount) -> TelegramLogin:
    return TelegramLogin(account.server.session(account.phone), account.user_id)


def new_machine(directory: Path, name: str, account: TelegramAccount) -> Machine:
    """A machine that is logged in and has no vault yet."""
    config = telegram_config(account.server, peer=account.peer) + PACKS
    machine = Machine(directory, name, config=config)
    machine.platform = Platform.system  # type: ignore[method-assign]
    state = ClosedState(machine.places, machine.config, Passphrase(PASSPHRASE), Platform.system(), has_vault=False)
    state.log_in(new_login(account))
    return machine


def volume_storm(directory: Path, seed: int, *, channel: bool, seconds: float, workers: int = 3) -> Counter[str]:
    """Run a storm of ``seconds`` over a new vault; return how often each fault happened and each error was raised.

    Afterwards the vault, and a machine that joins it, must show what was written, and each blob must exist once. Blobs
    that the log does not name are counted as orphans.
    """
    telegram_settings = settings_module.telegram_settings

    def impatient(config: Config) -> TelegramSettings:
        return msgspec.structs.replace(
            telegram_settings(config), patience=1.0, connect_timeout=1.0, transport_backoff=0.5
        )

    with (
        Server(directory / "telegram", seed=seed) as server,
        patch.object(settings_module, "telegram_settings", impatient),
    ):
        account = TelegramAccount(server, channel=channel, patience=1.0, connect_timeout=1.0, transport_backoff=0.5)
        machine, met = new_machine(directory, "home", account), Counter[str]()
        machine.create()
        with machine.opened() as volume:
            volume.start()
            chance = random.Random(seed)
            user = User(volume, account, chance, met)
            files = [Files(volume, number, random.Random(f"{seed}-{number}"), met) for number in range(workers)]
            weather = Weather(server, account, chance, account_of(volume))
            crew = [Worker(work) for work in (user.sync, user.keep_logged_in, *(one.work for one in files))]

            def waits() -> str:
                return f"{report.status(volume)}\n{calls_under_way(account_of(volume)._session)}"

            work_through(weather, crew, time.monotonic() + seconds, waits)
            met += counted(server, weather)
            drain(volume, user)
            shown = compare(volume, files, met)
        compare_joined(new_machine(directory, "joined", account), shown)
        return met


def account_of(volume: Volume) -> AccountStore:
    account = volume.stores.account
    assert account is not None
    return account


def drain(volume: Volume, user: User) -> None:
    """Without faults everything is stored."""
    deadline = time.monotonic() + LONGEST_DRAIN
    while True:
        user.revive()
        try:
            volume.sync(wait=True)
        except TgdavError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.2)
        else:
            assert not any(volume.pending().values())
            return


def compare(volume: Volume, files: list[Files], met: Counter[str]) -> dict[bytes, str]:
    """A check finds nothing, no blob exists twice, and the files are what was written; return the tree."""
    found = volume.check(read_data=100.0)
    assert found["ok"], found["damage"]
    listed = [info.name for info in volume.stores.store.list()]
    assert len(listed) == len(set(listed)), "a blob is there twice"
    known = {blob.name for blob in ExpectedBlobs.of(volume.database).expected}
    assert known <= set(listed)
    met["blobs"], met["orphans"] = len(listed), len(set(listed) - known)
    shown = {path: each.content for path, each in tree(volume).items()}
    for one in files:
        for path, content in one.kept.items():
            assert shown[path.encode()] == hashlib.sha256(bytes_of(content)).hexdigest(), path
    live = [path for path in shown if not path.startswith(b"in the trash: ")]
    assert len(live) == sum(len(one.kept) + 1 for one in files)
    return shown


def compare_joined(machine: Machine, shown: dict[bytes, str]) -> None:
    """A machine with the store and the passphrase alone reads the same files."""
    joined = machine.join()
    assert not joined.damage, joined.damage
    with machine.opened() as volume:
        assert {path: each.content for path, each in tree(volume).items()} == shown
