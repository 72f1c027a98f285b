"""Users whose password is given as an Argon2id hash: one run for a login, however many requests."""

import re
import threading
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher

from tests.support.model_fs import ModelFileSystem
from tests.support.platform import SeededEntropy
from tests.support.waiting import wait_for
from tests.webdav.client import Client
from tests.webdav.conftest import PASSWORD, Served
from tests.webdav.test_auth import answer, basic, challenge
from tgdav.webdav import auth
from tgdav.webdav.auth import MAX_WAITING, Credentials, HashedLogins
from tgdav.webdav.errors import Refused

HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
HASH = HASHER.hash("j\u00f6rg's: secret")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords that an Argon2 run was spent on."""
    spent: list[bytes] = []
    real = auth.verify

    def counted(encoded: str, password: bytes) -> bool:
        spent.append(password)
        return real(encoded, password)

    monkeypatch.setattr(auth, "verify", counted)
    return spent


@pytest.fixture
def anna(serve: Callable[..., Served]) -> Client:
    """A connection without a login of its own, to a server that knows anna by a hash and tgdav by a password."""
    return serve(ModelFileSystem(), hashes={"anna": HASH}).client(login=None)


def pair(password: str, coding: str = "utf-8", user: str = "anna") -> bytes:
    return f"{user}:{password}".encode(coding)


@pytest.mark.usefixtures("no_delay")
def test_one_run_for_each_login(anna: Client, runs: list[bytes]) -> None:
    """A right login costs one run and then none, on whatever connection; a wrong one too."""
    right, wrong = basic(pair("j\u00f6rg's: secret")), basic(pair("wrong"))
    for _ in range(5):
        assert anna("GET", "/", Authorization=right).status == 200
        anna.close()
    for _ in range(2):
        assert anna("GET", "/", Authorization=wrong).status == 401
    assert len(runs) == 2


def test_each_encoding_of_a_client(runs: list[bytes]) -> None:
    """A hash is of UTF-8; what a client sends in Latin-1 is the same password."""
    credentials = Credentials({}, SeededEntropy(1), {"anna": HASH})
    for coding in ("utf-8", "latin-1", "utf-8", "latin-1"):
        assert credentials.check_pair(pair("j\u00f6rg's: secret", coding)) == "anna"
    assert runs == ["j\u00f6rg's: secret".encode()] * 2
    assert credentials.check_pair(pair(HASH)) is None
    assert credentials.check_pair(pair("j\u00f6rg's: secret", user="otto")) is None


@pytest.mark.usefixtures("no_delay")
def test_digest_answers_all_names_alike(anna: Client) -> None:
    """Digest needs what a hash does not give: that is said to whoever gives a wrong login, whatever the name in it."""
    nonce = challenge(anna)["nonce"]
    answers = []
    for user, password in (("anna", "j\u00f6rg's: secret"), ("otto", "x"), ("tgdav", "wrong")):
        reply = anna("GET", "/", Authorization=answer(nonce, "/", user=user, password=password))
        schemes = [re.sub('nonce="[^"]*"', "", value) for value in reply.headers["www-authenticate"]]
        answers.append((reply.status, schemes, reply.body, reply.headers.keys()))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == 401
    assert b"Basic only" in answers[0][2]
    assert anna("GET", "/", Authorization=answer(nonce, "/", password=PASSWORD, count=2)).status == 200


@pytest.mark.usefixtures("no_delay")
def test_each_wrong_name_costs_a_run(anna: Client, runs: list[bytes]) -> None:
    """A name that does not exist, one with a hash, one with a password known here: the same run and the same answer."""
    answers = []
    for user in ("anna", "otto", "tgdav"):
        reply = anna("GET", "/", Authorization=basic(pair("wrong", user=user)))
        schemes = [re.sub('nonce="[^"]*"', "", value) for value in reply.headers["www-authenticate"]]
        answers.append((reply.status, schemes, reply.body))
    assert answers[0] == answers[1] == answers[2]
    assert runs == [b"wrong"] * 3
    assert anna("GET", "/", Authorization=basic(pair(PASSWORD, user="tgdav"))).status == 200
    assert len(runs) == 3


def test_a_password_is_good_for_its_own_user_only() -> None:
    """The run for a name that does not exist is made with another's hash; its password lets nobody in by another name."""
    credentials = Credentials({"tgdav": "x"}, SeededEntropy(1), {"anna": HASH})
    for user in ("otto", "tgdav", "", "Anna"):
        assert credentials.check_pair(pair("j\u00f6rg's: secret", user=user)) is None


