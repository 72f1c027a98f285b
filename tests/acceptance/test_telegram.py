"""A vault in Telegram from its first login to the machine's loss and return, over a line with 60 ms of latency.

Real programs throughout, against the MTProto server in a process of its own.
"""

import hashlib
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.mtproto.harness import ServerProcess
from tests.support.corpus import stream
from tests.support.server import Home, Server, wait_for
from tests.support.telegram import API_HASH
from tests.support.telegram_home import assert_nothing_twice, blobs, files_below, telegram_config
from tgdav.crypto.passphrase import Passphrase
from tgdav.vault.telegram_login import PENDING, load_login
from tgdav.vault.unlock import unlock_local

MIB = 1 << 20
LATENCY = 0.06
CODE = "7390846251"
PASSWORD = "two steps ahead"
CLIENTS = 4


@pytest.fixture(scope="module")
def telegram(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("telegram"), seed=11, latency=LATENCY) as running:
        yield running


class Account:
    """A phone number with an account on the server, two-step verification switched on."""

    numbers = iter(range(1000, 9999))

    def __init__(self, server: ServerProcess) -> None:
        self.server, self.phone = server, f"999662{next(self.numbers)}"
        server.add_account(self.phone, CODE, PASSWORD)

    def log_in(self, home: Home, *words: str) -> str:
        """``tgdav auth`` by hand; what it printed on standard error."""
        typed = f"{CODE}\n{PASSWORD}\n"
        return home.run(*words, "auth", "--phone", f"+{self.phone}", input=typed).stderr

    def blobs(self) -> list[dict]:
        return blobs(self.server, self.phone)


@pytest.fixture
def account(telegram: ServerProcess) -> Account:
    return Account(telegram)


@pytest.fixture
def home(telegram: ServerProcess, account: Account, tmp_path: Path) -> Home:
    """A machine that is logged in and has a vault."""
    made = Home(tmp_path, config=telegram_config(telegram))
    account.log_in(made)
    made.run("init")
    return made


# ---- the whole line ----------------------------------------------------------------------------------------------------


def make_tree(folder: Path, files: int, total: int) -> list[str]:
    """Files in nested folders, most of them small, a few with most of the bytes; their paths."""
    names, large = [], 4
    small = files - large
    for number in range(files):
        size = (number * 37) % 16_384 if number < small else (total - small * 8192) // large
        path = folder / f"folder {number % 7}" / f"{number % 3}" / f"file-{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(stream(number, size))
        names.append(str(path.relative_to(folder)))
    return names


def each(server: Server, names: list[str], work) -> None:
    """Work on all names, a few clients at once."""
    shares = [names[start::CLIENTS] for start in range(CLIENTS)]

    def run(share: list[str]) -> None:
        with server.client() as client:
            for name in share:
                work(client, name)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(run, share) for share in shares]:
            done.result()


def copy_in(server: Server, folder: Path, names: list[str]) -> None:
    with server.client() as client:
        for path in sorted({f"{part}" for name in names for part in Path(name).parents if str(part) != "."}):
            assert client.request("MKCOL", f"/{quote(path)}").status == 201

    def put(client, name: str) -> None:
        with (folder / name).open("rb") as file:
            body = iter(lambda: file.read(MIB), b"")
            headers = {"Content-Length": str((folder / name).stat().st_size)}
            assert client.request("PUT", f"/{quote(name)}", body=body, headers=headers).status == 201

    each(server, names, put)


def read_back(server: Server, folder: Path, names: list[str]) -> None:
    def get(client, name: str) -> None:
        answer = client.request("GET", f"/{quote(name)}")
        assert answer.status == 200
        with (folder / name).open("rb") as file:
            assert hashlib.sha256(answer.body).digest() == hashlib.file_digest(file, "sha256").digest(), name

    each(server, names, get)


@pytest.mark.parametrize(
    ("files", "total"), [(200, 100_000_000), pytest.param(5000, 3_000_000_000, marks=pytest.mark.torture)]
)
def test_from_the_first_login_to_the_loss_and_return(
    telegram: ServerProcess, account: Account, tmp_path: Path, files: int, total: int
) -> None:
    source = tmp_path / "source"
    names = make_tree(source, files, total)
    home = Home(tmp_path, config=telegram_config(telegram))
    account.log_in(home)
    assert "recovery key: " in home.run("init").stdout
    with Server(home) as server:
        copy_in(server, source, names)
        sent = home.run("--json", "sync", "--wait", timeout=3600).json()
        assert sent["pending"] == {"bytes": 0, "operations": 0}
        server.terminate()
    assert len(account.blobs()) <= total / (40 * MIB) + 16
    assert_nothing_twice(telegram, account.phone)

    shutil.rmtree(home.path)
    home.path.mkdir()
    (home.path / "config.yaml").write_text(telegram_config(telegram))
    assert home.run("init", "--join", check=False).code == 3
    account.log_in(home)
    assert "Joined. This machine is now the writer (epoch 2)" in home.run("init", "--join", timeout=600).stdout
    with Server(home) as server:
        read_back(server, source, names)
        server.terminate()
    assert telegram.statistics()["violations"] == {}