def test_digest_is_not_offered_where_it_can_work_for_nobody(serve: Callable[..., Served]) -> None:
    client = serve(ModelFileSystem(), passwords={}, hashes={"anna": HASH}).client(login=None)
    assert client("GET", "/").headers["www-authenticate"] == ['Basic realm="tgdav", charset="UTF-8"']
    nonce = challenge(serve(ModelFileSystem()).client(login=None))["nonce"]
    assert client("GET", "/", Authorization=answer(nonce, "/", user="otto", password="x")).status == 401
    assert client("GET", "/", Authorization=basic(pair("j\u00f6rg's: secret"))).status == 200


class Held:
    """Stands in for Argon2: runs wait until they are let go, and are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_work = self.most = 0
        self.order: list[bytes] = []
        self.go_on = threading.Event()
        self.outcomes: list[object] = []
        self._threads: list[threading.Thread] = []
        monkeypatch.setattr(auth, "verify", self._run)

    def _run(self, _encoded: str, password: bytes) -> bool:
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        self.go_on.wait(30)
        self.order.append(password)
        self.at_work -= 1
        return password == b"right"

    def ask(self, logins: HashedLogins, user: str, password: bytes, peer: str = "") -> None:
        """Ask in a thread of its own, and return once it waits."""

        def run() -> None:
            try:
                self.outcomes.append(logins.check(user, password, password + user.encode(), peer))
            except Refused as refused:
                self.outcomes.append((peer, refused.status))

        before = (logins._turns.waiting, self.at_work, len(self.outcomes))
        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        wait_for(lambda: (logins._turns.waiting, self.at_work, len(self.outcomes)) != before)

    def finish(self) -> None:
        self.go_on.set()
        for thread in self._threads:
            thread.join()


def test_many_wrong_logins_do_not_refuse_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 guesses at once from one peer, then the first right login: nobody is told to come again, and it is among the next."""
    held = Held(monkeypatch)
    logins = HashedLogins({"anna": HASH})
    for number in range(24):
        held.ask(logins, "anna" if number % 2 else f"user{number}", b"%d" % number)
    held.ask(logins, "anna", b"right")
    held.finish()
    assert sorted(map(bool, held.outcomes)) == [False] * 24 + [True]
    assert held.most == 1
    assert held.order.index(b"right") <= 2
    assert held.order.index(b"1") <= 4
    assert logins.check("anna", b"not looked at", b"rightanna")


def test_no_peer_keeps_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers have turns: behind as many as may wait from one, another's login is the next; the flood's last is refused."""
    held = Held(monkeypatch)
    logins = HashedLogins({"anna": HASH})
    for number in range(1 + MAX_WAITING):
        held.ask(logins, "anna", b"%d" % number, "192.0.2.1")
    held.ask(logins, "anna", b"one more", "192.0.2.1")
    assert held.outcomes == [("192.0.2.1", 503)]
    held.ask(logins, "anna", b"right", "192.0.2.2")
    wait_for(lambda: held.outcomes == [("192.0.2.1", 503)] * 2)
    held.finish()
    assert held.order.index(b"right") <= 2
    assert held.outcomes.count(True) == 1
    assert held.outcomes.count(False) == MAX_WAITING
    assert held.most == 1


def test_who_is_known_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    logins = HashedLogins({"anna": HASH})
    assert logins.check("anna", "j\u00f6rg's: secret".encode(), b"right")
    held = Held(monkeypatch)
    for number in range(1 + MAX_WAITING):
        held.ask(logins, "anna", b"%d" % number)
    assert logins.check("anna", b"not looked at", b"right")
    held.finish()


def test_few_answers_are_kept(runs: list[bytes]) -> None:
    """Guessing does not fill the memory, and does not push out who was right."""
    logins = HashedLogins({"anna": HASH})
    assert logins.check("anna", "j\u00f6rg's: secret".encode(), b"right")
    for number in range(1100):
        assert not logins.check("anna", b"%d" % number, b"%d" % number)
    assert len(logins._known) == 1024
    assert logins.check("anna", b"not looked at", b"right")
    assert len(runs) == 1101