# ---- kill -9 -----------------------------------------------------------------------------------------------------------


def put(server: Server, name: str, seed: int, size: int) -> None:
    with server.client() as client:
        assert client.request("PUT", f"/{name}", body=b"".join(stream(seed, size))).status == 201


def sync_in_background(home: Home) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*home.program, "sync", "--wait"], env=home.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def all_is_there_once(telegram: ServerProcess, account: Account, home: Home, name: str, seed: int, size: int) -> None:
    """The next start carries on: all is stored, nothing is twice, nothing is in the chat that the vault does not know."""
    with Server(home) as server:
        home.run("sync", "--wait")
        with server.client() as client:
            assert client.request("GET", f"/{name}").body == b"".join(stream(seed, size))
        checked = home.run("--json", "check", "--read-data").json()
        assert checked["ok"]
        assert checked["blobs"] == len(account.blobs())
        server.terminate()
    assert_nothing_twice(telegram, account.phone)


@pytest.mark.parametrize("moment", ["upload", "answer"])
def test_killed_while_it_sends(telegram: ServerProcess, account: Account, home: Home, moment: str) -> None:
    size = 12 * MIB
    before = telegram.statistics()["file_bytes_uploaded"]
    with Server(home) as server:
        put(server, "file", 1, size)
        if moment == "upload":
            telegram.set_line(bandwidth=4_000_000)
        else:
            telegram.arm("lost_answer", "messages.sendMedia")
        lost = telegram.fault_counts().get("lost_answer", 0)
        with sync_in_background(home):
            if moment == "upload":
                wait_for(lambda: telegram.statistics()["file_bytes_uploaded"] > before + 2 * MIB, 30)
            else:
                wait_for(lambda: telegram.fault_counts().get("lost_answer", 0) > lost, 30)
            server.kill()
    telegram.set_line(bandwidth=0)
    telegram.disarm()
    all_is_there_once(telegram, account, home, "file", 1, size)


def test_killed_while_it_logs_in(telegram: ServerProcess, account: Account, tmp_path: Path) -> None:
    """At the question for the code, and after the answer to it, before it is kept."""
    home = Home(tmp_path, config=telegram_config(telegram))
    for typed in ("", f"{CODE}\n"):
        words = [*home.program, "auth", "--phone", f"+{account.phone}"]
        with subprocess.Popen(
            words, env=home.environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            said = ""
            question = "Password of" if typed else "Code that"
            process.stdin.write(typed)
            process.stdin.flush()
            watchdog = threading.Timer(30, process.kill)
            watchdog.start()
            while question not in said and (sign := process.stderr.read(1)):
                said += sign
            watchdog.cancel()
            assert question in said, said
            process.send_signal(signal.SIGKILL)
        assert not (home.path / "state" / PENDING).exists()
    account.log_in(home)
    home.run("init")


# ---- secrets -------------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_a_file_a_log_or_a_traceback(telegram: ServerProcess, account: Account, tmp_path: Path) -> None:
    """With every word that Telethon logs. The user's own configuration holds the api_hash, and nothing else does."""
    home = Home(tmp_path, config=telegram_config(telegram))
    said = [account.log_in(home, "-vv")]
    seen = [path.read_bytes() for path in files_below(home.path / "state")]
    said.append(home.run("-vv", "init").stderr)
    with Server(home, "-vv") as server:
        put(server, "file", 3, MIB)
        said.append(home.run("-vv", "sync", "--wait").stderr)
        seen += [path.read_bytes() for path in files_below(home.path / "state")]
        session = session_of(home)
        telegram.end_logins(account.phone, "401 SESSION_REVOKED")
        done = home.run("-vv", "sync", check=False)
        assert done.code == 3
        assert "Traceback" in done.stderr
        wrong = home.run("-vv", "auth", "--phone", f"+{account.phone}", input=f"{CODE}\nno\nno\nno\n", check=False)
        assert wrong.code == 3
        assert "Traceback" in wrong.stderr
        said += [done.stderr, wrong.stderr, account.log_in(home, "-vv"), server.terminate()]

    log = "\n".join(said)
    assert "telethon" in log, "Telethon's own log is off"
    seen += [path.read_bytes() for path in files_below(home.path) if path.name != "config.yaml"]
    everything = b"\0".join([log.encode(), *seen])
    for text in secrets(account, home, session):
        assert text not in everything


def session_of(home: Home) -> str:
    state = home.path / "state"
    login = load_login(state, unlock_local(state, Passphrase(home.passphrase)))
    assert login is not None
    return login.session


def secrets(account: Account, home: Home, *sessions: str) -> Iterator[bytes]:
    from telethon.sessions import StringSession

    for text in (account.phone, CODE, PASSWORD, API_HASH, home.passphrase):
        yield text.encode()
    for session in (*sessions, session_of(home)):
        key = StringSession(session).auth_key.key
        yield from (session[20:60].encode(), key[:32], key.hex()[:64].encode())
